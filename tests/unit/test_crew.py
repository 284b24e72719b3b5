"""The processes that a command answers for, without processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from plesio.records import Version
from plesio.runtime.crew import Crew
from plesio.wire import messages as m
from plesio.wire.channel import Channel

STATUS = m.Status(Version(1, 1), Version(1, 1), "sync", 0, 0, None, (0, 0), 1, 1, (), (), "", 0)


class NoCrew(Crew):
    """Hears what the coordinator would say."""

    def hear(self, trouble: str) -> None:
        status = m.Status(*(getattr(STATUS, name) for name in STATUS.__struct_fields__[:-1]), trouble)
        self._on_message(Channel.__new__(Channel), m.encode(status), None)


def test_tasks_that_are_done_are_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        crew = NoCrew(tmp_path, [], "token", print)
        for _ in range(100):
            crew.spawn(asyncio.sleep(0))
        await asyncio.sleep(0.01)
        assert not crew.tasks and crew.error is None

    asyncio.run(scenario())


def test_trouble_with_the_folder_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    crew = NoCrew(tmp_path, [], "token", said.append)
    for trouble in ("", "cannot write x", "cannot write x", "", "cannot write x"):
        crew.hear(trouble)
    assert said == ["cannot write x; the run goes on"] * 2

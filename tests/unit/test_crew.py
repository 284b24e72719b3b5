"""The processes that a command answers for, without processes."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import msgspec
import pytest

from plesio.cli.launch import _leave_report
from plesio.core.spec import RunSpec
from plesio.records import Version
from plesio.runtime import faults
from plesio.runtime.crew import Crew
from plesio.runtime.supervisor import Plan, Supervisor
from plesio.strategies.presets import Sync
from plesio.strategies.schedule import Schedule
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
        async with asyncio.timeout(60):
            while crew.tasks:
                await asyncio.sleep(0)
        assert crew.error is None

    asyncio.run(scenario())


def test_trouble_with_the_folder_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    crew = NoCrew(tmp_path, [], "token", said.append)
    for trouble in ("", "cannot write x", "cannot write x", "", "cannot write x"):
        crew.hear(trouble)
    assert said == ["cannot write x; the run goes on"] * 2


def test_a_process_that_could_not_say_that_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = NoCrew(tmp_path, ["coordinator", "learner-0"], "token", print)
    assert "the script ended with an error" in str(crew._script_error(crew.children["learner-0"]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 0))
    for child in crew.children.values():
        words = str(crew._script_error(child))
        assert child.name in words and str(tmp_path) in words and "is full; free some space" in words


def test_a_report_that_cannot_be_written_does_not_hide_what_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.jsonl").write_text('{"type":"CoordinatorStarted","unix_s":1.0,"pid":1}\n')
    (tmp_path / "summary.json").mkdir()  # in its way
    assert _leave_report(tmp_path)["coordinator_restarts"] == 0
    assert "cannot write the report" in capsys.readouterr().err and not list(tmp_path.glob("*.tmp"))


def test_each_fault_has_its_own_time_and_one_that_meets_nobody_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = faults.parse("kill learner-0 at 3600s; kill learner-1 at 0s; stop all at 1000 tokens for 0s", 2)
    said: list[str] = []

    async def scenario() -> None:
        plan = Plan(
            spec=RunSpec(run="r", learners=2, schedule=Schedule.of(Sync())), run_dir=tmp_path, token="t", faults=asked
        )
        crew = Supervisor(plan, print, said.append)
        crew.children["synchronizer"].id, crew.children["learner-0"].id = "1", "2"
        sent: list[tuple[str, int]] = []
        monkeypatch.setattr(crew.launcher, "signal", lambda *what: sent.append(what))
        crew.inject()
        async with asyncio.timeout(60):
            while not said:
                await asyncio.sleep(0.01)
            assert said == ["fault: SIGKILL to learner-1 met nobody: it was not running just then"] and not sent
            crew._on_message(
                Channel.__new__(Channel), m.encode(msgspec.structs.replace(STATUS, merged_tokens=1000)), None
            )
            while len(sent) < 4:
                await asyncio.sleep(0.01)
        assert sent == [("1", signal.SIGSTOP), ("2", signal.SIGSTOP), ("1", signal.SIGCONT), ("2", signal.SIGCONT)]
        assert crew.error is None

    asyncio.run(scenario())

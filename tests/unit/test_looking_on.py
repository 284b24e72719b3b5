"""What `plesio top` and `plesio doctor` depend on, when a run or a machine does not give them much time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from plesio.clock import SystemClock
from plesio.core import effects as e
from plesio.core.spec import RunSpec
from plesio.records import Version
from plesio.runtime import probe
from plesio.runtime.coordinator import Coordinator
from plesio.strategies.presets import Sync
from plesio.strategies.schedule import Schedule
from plesio.wire import messages as m


def test_who_looks_on_has_the_last_status_with_the_end_of_the_run(tmp_path: Path) -> None:
    spec = RunSpec(run="r", learners=1, schedule=Schedule.of(Sync()))
    coordinator = Coordinator(tmp_path, spec, "", SystemClock())
    coordinator.state.durable.spec, coordinator.state.durable.finished = spec, "all units applied"
    said: list[Any] = []

    class Watcher:
        def send(self, body: bytes) -> None:
            said.append(m.decode("from", body))

    coordinator.watchers.add(Watcher())  # type: ignore[arg-type]
    coordinator._carry_out([e.EndRun(Version(1, 7), "all units applied")])
    assert [type(each) for each in said] == [e.EndRun, m.Status] and said[1].finished == "all units applied"


def test_a_link_is_measured_also_when_all_the_time_for_it_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Prober:
        async def ask(self, up_bytes: int = 0, down_bytes: int = 0) -> probe.Exchange:
            return probe.Exchange(m.Probed(1, 0.0, "", "r", None), 0.0, 0.5, up_bytes, down_bytes)

    monkeypatch.setattr(probe, "MEASURE_S", -1.0)
    link = asyncio.run(probe.measure(Prober()))  # type: ignore[arg-type]
    assert min(link.up_bytes_per_s, link.down_bytes_per_s) > 0

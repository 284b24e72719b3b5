"""A crash before each commit, after it, and after each effect: the same state, and the run goes on to the same end."""

from __future__ import annotations

import msgspec
import pytest

from plesio.core import stimuli as s
from plesio.core.state import Durable
from plesio.sim.cluster import Cluster
from plesio.sim.coordinator import SimCoordinator
from plesio.sim.world import Killed, Process
from plesio.strategies.presets import Async, Decoupled, Sync
from plesio.strategies.schedule import Schedule
from plesio.strategies.text import parse

SCHEDULES = {
    "sync": Schedule.of(Sync()),
    "decoupled": Schedule.of(Decoupled(every=2), Sync(), 3),
    "async": Schedule.of(Async()),
    "there and back": parse("decoupled(every=2) until rounds=3; sync until tokens=14; async until rounds=16; sync"),
}
UNITS = 20

encode = msgspec.msgpack.Encoder().encode
handle = SimCoordinator.handle


class CrashAt:
    """A run whose n-th point (of whichever process) is a crash; None: no crash, all points are counted."""

    def __init__(self, name: str, n: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = Cluster(7, SCHEDULES[name], learners=2, units=UNITS)
        self.n = n
        self.points: list[str] = []
        self.before = encode(Durable())  # the state before the stimulus that is being handled
        monkeypatch.setattr(self.cluster.faults, "point", self.point)

        def noting(coordinator: SimCoordinator, stimulus: s.Stimulus) -> None:
            self.before = encode(coordinator.state.durable)
            handle(coordinator, stimulus)

        monkeypatch.setattr(SimCoordinator, "handle", noting)
        self.cluster.run()

    def point(self, process: Process, where: str) -> None:
        self.points.append(where)
        if len(self.points) - 1 != self.n:
            return
        if isinstance(process, SimCoordinator):
            expected = self.before if where == "before commit" else encode(process.state.durable)
            assert encode(process.journal.fold()) == expected, "what recovery finds is another state"
        self.cluster.kill(process)
        raise Killed


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_crash_at_every_single_point_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = CrashAt(name, None, monkeypatch).points
    assert set(points) >= {"before commit", "after commit", "after effect", "before snapshot", "synchronizer tells"}
    for n, where in enumerate(points):
        try:
            crash = CrashAt(name, n, monkeypatch)
        except AssertionError as error:
            raise AssertionError(f"crash at point {n} ({where}): {error}") from error
        assert crash.points[: n + 1] == points[: n + 1]
        durable = crash.cluster.journal.fold()
        assert (durable.book.done, durable.book.partial, len(durable.book.tasks)) == (UNITS, 0, 0)
        assert durable.finished and durable.committed == durable.merged
    print(f"{len(points)} crash points")

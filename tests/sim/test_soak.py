"""Two hours of virtual time with faults all along: nothing that a process keeps grows with the run's length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from plesio.core import facts as f
from plesio.core.state import Durable
from plesio.reporting.eventlog import EventLog
from plesio.reporting.events import read_events
from plesio.reporting.summary import summarise
from plesio.sim.cluster import Cluster
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule

HOURS = 2.0
SAMPLE_S = 20.0  # virtual
FAULTS_PER_EVENT = 0.0005
THIN_BYTES = 1 << 18
SPEEDS = {"sync": (1.0, 2.5), "decoupled": (0.4, 1.0)}  # seconds of a step

encode = msgspec.msgpack.Encoder().encode


class Soak:
    """A run without end. Owns its samples: (name -> size), every SAMPLE_S."""

    def __init__(self, cluster: Cluster, log: EventLog) -> None:
        self.cluster = cluster
        self.log = log
        self.samples: list[dict[str, int]] = []
        self.facts = 0
        commit, compare = cluster.journal.on_commit, cluster.reference.compare

        def noted(facts: list[f.Fact]) -> None:
            commit(facts)
            log.add(log.written + 1, 1.0 + cluster.world.now_s, facts)
            log.thin_if_large(cluster.reference.shadow)
            self.facts += len(facts)

        def now_and_then(durable: Durable) -> None:
            if cluster.world.events % 50 == 0:
                compare(durable)

        cluster.journal.on_commit = noted
        cluster.reference.compare = now_and_then  # type: ignore[method-assign]

    def run(self) -> None:
        for sample in range(1, int(HOURS * 3600 / SAMPLE_S) + 1):
            assert not self.cluster.world.run(sample * SAMPLE_S, lambda: False)
            self.samples.append(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Bytes of states and files; elsewhere how many things are kept."""
        cluster = self.cluster
        coordinator, synchronizer = cluster.coordinator, cluster.synchronizer
        assert coordinator is not None and synchronizer is not None
        volatile = coordinator.state.volatile
        sizes = {
            "durable state": len(encode(coordinator.state.durable)),
            "journal": cluster.journal.size_bytes,
            "events.jsonl": self.log.size_bytes,
            "peers": len(coordinator.peers) + len(cluster.network.connections),
            "estimates": len(volatile.pulses) + len(volatile.asking) + len(volatile.told) + len(volatile.leaving),
            "pushes held": len(synchronizer.held) + len(synchronizer.history) + len(synchronizer.waiting),
            "names": len(synchronizer.merged) + len(synchronizer.admitted) + len(synchronizer.subscribers),
        }
        for name, learner in cluster.learners.items():
            book = learner.book
            sizes[f"{name}'s book"] = len(book.parts) + len(book.in_flight) + len(book.unsent.ended | book.unsent.begun)
            kept = (learner.unsent, learner.pushes, learner.units, learner.done_steps, learner.arrivals.stashed)
            sizes[f"{name}'s work"] = sum(map(len, kept))
        return sizes

    def most(self, name: str, part: Callable[[int], bool]) -> int:
        return max(sample[name] for at, sample in enumerate(self.samples) if part(at))


@pytest.mark.parametrize("strategy", ["sync", "decoupled"])
def test_nothing_grows_in_two_hours(strategy: str, tmp_path: Path) -> None:
    schedule = Schedule.of(Sync()) if strategy == "sync" else Schedule.of(Decoupled(every=8), Sync(), 20)
    cluster = Cluster(5, schedule, 2, 10**9, steps=3, faults=10**9, rate=FAULTS_PER_EVENT, speeds=SPEEDS[strategy])
    soak = Soak(cluster, EventLog(tmp_path, THIN_BYTES))
    soak.run()
    quarter = len(soak.samples) // 4
    first, last = (lambda at: at < quarter), (lambda at: at >= 3 * quarter)
    table = {name: (soak.most(name, first), soak.most(name, last)) for name in soak.samples[0]}
    print(soak.facts, cluster.reference.summary(), dict(cluster.faults.counts), table, sep="\n")
    for name, (early, late) in table.items():
        limit = THIN_BYTES + 4096 if name == "events.jsonl" else early + early // 4 + 4
        assert late <= limit, f"{name} grew from {early} in the first quarter to {late} in the last"
    assert sum(cluster.faults.counts.values()) > 50 and cluster.reference.committed_number > 100
    told = summarise(read_events(tmp_path), [])
    book = cluster.reference.shadow.book
    assert (told["units"]["issued"], told["units"]["applied"]) == (book.issued, book.done)
    assert (
        told["units"]["lost"] == told["units"]["duplicated"] == 0 and told["tokens"] == cluster.reference.shadow.tokens
    )

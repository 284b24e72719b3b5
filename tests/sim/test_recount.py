"""What summary.json counts from the facts alone is what the ledger counted, whatever broke."""

from __future__ import annotations

import pytest

from plesio.core import facts as f
from plesio.reporting.events import Event, event_line, parse
from plesio.reporting.story import tell
from plesio.sim.cluster import Cluster
from plesio.strategies.presets import Decoupled, Sync

SEEDS = 24


def events_of(cluster: Cluster) -> list[Event]:
    """Runs it to its end: the lines of its events.jsonl."""
    events: list[Event] = []
    commit = cluster.journal.on_commit

    def noted(facts: list[f.Fact]) -> None:
        commit(facts)
        for fact in facts:
            event = parse(event_line(len(cluster.journal.batches), 1.0 + cluster.world.now_s, fact).encode())
            assert event is not None
            events.append(event)

    cluster.journal.on_commit = noted
    cluster.run()
    return events


def cluster_of(seed: int) -> Cluster:
    schedule = Sync() if seed % 2 else Decoupled(every=4, start_rounds=5)
    return Cluster(seed, schedule, learners=2 + seed % 3, units=60, steps=1 + 2 * (seed // 2 % 2), faults=40)


@pytest.mark.parametrize("part", range(2))
def test_the_recount_of_the_units_is_the_ledgers(part: int) -> None:
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        cluster = cluster_of(seed)
        story = tell(events_of(cluster))
        book = cluster.journal.fold().book
        assert story.units.counts(story.finished) == {
            "issued": book.issued,
            "applied": book.done,
            "partial": book.partial,
            "reissued": book.reissued,
            "lost": 0,
            "duplicated": 0,
        }, f"seed {seed}"

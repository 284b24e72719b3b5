"""What summary.json counts from the facts alone is what the ledger counted, whatever broke."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.core import facts as f
from plesio.reporting.eventlog import EventLog
from plesio.reporting.events import Event, event_line, parse, read_events
from plesio.reporting.story import tell
from plesio.reporting.summary import summarise
from plesio.runtime.follow import RunFolder
from plesio.sim.cluster import Cluster
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule

SEEDS = 24


def events_of(cluster: Cluster) -> list[Event]:
    """Runs it to its end: the lines of its events.jsonl."""
    events: list[Event] = []
    commit = cluster.journal.on_commit

    def noted(facts: list[f.Fact]) -> None:
        commit(facts)
        for fact in facts:
            event = parse(event_line(len(events) + 1, 1.0 + cluster.world.now_s, fact).encode())
            assert event is not None
            events.append(event)

    cluster.journal.on_commit = noted
    cluster.run()
    return events


def cluster_of(seed: int) -> Cluster:
    schedule = Schedule.of(Sync()) if seed % 2 else Schedule.of(Decoupled(every=4), Sync(), 5)
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


@pytest.mark.parametrize("seed", range(8))
def test_a_thinned_log_tells_the_same_totals(seed: int, tmp_path: Path) -> None:
    cluster = cluster_of(seed)
    log, follower, whole = EventLog(tmp_path, thin_bytes=16_000), RunFolder(tmp_path), list[Event]()
    commit = cluster.journal.on_commit

    def noted(facts: list[f.Fact]) -> None:
        commit(facts)
        seq, unix_s = log.written + 1, 1.0 + cluster.world.now_s
        whole.extend(parse(event_line(seq, unix_s, fact).encode()) or {} for fact in facts)
        log.add(seq, unix_s, facts)
        log.thin_if_large(cluster.reference.shadow)
        if seq % 7 == 0:
            follower.look(unix_s)

    cluster.journal.on_commit = noted
    cluster.run()
    told = summarise(read_events(tmp_path), [])
    assert told.pop("events_left_out") > 0
    plain = summarise(whole, [])
    plain.pop("events_left_out")
    assert told == plain
    status = follower.look(1.0 + cluster.world.now_s)
    assert follower.state.durable == cluster.reference.shadow
    assert status is not None and status.faults == plain["faults"]

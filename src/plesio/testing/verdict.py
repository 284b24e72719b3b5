"""Is what a run left behind right, whatever happened to it? Read from its journal by the simulator's reference.

`problems` is empty for a run that is right. Nothing here starts or signals a process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from plesio.core import facts as f
from plesio.core.state import Durable
from plesio.errors import PlesioError
from plesio.reporting.events import Event, fact_of, read_events
from plesio.reporting.summary import summarise
from plesio.runtime.journal import RUN, Journal
from plesio.runtime.outerstate import digest
from plesio.sim.check import Reference
from plesio.stores.sqlite import SqliteStore
from plesio.testing.injector import Bite

Batches = list[list[f.Fact]]


def batches_of(events: Iterable[Event]) -> Batches:
    """The facts of events.jsonl, as they were journaled: one list a transaction."""
    told = [(event["seq"], fact) for event in events if (fact := fact_of(event)) is not None]
    return [[fact for _, fact in batch] for _, batch in groupby(told, key=lambda pair: pair[0])]


def ledger_problems(batches: Batches, kept: Durable | None = None) -> list[str]:
    """I1 and I2 of a finished run, from its facts alone; kept: the state that its journal folds to.

    Every unit applied exactly once (or partial), no version committed twice, numbers that only grow.
    """
    started = next((fact for batch in batches for fact in batch if isinstance(fact, f.RunStarted)), None)
    declared = next((fact for batch in batches for fact in batch if isinstance(fact, f.DatasetDeclared)), None)
    if started is None or declared is None:
        return ["the run has no beginning"]
    reference = Reference(started.spec.schedule, steps=1)
    try:
        for batch in batches:
            reference.committed(batch)
        reference.check_all_counted(declared.dataset)
        assert not reference.partial, f"a unit of one step is never partial: {sorted(reference.partial)}"
        assert reference.finished, "the run did not finish"
        if kept is not None:
            reference.compare(kept)
    except (AssertionError, KeyError, PlesioError) as error:
        return [f"{type(error).__name__}: {str(error)[:500]}"]
    return []


def problems(run_dir: Path) -> list[str]:
    """What is wrong with what a finished run left."""
    if not (run_dir / "journal.db").exists():
        return ["the run left no journal"]
    events = read_events(run_dir)
    batches = batches_of(events)
    found = ledger_problems(batches, asyncio.run(_folded(run_dir)))
    units = summarise(events, [])["units"]
    if units["lost"] or units["duplicated"]:
        found.append(f"the report counts {units['lost']} units lost and {units['duplicated']} duplicated")
    commits = [fact for batch in batches for fact in batch if isinstance(fact, f.VersionCommitted)]
    snapshot = run_dir / commits[-1].snapshot if commits else None
    if snapshot is None or not snapshot.is_file() or digest(snapshot.read_bytes()) != commits[-1].digest:
        found.append("the last committed snapshot is not on the disk as it was journaled")
    return found


async def _folded(run_dir: Path) -> Durable:
    store = SqliteStore(run_dir / "journal.db")
    await store.open()
    try:
        return (await Journal(store, 0, RUN).load())[0]
    finally:
        await store.close()


def traces_missing(events: list[Event], bites: Iterable[Bite]) -> list[str]:
    """Deaths that the journal does not know of."""
    return [f"{bite.what}: the journal has no trace of {name}" for bite in bites for name in bite.killed
            if _back_unix_s(events, name, bite.unix_s) is None and not _ended(events, name, bite.unix_s)]  # fmt: skip


def _ended(events: list[Event], name: str, after_unix_s: float) -> bool:
    ends = [e for e in events if e["type"] == "MemberEnded" and e["name"] == name]
    return any(e["unix_s"] >= after_unix_s and e["reason"] in ("killed", "replaced") for e in ends)


def recovery_s(events: list[Event], bite: Bite) -> float | None:
    """Seconds from a fault until all that died is back and a version is merged; None: the run ended before."""
    backs = [_back_unix_s(events, name, bite.unix_s) for name in bite.killed]
    since = [bite.until_unix_s]
    for back in backs:
        if back is None:
            return None
        since.append(back)
    merged = [e["unix_s"] for e in events if e["type"] == "VersionMerged" and e["unix_s"] >= max(since)]
    return round(merged[0] - bite.unix_s, 2) if merged else None


_BACK: dict[str, tuple[str, Any]] = {
    "coordinator": ("LeaderElected", lambda event, name: True),
    "synchronizer": ("SynchronizerSeen", lambda event, name: True),
}


def _back_unix_s(events: list[Event], name: str, after_unix_s: float) -> float | None:
    """When this process was first seen again."""
    kind, is_it = _BACK.get(name, ("MemberJoined", lambda event, name: event["name"] == name))
    seen = [e["unix_s"] for e in events if e["type"] == kind and e["unix_s"] >= after_unix_s and is_it(e, name)]
    return seen[0] if seen else None

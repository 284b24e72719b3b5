"""What a pool's journal says of a run that is over: was anything lost, recorded twice, or out of order?"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from plesio.core.pool import facts as f
from plesio.core.pool.book import Call
from plesio.core.pool.state import Durable, apply
from plesio.core.taskbook import TaskState
from plesio.policies.aging import Aging
from plesio.runtime.journal import POOL, Journal
from plesio.stores.sqlite import SqliteStore

ORDER = Aging()  # of a pool


def read_facts(folder: Path) -> list[f.AnyFact]:
    """All facts, in order; of a journal that was never compacted."""

    async def read() -> list[f.AnyFact]:
        store = SqliteStore(folder / "journal.db")
        await store.open()
        try:
            assert await store.get_snapshot() is None, "facts were compacted away"
            journal: Journal[Any, Durable] = Journal(store, 0, POOL)
            return [fact for _, _, facts in await journal.since(0) for fact in facts]
        finally:
            await store.close()

    return asyncio.run(read())


def troubles(facts: list[f.AnyFact]) -> list[str]:
    """What must not be, in words; empty when all is well.

    Each task ends once. Whatever is leased was the oldest of its lane that nobody had and that might begin, and no task of
    another priority that the same slots may take came before it.
    """
    state, ends, found = Durable(), Counter[int](), []
    for fact in facts:
        if isinstance(fact, f.TasksLeased):
            for id in fact.ids:
                found += _out_of_order(state, id)
                state.book.calls[id].due_s = 0.0
                apply(state, f.TasksLeased(fact.slot, (id,)))
            continue
        apply(state, fact)
        if isinstance(fact, (f.TasksDone, f.TasksCancelled)):
            ends.update(fact.ids)
        elif isinstance(fact, f.TaskDied):
            ends[fact.id] += 1
    found += [f"task {id} ended {times} times" for id, times in ends.items() if times > 1]
    found += [f"task {call.id} is {call.state}" for call in state.book.calls.values() if not call.ended]
    return found


def _out_of_order(state: Durable, id: int) -> list[str]:
    call = state.book.calls[id]
    head = state.book.lane(call.recipe).head()
    if call.state is not TaskState.READY:
        return [f"task {id} is leased while it is {call.state}"]
    if head is not None and head.order < call.order:
        return [f"task {id} is leased before {head.id}, which came before it"]
    return _overtakes(state, call)


def _overtakes(state: Durable, call: Call) -> list[str]:
    """Is it leased before another of its queue, or for the same slots, whose priority and age are before its own?"""
    own, found = state.book.lane(call.recipe), []
    for lane in state.book.lanes.values():
        head = lane.head()
        rivals = lane.requires == own.requires and (own.for_slots or lane.queue == own.queue)
        if head is None or not rivals:
            continue
        settings = state.book.queues[lane.queue].settings
        if settings.paused or settings.rate_per_s > 0:
            continue
        if ORDER.rank(lane.priority, head.at_s) < ORDER.rank(own.priority, call.at_s):
            found.append(f"task {call.id} of priority {own.priority} is leased before {head.id} of {lane.priority}")
    return found

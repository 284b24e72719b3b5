"""What a client may ask of a pool: its tasks, queues, workers and locks just now, as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core.pool.book import Call
from plesio.core.pool.places import BARRIER
from plesio.core.pool.recipe import id_of, name_of
from plesio.core.pool.turn import State
from plesio.wire.poolmessages import Ask, Told

LISTED = 200  # tasks, or locks, told at once


def answer(state: State, ask: Ask) -> Told:
    """Never raises for what a peer may ask."""
    view = _VIEWS.get(ask.what)
    if view is None:
        return Told(ask.number, b"", f"{ask.what!r} is not known; ask for one of {', '.join(_VIEWS)}")
    try:
        return Told(ask.number, msgspec.json.encode(view(state, ask.argument)))
    except (ValueError, LookupError) as error:
        return Told(ask.number, b"", str(error))


def _row(call: Call) -> dict[str, Any]:
    return {
        "id": name_of(call.id),
        "fn": call.recipe.fn,
        "state": str(call.state),
        "queue": call.recipe.queue,
        "priority": call.recipe.priority,
        "worker": call.owner,
        "attempts": call.attempts + call.crashes + call.losses,
        "kind": call.kind,
        "message": call.message[-2000:],
    }


def _tasks(state: State, which: str) -> list[dict[str, Any]]:
    """The newest of a state; '': of all."""
    rows = []
    for call in reversed(state.durable.book.calls.values()):
        if not which or call.state == which:
            rows.append(_row(call))
            if len(rows) == LISTED:
                break
    return rows


def _task(state: State, name: str) -> dict[str, Any]:
    call = state.durable.book.calls.get(id_of(name))
    if call is None:
        raise LookupError(f"task {name} is not known (any more); `plesio tasks ls` shows those that are")
    return _row(call) | {
        "needs": [name_of(need) for need in call.needs],
        "result_bytes": len(call.result),
        "args_bytes": len(call.args),
    }


def _queues(state: State, _: str) -> list[dict[str, Any]]:
    book = state.durable.book
    running = Counter(call.recipe.queue for held in book.leases.values() for call in held.values())
    return [
        {"name": name, "waiting": queue.waiting, "running": running[name], **msgspec.structs.asdict(queue.settings)}
        for name, queue in book.queues.items()
    ]


def _workers(state: State, _: str) -> list[dict[str, Any]]:
    seats, leases = state.volatile.seats, state.durable.book.leases
    return [
        {
            "slot": slot.name,
            "node": slot.node,
            "connected": slot.name in seats,
            "tasks": len(leases.get(slot.name, ())),
            "tags": dict(slot.tags),
            "speed": round(seats[slot.name].speed, 3) if slot.name in seats else None,
        }
        for slot in state.durable.slots.values()
    ]


def _counts(state: State, _: str) -> dict[str, int]:
    book = state.durable.book
    ended = {str(key): count for key, count in book.counts.items() if count}
    waiting = sum(queue.waiting for queue in book.queues.values())
    return {"waiting": waiting, "running": sum(map(len, book.leases.values())), **ended}


def _queue(state: State, name: str) -> dict[str, Any]:
    return {"name": name, **msgspec.structs.asdict(state.durable.book.queue(name).settings)}


def _waiting(state: State, name: str) -> int:
    queue = state.durable.book.queues.get(name)
    return queue.waiting if queue is not None else 0


def _peek(state: State, argument: str) -> list[str]:
    """'COUNT QUEUE': the next messages, in hexadecimal digits."""
    count, _, name = argument.partition(" ")
    lanes = [lane for lane in state.durable.book.lanes.values() if lane.queue == name and not lane.for_slots]
    rank = state.policies.order.rank
    calls = [call for lane in lanes for call in lane.first(min(int(count), LISTED))]
    calls.sort(key=lambda call: (rank(call.recipe.priority, call.at_s), call.order))
    return [call.args.hex() for call in calls[: int(count)]]


def _locks(state: State, _: str) -> list[dict[str, Any]]:
    """The first of those that somebody holds or waits for, and of counters, events and barriers."""
    places, waits = state.durable.places, state.volatile.waits
    past = {(BARRIER, name): passed.generation for name, passed in places.barriers.items()}
    keys = list(dict.fromkeys((*places.places, *waits.queues, *places.values, *past)))[:LISTED]
    return [
        {
            "kind": key[0],
            "name": key[1],
            "value": places.values.get(key, past.get(key)),
            "holders": [
                {"client": hold.client, "owner": hold.owner, "token": hold.token, "shared": hold.shared}
                for hold in places.places.get(key, {}).values()
            ],
            "waiting": [
                {"client": waiter.client, "owner": waiter.owner, "shared": waiter.shared} for waiter in waits.line(key)
            ],
        }
        for key in keys
    ]


_VIEWS: dict[str, Callable[[State, str], Any]] = {
    "tasks": _tasks, "task": _task, "queues": _queues, "workers": _workers, "counts": _counts, "queue": _queue,
    "waiting": _waiting, "peek": _peek, "locks": _locks,
}  # fmt: skip

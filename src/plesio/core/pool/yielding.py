"""Tasks that hold their slot for long leave it for those of a higher priority, and have it again later. Pure.

They are asked to leave, not killed: a learner of a training run sends what it has first. Whoever left waits from then on,
as a new task would, so that it does not take its slot back from the one that it left it for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from plesio.core.pool import effects as e
from plesio.core.pool.book import Call, Lane
from plesio.core.pool.schedule import cost_s, fits, may_begin, rank
from plesio.core.pool.turn import Seat, Turn

PATIENCE_S = 0.5  # a task waits so long before somebody is asked to leave for it
TENURE_S = 5.0  # ... who has been there for so long at least
AGAIN_S = 5.0  # what is asked may be lost
WORTH_S = 1.0  # one slot is left for so much work that is known to be short


def ask_to_yield(turn: Turn) -> None:
    """As many of the least urgent as are needed by those that wait."""
    seats, asked = turn.volatile.seats, turn.volatile.yielding
    for slot in [slot for slot, (id, _) in asked.items() if slot not in seats or id not in seats[slot].tasks]:
        del asked[slot]
    holders = dict(_holders(turn))
    lanes = [lane for lane in turn.book.lanes.values() if lane.for_slots and _waits(turn, lane)]
    for lane in sorted(lanes, key=lambda lane: rank(turn, lane)):
        able = [slot for slot, call in holders.items() if _may_have(turn, lane, seats[slot], call)]
        able.sort(key=lambda slot: (slot not in asked, holders[slot].recipe.priority, -seats[slot].progress_s))
        for slot in able[: _wanted(turn, lane)]:
            _ask(turn, seats[slot], holders.pop(slot))


def _holders(turn: Turn) -> Iterator[tuple[str, Call]]:
    """Slots whose task yields."""
    for slot, seat in turn.volatile.seats.items():
        call = turn.book.leases.get(slot, {}).get(next(iter(seat.tasks), 0))
        if call is not None and call.recipe.yields_s > 0 and not seat.leaving:
            yield slot, call


def _waits(turn: Turn, lane: Lane) -> bool:
    head = lane.head()
    return head is not None and turn.now_s - max(head.at_s, head.due_s) >= PATIENCE_S and may_begin(turn, lane)


def _may_have(turn: Turn, lane: Lane, seat: Seat, call: Call) -> bool:
    """May this lane have the slot that the call holds?"""
    head = lane.head()
    assert head is not None
    return call.recipe.priority < lane.priority and fits(turn, seat, lane, head)


def _wanted(turn: Turn, lane: Lane) -> int:
    """How many slots it could use."""
    head = lane.head()
    assert head is not None
    cost = cost_s(turn, head.recipe)
    return len(lane) if cost is None else min(len(lane), max(1, math.ceil(len(lane) * cost / WORTH_S)))


def _ask(turn: Turn, seat: Seat, call: Call) -> None:
    _, asked_s = turn.volatile.yielding.get(seat.name, (0, -math.inf))
    if turn.now_s - seat.progress_s < TENURE_S or turn.now_s - asked_s < AGAIN_S:
        return
    turn.volatile.yielding[seat.name] = (call.id, turn.now_s)
    incarnation = turn.durable.slots[seat.name].incarnation
    turn.order(e.StopTask(seat.node, seat.name, incarnation, call.id, call.recipe.yields_s))
    turn.order(e.Revoke(seat.name, (call.id,)))

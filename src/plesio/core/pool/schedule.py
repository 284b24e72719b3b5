"""Which tasks go to which slots now. Pure.

A slot gets its next tasks before it asks for them, as far as they are known to be short: about WINDOW_S of work, and one
task of up to SHORT_S (to wait for us would cost some percent of it). A long task never waits behind another one.
"""

from __future__ import annotations

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool.book import Call, Lane
from plesio.core.pool.recipe import Recipe
from plesio.core.pool.turn import Bucket, Seat, Turn
from plesio.core.taskbook import TaskState

WINDOW_S = 0.004  # work that a slot has in front of it
LONG_S = 1e6  # a task that yields its slot takes long
SHORT_S, OFTEN = 0.02, 8  # one task that takes no longer, by so many measurements, waits at a slot that is busy
WINDOW = 128  # ... in tasks at most
BURST = 4096  # tasks dealt in one turn at most, so that messages are read in between


def schedule(turn: Turn) -> None:
    """Deals what may begin to slots with room."""
    turn.book.wake(turn.now_s)
    seats = [seat for seat in turn.volatile.seats.values() if _is_open(turn, seat)]
    lanes = [lane for lane in turn.book.lanes.values() if lane.for_slots and may_begin(turn, lane)]
    dealt = 0
    while lanes and seats and dealt < BURST:
        lanes.sort(key=lambda lane: rank(turn, lane))
        lane = lanes[0]
        given = _deal(turn, lane, seats, rank(turn, lanes[1]) if len(lanes) > 1 else None)
        dealt += given
        head = lane.head()
        if not given and head is not None:  # it waits for one of these to be idle: nothing that is after it goes there
            seats = [seat for seat in seats if not fits(turn, seat, lane, head)]
        lanes = [lane for lane in lanes[not given :] if may_begin(turn, lane)]
    for key in [key for key, lane in turn.book.lanes.items() if lane.head() is None]:
        del turn.book.lanes[key]


def may_begin(turn: Turn, lane: Lane) -> bool:
    """Has it anything, and is its queue neither paused nor at its rate?"""
    if lane.head() is None:
        return False
    settings = turn.book.queues[lane.queue].settings
    return not settings.paused and _allowed(turn, lane.queue, settings.rate_per_s) > 0


def _allowed(turn: Turn, queue: str, rate_per_s: float) -> int:
    """How many of its tasks may begin now, by its rate."""
    if rate_per_s <= 0:
        return WINDOW
    most = max(1.0, rate_per_s * 0.1)
    bucket = turn.volatile.buckets.setdefault(queue, Bucket(1.0, turn.now_s))
    bucket.tokens = min(most, bucket.tokens + max(0.0, turn.now_s - bucket.at_s) * rate_per_s)
    bucket.at_s = turn.now_s
    return int(bucket.tokens)


def rank(turn: Turn, lane: Lane) -> tuple[float, int]:
    """Of its head: the lower, the sooner. It has one."""
    head = lane.head()
    assert head is not None
    return turn.policies.order.rank(lane.priority, head.at_s), head.order


def _deal(turn: Turn, lane: Lane, seats: list[Seat], until: tuple[float, int] | None) -> int:
    """Gives the lane's next tasks to one slot: as many as have room there, but not all to one of several. How many."""
    head = lane.head()
    assert head is not None
    each_s, often = cost_s(turn, head.recipe), turn.volatile.seen.get(head.recipe.fn, 0) >= OFTEN
    able = [seat for seat in seats if fits(turn, seat, lane, head) and _has_room(seat, each_s, often)]
    if not able:
        return 0
    turn.volatile.choices += 1
    seat = able[turn.policies.placement.choose(able, each_s or 0.0, turn.volatile.choices)]
    share = max(1, len(lane) // (2 * len(able)))
    rate_per_s = turn.book.queues[lane.queue].settings.rate_per_s
    most = min(share, _allowed(turn, lane.queue, rate_per_s))
    calls: list[Call] = []
    recipe = head.recipe
    if not seat.tasks:
        seat.progress_s = turn.now_s
    while len(calls) < most and _has_room(seat, each_s, often):
        call = lane.head()
        if call is None or call.recipe is not recipe:
            break
        if until is not None and calls and (turn.policies.order.rank(lane.priority, call.at_s), call.order) > until:
            break
        lane.take()
        calls.append(call)
        seat.tasks[call.id] = each_s or 0.0
        seat.backlog_s += each_s or 0.0
    turn.emit(f.TasksLeased(seat.name, tuple([call.id for call in calls])))
    turn.runs.setdefault(seat.name, []).extend(calls)
    if rate_per_s > 0:
        turn.volatile.buckets[lane.queue].tokens -= len(calls)
    return len(calls)


def cost_s(turn: Turn, recipe: Recipe) -> float | None:
    """Seconds that a slot is taken by one call; None: not known yet. Concurrent ones share it."""
    if recipe.fn in turn.volatile.concurrent:
        return 0.0
    return LONG_S if recipe.yields_s > 0 else turn.volatile.costs_s.get(recipe.fn)


def fits(turn: Turn, seat: Seat, lane: Lane, head: Call) -> bool:
    """Does the slot offer what the lane requires, and the function?"""
    if not seat.offers(lane.requires):
        return False
    return not turn.volatile.unfit or (seat.node, head.recipe.fn) not in turn.volatile.unfit


def _has_room(seat: Seat, cost_s: float | None, often: bool) -> bool:
    """An idle slot always has, and one of the pool's own; another one for what is known to be short. often: well known?"""
    if not seat.tasks or seat.own:
        return True
    if cost_s is None or len(seat.tasks) >= WINDOW:
        return False
    one_more = often and len(seat.tasks) == 1 and max(seat.backlog_s, cost_s) <= SHORT_S
    return seat.backlog_s + cost_s <= WINDOW_S or one_more


def _is_open(turn: Turn, seat: Seat) -> bool:
    """May it get anything?"""
    return not seat.leaving and len(seat.tasks) < WINDOW and not _is_stuck(turn, seat)


def _is_stuck(turn: Turn, seat: Seat) -> bool:
    """Is it at a task for longer than expected? One that runs many at a time has begun them all."""
    if seat.own or not turn.policies.stealing.is_stuck(len(seat.tasks), turn.now_s - seat.progress_s):
        return False
    first = turn.book.calls.get(next(iter(seat.tasks)))
    return first is None or first.recipe.fn not in turn.volatile.concurrent


def rebalance(turn: Turn) -> None:
    """Work stealing: what waits behind a task that takes long is taken back, and dealt again."""
    for seat in turn.volatile.seats.values():
        if len(seat.tasks) > 1 and _is_stuck(turn, seat):
            leases = turn.book.leases.get(seat.name, {})
            ids = tuple(id for id in list(seat.tasks)[1:] if id in leases)
            for id in list(seat.tasks)[1:]:
                seat.drop(id)
            if ids:
                turn.order(e.Revoke(seat.name, ids))
                turn.emit(f.TasksReturned(seat.name, ids, "taken back"))


def speculate(turn: Turn) -> None:
    """A straggler's second copy runs on an idle slot, on a tenth of the slots at most. The first result counts.

    Source: LATE, Zaharia 2008.
    """
    seats, copies = turn.volatile.seats, turn.volatile.copies
    policy = turn.policies.speculation
    room = policy.room(len(seats), len(copies))
    idle = [seat for seat in seats.values() if not seat.tasks and not seat.leaving]
    if room <= 0 or not idle:
        return
    late: list[tuple[float, Call]] = []
    for seat in seats.values():
        id = next(iter(seat.tasks), 0)
        call = turn.book.calls.get(id)
        if call is None or call.state is not TaskState.LEASED or call.owner != seat.name or id in copies:
            continue
        if call.recipe.yields_s > 0:  # two of it would be two members of its run
            continue
        usual_s = None if call.recipe.fn in turn.volatile.concurrent else turn.volatile.costs_s.get(call.recipe.fn)
        spent_s = turn.now_s - seat.progress_s
        if usual_s is not None and policy.is_straggler(usual_s, spent_s):
            late.append((spent_s, call))
    for _, call in sorted(late, key=lambda x: -x[0])[:room]:
        lane = turn.book.lane(call.recipe)
        able = [seat for seat in idle if fits(turn, seat, lane, call)]
        if not able:
            continue
        seat = max(able, key=lambda seat: seat.speed)
        idle.remove(seat)
        copies[call.id] = seat.name
        seat.tasks[call.id] = turn.volatile.costs_s[call.recipe.fn]
        seat.progress_s = turn.now_s
        turn.runs.setdefault(seat.name, []).append(call)

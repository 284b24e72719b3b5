"""Which units are dealt to whom, and what becomes of them when a worker or a version is lost. Pure reads.

I1: a unit is applied, partial or re-issued; never two of them.
"""

from __future__ import annotations

import math

from plesio.core.state import Durable, Member, ids, spans
from plesio.core.taskbook import TaskState
from plesio.records import Contribution, Span, Version

MAX_COUNT = 1 << 48  # tokens or steps of a push
MAX_SPANS = 1 << 14  # of units, that a push may name


def next_units(state: Durable, count: int) -> tuple[Span, ...]:
    """Up to `count` units that nobody holds: those that came back first, then new ones.

    Towards the end of the data nobody gets more than half of its share, so that all end together.
    """
    assert state.dataset is not None
    count = min(count, _half_share(state) or count)
    chosen = [t.id for t in state.book.in_state(TaskState.READY)[:count]]
    epoch, index = state.data_epoch, state.cursor
    while len(chosen) < count and not _past_end(state, epoch):
        chosen.append((epoch, index))
        index += 1
        if index == state.dataset.units:
            epoch, index = epoch + 1, 0
    return spans(chosen)


def _half_share(state: Durable) -> int:
    """Half of what each learner would get of the rest of the data; 0: there is no end of it."""
    assert state.dataset is not None
    if not state.dataset.epochs:
        return 0
    new = (state.dataset.epochs - state.data_epoch) * state.dataset.units - state.cursor
    left = max(0, new) + len(state.book.in_state(TaskState.READY))
    return max(1, -(-left // (2 * max(1, sum(m.live for m in state.members.values())))))


def _past_end(state: Durable, epoch: int) -> bool:
    assert state.dataset is not None
    return bool(state.dataset.epochs) and epoch >= state.dataset.epochs


def exhausted(state: Durable) -> bool:
    """Have all units of all epochs been dealt, and none come back?"""
    if state.dataset is None or not _past_end(state, state.data_epoch):
        return False
    return not state.book.in_state(TaskState.READY)


def settled(state: Durable, closing: frozenset[tuple[str, int, int]] = frozenset()) -> bool:
    """Is every unit dealt and merged, once the pushes in `closing` are?"""
    return exhausted(state) and all(
        t.state is TaskState.MERGED or (t.state is TaskState.HELD and (t.owner, t.generation, t.seq) in closing)
        for t in state.book.tasks.values()
    )


def given_back(state: Durable, member: Member) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """(to the pool, partial) when this generation ends now. What it sent stays with the synchronizer."""
    mine = state.book.owned(member.name, member.generation, TaskState.LEASED)
    return spans(t.id for t in mine if not t.touched), spans(t.id for t in mine if t.touched)


def rolled_back(state: Durable) -> tuple[tuple[Span, ...], tuple[Span, ...], tuple[Span, ...]]:
    """(to the pool, with their learner again, partial) when all that is not committed is lost now.

    Partial: an earlier push, which is committed, holds a part of the unit.

    A delta that was held and not merged is still with its learner, if that lives: it will send it again. A
    gradient is not: it belongs to a version that is gone.
    """
    assert state.committed is not None
    back = [t.id for t in state.book.in_state(TaskState.MERGED)]
    again: list[tuple[int, int]] = []
    deltas = state.timeline.back_to(state.committed.number).at(state.committed.number + 1).sends == "delta"
    for task in state.book.in_state(TaskState.HELD):
        member = state.members[task.owner]
        alive = member.live and member.generation == task.generation
        (again if alive and deltas and not task.incomplete else back).append(task.id)
    uncommitted = {p for closed in state.provisional for p in closed.pushes}
    uncommitted |= {(c.contributor, c.generation, c.seq) for c in state.held}
    tasks = state.book.tasks
    partial = {i for i in back if (t := tasks[i]).touched and (t.owner, t.generation, t.touched) not in uncommitted}
    return spans(set(back) - partial), spans(again), spans(partial)


def refused_units(state: Durable, push: Contribution) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """(to the pool, partial: an earlier push holds a part) when this push is refused: all units that it names."""
    mine = {t.id: t for t in state.book.owned(push.contributor, push.generation, TaskState.LEASED)}
    named = [task for task in mine.values() if _names(push, task.id)]
    return spans(t.id for t in named if not t.touched), spans(t.id for t in named if t.touched)


def is_known(state: Durable, push: Contribution) -> bool:
    """Is it held for a round, or in one that is not committed?"""
    key = (push.contributor, push.generation, push.seq)
    held = any((c.contributor, c.generation, c.seq) == key for c in state.held)
    return held or any(key in closed.pushes for closed in state.provisional)


def lacks_leases(state: Durable, push: Contribution) -> bool:
    """Does it name units that its sender does not hold?"""
    mine = {t.id for t in state.book.owned(push.contributor, push.generation, TaskState.LEASED)}
    if sum(max(0, x.stop - x.start) for x in (*push.ended, *push.begun)) > 2 * len(mine):
        return True  # said before they are counted out one by one: a span may claim any length
    return not set(ids((*push.ended, *push.begun))) <= mine


def _names(push: Contribution, unit: tuple[int, int]) -> bool:
    return any(x.epoch == unit[0] and x.start <= unit[1] < x.stop for x in (*push.ended, *push.begun))


def malformed(push: Contribution) -> str:
    """What is wrong with what a push says of itself, whoever sent it; '' when nothing is."""
    spans = (*push.ended, *push.begun)
    if len(push.bases) != 1 or push.seq < 1 or push.base.number < 0:
        return "it has no base or no number"
    if not 0 <= push.tokens < MAX_COUNT or not 0 <= push.steps < MAX_COUNT:
        return "its tokens or steps are no counts"
    if not (math.isfinite(push.step_s) and push.step_s >= 0.0):
        return "the time of its steps is none"
    if len(spans) > MAX_SPANS or any(x.epoch < 0 or not 0 <= x.start < x.stop for x in spans):
        return "its units are no units"
    return ""


def is_stale(state: Durable, base: Version) -> bool:
    """Is a gradient on this base too late for the next round?"""
    newest = state.closing.version if state.closing else state.merged
    return base != newest

"""Counters and events: numbers with a name that clients read and change, each change once; and what they heard. Pure."""

from __future__ import annotations

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.locks import MAX_NAME, MOST, NOBODY, is_full, is_over, over, serve, speaker
from plesio.core.pool.places import ADD, BARRIER, CHECK, COUNTER, EVENT, GET, PUT, Replies
from plesio.core.pool.retention import RETENTION_S
from plesio.core.pool.turn import Turn

LARGEST = 1 << 62
MOST_UNHEARD = 10_000  # answers kept for a client


def change(turn: Turn, stimulus: s.Change) -> None:
    """Once, however often it is said. A fence that does not stand any more keeps it from being done."""
    client, session, number = speaker(turn, stimulus.session), stimulus.session, stimulus.number
    if client is None:
        return
    known, here = _answers(turn, client.number, session)
    if number in known.answers:
        turn.order(e.Answer(session, number, known.answers[number]))
    elif not (known.over(number) or is_over(number, here)):
        outcome, new = _decided(turn, stimulus, len(known.answers) + len(here.answers))
        if new is None:
            over(turn, session, number)
        else:
            turn.emit(f.ValueSet(client.number, number, stimulus.kind, stimulus.name, new))
        turn.order(outcome)
        if new is not None:
            serve(turn, (stimulus.kind, stimulus.name))


def _answers(turn: Turn, client: int, session: str) -> tuple[Replies, Replies]:
    """What it may not have heard, of changes, and of what changed nothing."""
    return turn.durable.places.replies.get(client, NOBODY), turn.volatile.answered.get(session, NOBODY)


def _decided(turn: Turn, stimulus: s.Change, unheard: int) -> tuple[e.Effect, int | None]:
    """What to say, and the new value if it changes."""
    session, number, key = stimulus.session, stimulus.number, (stimulus.kind, stimulus.name)
    if stimulus.fence and stimulus.fence not in turn.durable.places.holds:
        return e.Refuse(session, number, e.LOST, _lost(stimulus)), None
    if stimulus.how == CHECK:
        return e.Answer(session, number, 0), None
    value = turn.durable.places.values.get(key, 0)
    new = {ADD: value + stimulus.amount, PUT: stimulus.amount, GET: value}.get(stimulus.how)
    reason = _unsound(turn, stimulus, new) if unheard < MOST_UNHEARD else f"{unheard} answers to you wait to be heard"
    if reason or new is None:
        return e.Refuse(session, number, e.WRONG, reason), None
    if stimulus.expected not in (None, value) or new == value:
        return e.Answer(session, number, value, stimulus.expected in (None, value)), None
    return e.Answer(session, number, new), new


def _lost(stimulus: s.Change) -> str:
    undone = "" if stimulus.how == CHECK else f", so {stimulus.kind} {stimulus.name!r} was not changed"
    return f"token {stimulus.fence} is held no more{undone}: it was released, or the pool heard nothing of its holder"


def _unsound(turn: Turn, stimulus: s.Change, new: int | None) -> str:
    """Why it cannot be done; '' when it can."""
    if stimulus.kind not in (COUNTER, EVENT) or new is None or not 0 < len(stimulus.name) <= MAX_NAME:
        return f"counters and events have names of up to {MAX_NAME} characters, and are read, set or added to"
    if stimulus.kind == EVENT and new not in (0, 1):
        return "an event is set or not"
    if abs(new) > LARGEST:
        return f"counter {stimulus.name!r} would be {new}; the largest is {LARGEST}"
    if new and (stimulus.kind, stimulus.name) not in turn.durable.places.values and is_full(turn):
        return f"a pool knows {MOST} counters, events and barriers at most; set some to 0"
    return ""


def heard(turn: Turn, stimulus: s.Heard) -> None:
    """Its answers need not be kept."""
    client = speaker(turn, stimulus.session)
    if client is None or len(stimulus.but) > MOST_UNHEARD:
        return
    known, here = _answers(turn, client.number, stimulus.session)
    if stimulus.upto >= here.upto:
        turn.volatile.answered[stimulus.session] = here.after(stimulus.upto, stimulus.but)
    if stimulus.upto >= known.upto and len(known.after(stimulus.upto, stimulus.but).answers) < len(known.answers):
        turn.emit(f.AnswersHeard(client.number, stimulus.upto, stimulus.but))


def forget_barriers(turn: Turn) -> None:
    """Those that nobody passed for a day, and nobody waits at."""
    old_s, waits = turn.now_s - RETENTION_S, turn.volatile.waits
    barriers = turn.durable.places.barriers.items()
    gone = tuple(name for name, past in barriers if past.at_s < old_s and (BARRIER, name) not in waits.queues)
    if gone:
        turn.emit(f.BarriersForgotten(gone))

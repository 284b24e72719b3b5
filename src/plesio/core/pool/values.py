"""Counters and events: numbers with a name that clients read and change, each change once; and what they heard. Pure."""

from __future__ import annotations

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.locks import MAX_NAME, MOST, NOBODY, is_full, serve, speaker
from plesio.core.pool.places import ADD, BARRIER, CHECK, COUNTER, EVENT, GET, PUT
from plesio.core.pool.retention import RETENTION_S
from plesio.core.pool.turn import Turn

LARGEST = 1 << 62
MOST_UNHEARD = 10_000  # answers kept for a client


def change(turn: Turn, stimulus: s.Change) -> None:
    """Once, however often it is said. A fence that does not stand any more keeps it from being done."""
    client, session, number = speaker(turn, stimulus.session), stimulus.session, stimulus.number
    if client is None:
        return
    known, answered = turn.durable.places.replies.get(client.number, NOBODY), turn.volatile.answered.get(session, set())
    if number in known.answers:
        turn.order(e.Answer(session, number, known.answers[number]))
    elif not known.over(number) and number not in answered:
        if stimulus.fence and stimulus.fence not in turn.durable.places.holds:
            turn.order(e.Refuse(session, number, e.LOST, f"token {stimulus.fence} is held no more"))
        elif stimulus.how == CHECK:
            turn.order(e.Answer(session, number, 0))
        elif len(known.answers) + len(answered) >= MOST_UNHEARD:
            turn.order(e.Refuse(session, number, e.WRONG, f"{MOST_UNHEARD} answers to you wait to be heard"))
        else:
            _change(turn, client.number, stimulus)


def _change(turn: Turn, client: int, stimulus: s.Change) -> None:
    session, number, key = stimulus.session, stimulus.number, (stimulus.kind, stimulus.name)
    value = turn.durable.places.values.get(key, 0)
    new = {ADD: value + stimulus.amount, PUT: stimulus.amount, GET: value}.get(stimulus.how)
    reason = _unsound(turn, stimulus, new)
    if reason or new is None:
        turn.order(e.Refuse(session, number, e.WRONG, reason))
    elif stimulus.expected not in (None, value) or new == value:
        turn.volatile.answered.setdefault(session, set()).add(number)  # if it comes twice, it must not do something then
        turn.order(e.Answer(session, number, value, stimulus.expected in (None, value)))
    else:
        turn.emit(f.ValueSet(client, number, *key, new))
        turn.order(e.Answer(session, number, new))
        serve(turn, key)


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
    client = turn.durable.clients.get(stimulus.session)
    known = turn.durable.places.replies.get(client.number, NOBODY) if client is not None else NOBODY
    if client is None or stimulus.upto < known.upto or len(stimulus.but) > MOST_UNHEARD:
        return
    waits, answered = set(stimulus.but), turn.volatile.answered.get(stimulus.session, set())
    answered.difference_update([n for n in answered if n <= stimulus.upto and n not in waits])
    if any(n <= stimulus.upto and n not in waits for n in known.answers):
        turn.emit(f.AnswersHeard(client.number, stimulus.upto, stimulus.but))


def forget_barriers(turn: Turn) -> None:
    """Those that nobody passed for a day, and nobody waits at."""
    old_s, waits = turn.now_s - RETENTION_S, turn.volatile.waits
    barriers = turn.durable.places.barriers.items()
    gone = tuple(name for name, past in barriers if past.at_s < old_s and (BARRIER, name) not in waits.queues)
    if gone:
        turn.emit(f.BarriersForgotten(gone))

"""Locks, read-write locks and semaphores that clients hold, and waits for them, for events and for barriers. Pure.

Granted in order of arrival, each time with a greater token. Waits are not durable: a client says them again. How long
something is held is told in leases.py.
"""

from __future__ import annotations

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.places import (
    BARRIER,
    EVENT,
    HELD,
    LEASE_S,
    LOCK,
    RWLOCK,
    SEMAPHORE,
    Hold,
    Key,
    Passed,
    Replies,
    admits,
)
from plesio.core.pool.state import Client
from plesio.core.pool.turn import Turn
from plesio.core.pool.waits import Owner, Step, Waiter, cycle

MAX_NAME = 400
MOST = 100_000  # holds at a time, and counters, events and barriers with a past
MOST_WAITS = 10_000
NOBODY = Replies()


def speaker(turn: Turn, session: str) -> Client | None:
    """The client that says this, which is alive; None when it is not connected."""
    client = turn.durable.clients.get(session)
    return client if client is not None and session in turn.volatile.online else None


def want(turn: Turn, stimulus: s.Want) -> None:
    """Granted in order of arrival; at once, when nobody is in the way."""
    client, session, number = speaker(turn, stimulus.session), stimulus.session, stimulus.number
    if client is None:
        return
    places, waits = turn.durable.places, turn.volatile.waits
    hold, known = places.mine.get(client.number, {}).get(number), places.replies.get(client.number, NOBODY)
    here = turn.volatile.answered.get(session, NOBODY)
    if hold is not None:
        turn.order(e.Granted(session, number, hold.token))
    elif number in known.answers:
        turn.order(e.Answer(session, number, known.answers[number]))
    elif not (known.over(number) or is_over(number, here) or (session, number) in waits.tickets):
        waiter = Waiter(
            session, number, stimulus.kind, stimulus.name, client.number, stimulus.owner, stimulus.shared, stimulus.limit,
        )  # fmt: skip
        reason = _unsound(turn, waiter)
        if reason:
            _refuse(turn, session, number, e.WRONG, reason)
        elif _is_newest(turn, waiter):
            _line_up(turn, waiter, stimulus.wait)
    turn.volatile.alive_s[client.number] = turn.now_s + LEASE_S


def _is_newest(turn: Turn, waiter: Waiter) -> bool:
    """An owner waits for one thing at a time: an earlier wait of it was given up, though that was not heard yet."""
    earlier = turn.volatile.waits.owners.get(waiter.who)
    if earlier is None:
        return True
    if earlier.number > waiter.number:
        return False
    turn.volatile.waits.remove((earlier.session, earlier.number))
    serve(turn, earlier.key)
    return True


def _line_up(turn: Turn, waiter: Waiter, wait: bool) -> None:
    waits, ticket = turn.volatile.waits, (waiter.session, waiter.number)
    waits.add(waiter)
    serve(turn, waiter.key)
    if ticket not in waits.tickets:
        return
    if not wait:
        waits.remove(ticket)
        _refuse(turn, *ticket, e.BUSY, f"{_called(waiter.key)} is not free")
    elif waiter.kind in HELD and (steps := cycle(turn.durable.places, waits, waiter)):
        waits.remove(ticket)
        _refuse(turn, *ticket, e.DEADLOCK, _told(steps))


def _refuse(turn: Turn, session: str, number: int, why: str, reason: str) -> None:
    over(turn, session, number)
    turn.order(e.Refuse(session, number, why, reason))


def is_over(number: int, here: Replies) -> bool:
    """See `over`. here: of its connection."""
    return here.over(number) or number in here.answers


def over(turn: Turn, session: str, number: int) -> None:
    """It changed nothing, or is withdrawn: if it comes again on this connection, it must not do anything."""
    turn.volatile.answered.setdefault(session, Replies()).answers[number] = 0


def _unsound(turn: Turn, waiter: Waiter) -> str:
    """Why nobody can wait for this; '' when one can."""
    if not 0 < len(waiter.name) <= MAX_NAME or not 0 < len(waiter.owner) <= MAX_NAME:
        return f"a lock and its owner have names of up to {MAX_NAME} characters"
    sound = {
        LOCK: not waiter.shared and waiter.limit == 1,
        RWLOCK: waiter.limit == 0,
        SEMAPHORE: waiter.shared and 1 <= waiter.limit <= MOST,
        EVENT: True,
        BARRIER: 1 <= waiter.limit <= MOST_WAITS,
    }
    if not sound.get(waiter.kind, False):
        return f"a semaphore has 1 to {MOST} parts, a barrier 1 to {MOST_WAITS} parties"
    waits, places, key = turn.volatile.waits, turn.durable.places, waiter.key
    used = next(iter(places.places.get(key, {}).values()), None) or waits.first(key)
    if waiter.kind != EVENT and used is not None and used.limit != waiter.limit:
        return f"{_called(key)} is for {used.limit} while it is in use, not for {waiter.limit}"
    if len(waits.tickets) >= MOST_WAITS or len(places.holds) >= MOST:
        return f"a pool has {MOST} holds and {MOST_WAITS} waits at most; try again later"
    if waiter.kind == BARRIER and waiter.name not in places.barriers and is_full(turn):
        return f"a pool knows {MOST} counters, events and barriers at most"
    return ""


def is_full(turn: Turn) -> bool:
    """Are there as many names with a past as may be?"""
    return len(turn.durable.places.values) + len(turn.durable.places.barriers) >= MOST


def serve(turn: Turn, key: Key) -> None:
    """Those who wait there and need not any more."""
    waits = turn.volatile.waits
    first = waits.first(key)
    if first is None:
        return
    if first.kind == EVENT and turn.durable.places.values.get(key):
        for waiter in waits.line(key):
            waits.remove((waiter.session, waiter.number))
            turn.order(e.Answer(waiter.session, waiter.number, 1))
    elif first.kind == BARRIER and len(waits.queues[key]) >= first.limit:
        _pass(turn, key[1], waits.line(key))
    elif first.kind in HELD:
        _grant(turn, key)


def _grant(turn: Turn, key: Key) -> None:
    places, waits = turn.durable.places, turn.volatile.waits
    while (waiter := waits.first(key)) is not None:
        held = [hold.shared for hold in places.places.get(key, {}).values()]
        if not admits(held, waiter.shared, waiter.limit):
            return
        session, number, kind, name, client, owner, shared, limit = (
            getattr(waiter, field) for field in waiter.__struct_fields__
        )
        waits.remove((session, number))
        hold = Hold(places.token + 1, client, number, kind, name, owner, shared, limit)
        turn.emit(f.PlaceTaken(hold))
        turn.order(e.Granted(session, number, hold.token))


def _pass(turn: Turn, name: str, line: list[Waiter]) -> None:
    generation = turn.durable.places.barriers.get(name, Passed(0, 0.0)).generation
    parties = tuple((waiter.client, waiter.number) for waiter in line)
    turn.emit(f.BarrierPassed(name, generation, parties, turn.now_s))
    for waiter in line:
        turn.volatile.waits.remove((waiter.session, waiter.number))
        turn.order(e.Answer(waiter.session, waiter.number, generation))


def release(turn: Turn, stimulus: s.Release) -> None:
    """What is held is given back; what is waited for, withdrawn. One that holds nothing (any more) is told so."""
    client, session, number = speaker(turn, stimulus.session), stimulus.session, stimulus.number
    if client is None:
        return
    places = turn.durable.places
    known = places.replies.get(client.number, NOBODY)
    if number in known.answers:
        turn.order(e.Answer(session, number, known.answers[number]))
    elif not known.over(number):
        hold = places.mine.get(client.number, {}).get(stimulus.of)
        waiter = turn.volatile.waits.remove((session, stimulus.of))
        if hold is not None:
            turn.emit(f.PlaceReleased(hold.token, number))
        else:
            over(turn, session, stimulus.of)
        turn.order(e.Answer(session, number, hold.token if hold is not None else 0, hold is not None))
        for gone in (hold, waiter):
            if gone is not None:
                serve(turn, gone.key)


def _called(key: Key) -> str:
    return f"{key[0]} {key[1]!r}"


def _named(owner: Owner) -> str:
    return f"client {owner[0]} ({owner[1]})"


def _told(steps: list[Step]) -> str:
    words = [
        f"{_named(waiter.who)} would wait for {_called(waiter.key)}, "
        + (f"which {_named(other)} holds" if holds else f"behind {_named(other)}")
        for waiter, other, holds in steps
    ]
    return f"this wait would never end: {'; '.join(words)}. Give back what you hold first, or always take in one order"

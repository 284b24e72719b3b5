"""How long clients hold what they hold: until they are silent, or do not come back, for too long. Pure.

A lease is a client's: it says that it is alive, and keeps all it has. Waits end with it, so that nothing is granted to
one that is gone; one that lives is told so, and says them again.
"""

from __future__ import annotations

from collections.abc import Iterable

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.locks import serve, speaker
from plesio.core.pool.messages import GRACE_S
from plesio.core.pool.places import LEASE_S, Key
from plesio.core.pool.turn import State, Turn


def client_back(turn: Turn, session: str) -> None:
    """It has a new connection, and says again what it has no answer to."""
    turn.volatile.answered.pop(session, None)
    renew(turn, s.Renew(session))


def renew(turn: Turn, stimulus: s.Renew) -> None:
    """A sign of life of one whose lease has not run out."""
    client = speaker(turn, stimulus.session)
    if client is not None and client.number in turn.volatile.alive_s:
        turn.volatile.alive_s[client.number] = turn.now_s + LEASE_S


def client_lost(turn: Turn, session: str) -> None:
    """It waits for nothing for now, and has a while to come back for what it holds."""
    client = turn.durable.clients.get(session)
    if client is not None:
        alive_s = turn.volatile.alive_s
        if client.number in alive_s:
            alive_s[client.number] = min(alive_s[client.number], turn.now_s + GRACE_S)
        turn.volatile.answered.pop(session, None)
        _serve(turn, _withdraw(turn, session))


def recover(state: State, now_s: float) -> None:
    """After a restart, everybody who holds something has a whole lease to come back."""
    until_s = max(now_s, state.durable.latest_s) + LEASE_S
    state.volatile.alive_s = dict.fromkeys(state.durable.places.mine, until_s)


def end_silent(turn: Turn) -> None:
    """Those whose lease ran out; nothing is granted to another one of them."""
    late = [client for client, until_s in turn.volatile.alive_s.items() if turn.now_s > until_s]
    keys: list[Key] = []
    for client in late:
        online = turn.durable.sessions.get(client, "") in turn.volatile.online
        keys += _end(turn, client, "nothing was heard of it" if online else "it did not come back")
    _serve(turn, keys)


def end_client(turn: Turn, client: int, reason: str) -> None:
    """It has nothing any more."""
    _serve(turn, _end(turn, client, reason))


def _end(turn: Turn, client: int, reason: str) -> list[Key]:
    """Returns what others may have now."""
    turn.volatile.alive_s.pop(client, None)
    holds = list(turn.durable.places.mine.get(client, {}).values())
    if holds:
        turn.emit(f.PlacesLost(client, tuple(hold.token for hold in holds), reason))
    session = turn.durable.sessions.get(client, "")
    keys = [hold.key for hold in holds] + _withdraw(turn, session)
    if keys and session in turn.volatile.online:
        turn.order(e.Lapsed(session))
    return keys


def _withdraw(turn: Turn, session: str) -> list[Key]:
    waiters = turn.volatile.waits.of(session)
    for waiter in waiters:
        turn.volatile.waits.remove((session, waiter.number))
    return [waiter.key for waiter in waiters]


def _serve(turn: Turn, keys: Iterable[Key]) -> None:
    for key in dict.fromkeys(keys):
        serve(turn, key)

"""What is kept of tasks that have ended. Pure.

A result is kept until its client has it, for a day at most; then the last KEPT ones, for whoever asks what happened, but
none that is large.
"""

from __future__ import annotations

from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import HEAVY, client_of
from plesio.core.pool.turn import Turn

KEPT = 10_000
BATCH = 1000  # forgotten at once, so that it costs little
RETENTION_S = 86_400.0


def taken(turn: Turn, stimulus: s.Taken) -> None:
    """A client has these outcomes."""
    client, calls = turn.durable.clients.get(stimulus.session), turn.book.calls
    if client is None:
        return
    mine = [id for id in stimulus.ids if client_of(id) == client.number]  # whoever else has them, its own may not
    known = [calls[id] for id in mine if id in calls and calls[id].ended]
    turn.volatile.heavy.update(call.id for call in known if call.result[:1] == HEAVY)
    forget_heavy(turn)
    turn.volatile.taken.extend(call.id for call in known if call.result[:1] != HEAVY)


def forget_taken(turn: Turn) -> None:
    """Of what everybody has, the last KEPT stay."""
    count = len(turn.volatile.taken) - KEPT
    if count >= BATCH:
        _forget(turn, [turn.volatile.taken.popleft() for _ in range(count)])


def forget_heavy(turn: Turn) -> None:
    """Large results that their clients have, once no other task needs them."""
    free = [id for id in turn.volatile.heavy if id not in turn.book.pins]
    turn.volatile.heavy.difference_update(free)
    _forget(turn, free)


def forget_old(turn: Turn) -> None:
    """Ended so long ago that nobody will ask."""
    old_s = turn.now_s - RETENTION_S
    if old_s > 0:
        _forget(turn, [id for id, call in turn.book.calls.items() if call.ended and call.ended_s < old_s])


def _forget(turn: Turn, ids: list[int]) -> None:
    """Except those whose results are still needed; they are kept until they are a day old and asked for no more."""
    calls, pins = turn.book.calls, turn.book.pins
    gone = tuple([id for id in dict.fromkeys(ids) if id in calls and calls[id].ended and id not in pins])
    if gone:
        turn.emit(f.TasksForgotten(gone))

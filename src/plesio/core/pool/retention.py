"""What is kept of tasks that have ended. Pure.

A result is kept until its client has it, for a day at most; then the last KEPT ones, for whoever asks what happened.
"""

from __future__ import annotations

from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import client_of
from plesio.core.pool.turn import Turn

KEPT = 10_000
BATCH = 1000  # forgotten at once, so that it costs little
RETENTION_S = 86_400.0


def taken(turn: Turn, stimulus: s.Taken) -> None:
    """A client has these outcomes."""
    client, calls = turn.durable.clients.get(stimulus.session), turn.book.calls
    if client is None:
        return
    mine = [
        id for id in stimulus.ids if client_of(id) == client.number
    ]  # whoever else has them, its own client may not
    turn.volatile.taken.extend(id for id in mine if id in calls and calls[id].ended)
    if len(turn.volatile.taken) >= KEPT + BATCH:
        count = len(turn.volatile.taken) - KEPT
        _forget(turn, [turn.volatile.taken.popleft() for _ in range(count)])


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

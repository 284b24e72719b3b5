"""A pool's decisions: handle(state, now, stimuli) -> (facts, effects). Pure.

What reached the driver together is handled, journaled and carried out together. The state is the fold of the facts;
`volatile` holds estimates, and who is connected, that a restart may forget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plesio.core.facts import LeaderElected
from plesio.core.membership import Pulse
from plesio.core.pool import clients, leases, locks, messages, retention, schedule, values, work, yielding
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.turn import State, Turn, Volatile

TICK_S = 0.1  # between two looks at what is late
RETURN_S = 3.0  # nodes that lost their coordinator come back within so long, when it is there again
SWEEP_S = 600.0  # ... at what is old


def handle(state: State, now_s: float, stimuli: Sequence[s.Stimulus]) -> tuple[list[f.AnyFact], list[e.Effect]]:
    """Decides. Applies its own facts to `state`; the driver must journal them before acting on the effects."""
    turn = Turn(state, now_s)
    for stimulus in stimuli:
        _HANDLERS[type(stimulus)](turn, stimulus)
    turn.settle()
    schedule.schedule(turn)
    messages.deal(turn)
    retention.forget_taken(turn)
    if state.volatile.put_off:
        clients.call_again(turn)
    turn.finish()
    return turn.facts, turn.effects


def recover(state: State, now_s: float) -> None:
    """After a restart. Who is connected says so; who held something and does not come is silent, in a while.

    No effect is outstanding before its receiver connects: each is derived then, from what the receiver lacks.
    """
    state.volatile = Volatile()
    state.durable.book.line_up()
    for slot in state.durable.slots.values():
        state.volatile.pulses[slot.name] = Pulse(max(now_s, state.durable.latest_s) + RETURN_S)
    for client in state.durable.clients.values():
        if state.durable.book.leases.get(messages.owner_of(client.number)):
            state.volatile.gone_s[client.session] = max(now_s, state.durable.latest_s) + RETURN_S
    leases.recover(state, now_s)


def wake_s(state: State, now_s: float) -> float | None:
    """When to send the next Tick at the latest; None: when something comes."""
    volatile, book = state.volatile, state.durable.book
    times = []
    if book.delayed:
        times.append(book.delayed[0][0])
    if any(lane.queue in volatile.buckets for lane in book.lanes.values()):
        times.append(now_s + 0.02)
    if state.durable.slots or volatile.gone_s or volatile.alive_s or volatile.refusals.due_s() is not None:
        times.append(max(now_s, volatile.ticked_s + TICK_S))
    return min(times, default=None)


def _take_lead(turn: Turn, stimulus: s.TakeLead) -> None:
    turn.emit(LeaderElected(stimulus.epoch))


def _refused(turn: Turn, stimulus: s.Refused) -> None:
    turn.refuse(stimulus.who, stimulus.reason)


def _tick(turn: Turn, _: s.Tick) -> None:
    volatile = turn.volatile
    if 0 <= turn.now_s - volatile.ticked_s < TICK_S:
        return
    volatile.ticked_s = turn.now_s
    for fact in volatile.refusals.tell(turn.now_s):
        turn.emit(fact)
    work.end_silent(turn)
    messages.return_of_gone(turn)
    leases.end_silent(turn)
    schedule.rebalance(turn)
    schedule.speculate(turn)
    yielding.ask_to_yield(turn)
    if volatile.heavy:
        retention.forget_heavy(turn)
    if turn.now_s - volatile.swept_s > SWEEP_S:
        volatile.swept_s = turn.now_s
        retention.forget_old(turn)
        values.forget_barriers(turn)


_HANDLERS: dict[type, Callable[[Turn, Any], None]] = {
    s.TakeLead: _take_lead,
    s.ClientUp: clients.client_up,
    s.ClientLost: clients.client_lost,
    s.Submit: clients.submit,
    s.Await: clients.awaits,
    s.Taken: retention.taken,
    s.Cancel: clients.cancel,
    s.Revive: clients.revive,
    s.SetQueue: clients.set_queue,
    s.RemoveQueue: clients.remove_queue,
    s.NodeUp: work.node_up,
    s.NodeLost: work.node_lost,
    s.SlotUp: work.slot_up,
    s.SlotLost: work.slot_lost,
    s.SlotExited: work.slot_exited,
    s.Finished: work.finished,
    s.Failed: work.failed,
    s.Concurrent: work.concurrent,
    s.GaveBack: work.gave_back,
    s.SlotLeaves: work.slot_leaves,
    s.Take: messages.take,
    s.Settle: messages.settle,
    s.Publish: messages.publish,
    s.Subscribe: messages.subscribe,
    s.Want: locks.want,
    s.Release: locks.release,
    s.Change: values.change,
    s.Heard: values.heard,
    s.Renew: leases.renew,
    s.Refused: _refused,
    s.Tick: _tick,
}

"""What nodes and slots say: they come and go, finish, fail and give back. Pure."""

from __future__ import annotations

from plesio.core.membership import Pulse
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.book import Call
from plesio.core.pool.clients import MAX_NAME, end_alias, ended, stop_running
from plesio.core.pool.messages import CLIENT_OWNS
from plesio.core.pool.schedule import LONG_S
from plesio.core.pool.state import Slot
from plesio.core.pool.turn import Seat, Turn
from plesio.core.taskbook import TaskState
from plesio.policies.power_of_two import draw

BACKOFF_S, MAX_BACKOFF_S = 0.1, 60.0
BY_OTHERS = (outcome.CANCELLED, outcome.LOST, outcome.CRASHED)  # ends of a slot under a task that yields: not its fault
WEIGHT = 0.3  # of the newest measurement in a moving average


def node_up(turn: Turn, stimulus: s.NodeUp) -> None:
    """A sign of life of the node and of its slots; a slot of which it says nothing any more is gone."""
    alive = dict(stimulus.slots)
    turn.volatile.nodes.setdefault(stimulus.node, Pulse(turn.now_s)).beat(turn.now_s)
    for slot in [x for x in turn.durable.slots.values() if x.node == stimulus.node]:
        if alive.get(slot.name) == slot.incarnation:
            turn.pulse(slot.name).beat(turn.now_s)
        elif slot.name not in turn.volatile.seats:
            end_slot(turn, slot, "gone")
    for (name, incarnation), id in zip(stimulus.slots, stimulus.running, strict=False):
        call = turn.book.calls.get(id)
        if id and (call is None or call.ended):  # it was told to stop before it began, or that was lost
            turn.order(e.StopTask(stimulus.node, name, incarnation, id))


def node_lost(turn: Turn, stimulus: s.NodeLost) -> None:
    """Its slots go with it; those that are still connected are about to tell us."""
    turn.volatile.nodes.pop(stimulus.node, None)
    for slot in [x for x in turn.durable.slots.values() if x.node == stimulus.node]:
        if slot.name not in turn.volatile.seats:
            end_slot(turn, slot, "its node is gone")


def slot_up(turn: Turn, stimulus: s.SlotUp) -> None:
    """A slot connected; of a connection before, it keeps what it holds, and what it lacks is sent again."""
    if stimulus.slot.startswith(CLIENT_OWNS) or not 0 < len(stimulus.slot) <= MAX_NAME:
        turn.refuse("a slot", f"a slot's name has up to {MAX_NAME} characters and does not begin with {CLIENT_OWNS}")
        return
    known = turn.durable.slots.get(stimulus.slot)
    if known is not None and known.incarnation != stimulus.incarnation:
        end_slot(turn, known, "replaced")
        known = None
    if known is None:
        turn.emit(f.SlotJoined(stimulus.slot, stimulus.node, stimulus.incarnation, stimulus.tags))
    slot = turn.durable.slots[stimulus.slot]
    turn.volatile.pulses[slot.name] = Pulse(turn.now_s)
    seat = Seat(slot.name, slot.node, slot.tags, turn.now_s)
    turn.volatile.seats[slot.name] = seat
    _forget_copies(turn, slot.name)
    holds = set(stimulus.holds)
    leases = turn.book.leases.get(stimulus.slot, {})
    for id in stimulus.holds:
        if id not in leases:
            turn.order(e.Revoke(stimulus.slot, (id,)))
    for call in list(leases.values()):
        seat.tasks[call.id] = LONG_S if call.recipe.yields_s > 0 else 0.0
        seat.backlog_s += seat.tasks[call.id]
        if call.id not in holds:
            turn.runs.setdefault(stimulus.slot, []).append(call)


def slot_lost(turn: Turn, stimulus: s.SlotLost) -> None:
    """Its connection ended. Its node, if we still hear it, knows what became of the process, and says so."""
    slot = _known(turn, stimulus.slot, stimulus.incarnation)
    if slot is None:
        return
    seat = turn.volatile.seats.pop(slot.name, None)
    if slot.node not in turn.volatile.nodes or (seat is not None and seat.exited):
        end_slot(turn, slot, "lost")


def slot_exited(turn: Turn, stimulus: s.SlotExited) -> None:
    """Its process is gone: the task it was at is to blame, the others are not.

    Of one that was at none, its last results may still be on their way: it ends with its connection.
    """
    slot = _known(turn, stimulus.slot, stimulus.incarnation)
    if slot is None:
        return
    seat = turn.volatile.seats.get(slot.name)
    if seat is not None and not stimulus.running:
        seat.exited = seat.leaving = True
        return
    call = turn.book.leases.get(slot.name, {}).get(stimulus.running)
    if call is not None:
        fail(turn, call, slot.name, stimulus.kind, stimulus.message)
    end_slot(turn, slot, stimulus.kind, blameless=call is not None)


def end_slot(turn: Turn, slot: Slot, reason: str, blameless: bool = False) -> None:
    """What it had waits again. The first of it was probably running: one that takes slots down must not do so for ever."""
    turn.volatile.seats.pop(slot.name, None)
    turn.volatile.pulses.pop(slot.name, None)
    _forget_copies(turn, slot.name)
    turn.volatile.unfit.clear()  # who had a function may be gone: the others are asked anew
    held = list(turn.book.leases.get(slot.name, {}).values())
    if held:
        suspect = None if blameless or held[0].recipe.yields_s > 0 else held[0]
        if suspect is not None and suspect.losses + 1 >= outcome.LOSSES:
            message = f"its worker was lost {outcome.LOSSES} times while it ran"
            die(turn, suspect, slot.name, outcome.LOST, message)
            held.remove(suspect)
            suspect = None
        if held:
            ids = tuple(call.id for call in held)
            turn.emit(f.TasksReturned(slot.name, ids, "lost", suspect.id if suspect else 0))
    turn.emit(f.SlotEnded(slot.name, slot.incarnation, reason))


def _forget_copies(turn: Turn, slot: str) -> None:
    for id in [id for id, copy in turn.volatile.copies.items() if copy == slot]:
        del turn.volatile.copies[id]


def finished(turn: Turn, stimulus: s.Finished) -> None:
    """Results. The first one of a task counts, whoever it comes from."""
    if turn.durable.slots.get(stimulus.slot) is None or len(stimulus.ids) != len(stimulus.results):
        return
    _measure(turn, stimulus)
    calls, seat = turn.book.calls, turn.volatile.seats.get(stimulus.slot)
    fresh = {id: result for id, result in zip(stimulus.ids, stimulus.results, strict=True) if _wanted(calls.get(id))}
    if seat is not None:
        seat.progress_s = turn.now_s
        for id in stimulus.ids:
            seat.drop(id)
    if not fresh:
        return
    copies = turn.volatile.copies
    for id in fresh:
        if calls[id].owner != stimulus.slot or (copies and id in copies):
            stop_running(turn, calls[id], stimulus.slot)
    dependents = turn.book.dependents
    waiting = [id for id in fresh if id in dependents] if dependents else []
    needy = [other for id in waiting for other in dependents[id]]
    turn.emit(f.TasksDone(stimulus.slot, tuple(fresh), tuple(fresh.values()), turn.now_s))
    for id in fresh:
        turn.tell(calls[id])
    for other in needy:
        dependent = calls.get(other)
        if dependent is not None and dependent.state is TaskState.WAITING and not dependent.recipe.fn:
            end_alias(turn, dependent)


def _wanted(call: Call | None) -> bool:
    return call is not None and not call.ended


def _measure(turn: Turn, stimulus: s.Finished) -> None:
    """How long calls take, and how fast this slot is beside the others."""
    n = len(stimulus.ids)
    call = turn.book.calls.get(stimulus.ids[0]) if n else None
    if call is None or not 0 <= stimulus.busy_s < 1e9:
        return
    fn, cost_s = call.recipe.fn, stimulus.busy_s / n
    known_s = turn.volatile.costs_s.get(fn)
    turn.volatile.seen[fn] = turn.volatile.seen.get(fn, 0) + 1
    seat = turn.volatile.seats.get(stimulus.slot)
    if known_s is None:
        turn.volatile.costs_s[fn] = cost_s
        return
    if seat is not None and cost_s > 0:
        speed = min(10.0, max(0.1, known_s / cost_s))
        seat.speed += WEIGHT * 0.3 * (speed - seat.speed)
    turn.volatile.costs_s[fn] = known_s + WEIGHT * (cost_s - known_s)


def failed(turn: Turn, stimulus: s.Failed) -> None:
    """A task failed, and its slot lives on."""
    if _known(turn, stimulus.slot, stimulus.incarnation) is None:
        return
    call, seat = turn.book.leases.get(stimulus.slot, {}).get(stimulus.id), turn.volatile.seats.get(stimulus.slot)
    if call is not None and stimulus.attempt != call.tries:
        turn.runs.setdefault(stimulus.slot, []).append(
            call
        )  # said again, of an earlier one: the slot may lack this one
        return
    if seat is not None:
        seat.drop(stimulus.id)
        seat.progress_s = turn.now_s
    if call is None:
        return  # another attempt of it is under way elsewhere, or it has ended
    fail(turn, call, stimulus.slot, stimulus.kind, stimulus.message)


def fail(turn: Turn, call: Call, slot: str, kind: str, message: str) -> None:
    """One attempt of a leased task failed: it is tried again, or dies."""
    kind = kind if kind in outcome.KINDS else outcome.RAISED
    if call.recipe.yields_s > 0 and kind in BY_OTHERS:
        turn.emit(f.TaskYielded(call.id, slot, turn.now_s))
    elif kind == outcome.NOT_FOUND:
        _unfit(turn, call, slot, message)
    elif kind in outcome.BY_RETRIES and call.attempts < call.recipe.retries:
        spread = 0.5 + draw(call.id, call.attempts) / (1 << 64)
        pause_s = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(call.attempts, 20)) * spread
        turn.emit(f.AttemptFailed(call.id, slot, kind, message, turn.now_s + pause_s))
    elif kind in outcome.BY_CRASHES and call.crashes + 1 < outcome.CRASHES:
        turn.emit(f.AttemptFailed(call.id, slot, kind, message, 0.0))
    elif kind == outcome.LOST and call.losses + 1 < outcome.LOSSES:
        turn.emit(f.TasksReturned(slot, (call.id,), "lost", call.id))
    else:
        die(turn, call, slot, kind, message)


def die(turn: Turn, call: Call, slot: str, kind: str, message: str) -> None:
    """A dead letter."""
    stop_running(turn, call, slot)
    turn.emit(f.TaskDied(call.id, slot, kind, message, turn.now_s))
    ended(turn, call)


def _unfit(turn: Turn, call: Call, slot: str, message: str) -> None:
    """This node has no such function; if none that could run the task has it, the task dies."""
    node = turn.durable.slots[slot].node
    turn.volatile.unfit[node, call.recipe.fn] = message
    nodes = {seat.node for seat in turn.volatile.seats.values() if seat.offers(call.recipe.requires)}
    if all((other, call.recipe.fn) in turn.volatile.unfit for other in nodes):
        die(turn, call, slot, outcome.NOT_FOUND, message)
        for other in nodes:  # asked anew for the next one: it may have been installed
            turn.volatile.unfit.pop((other, call.recipe.fn), None)
    else:
        turn.emit(f.TasksReturned(slot, (call.id,), "unfit"))


def concurrent(turn: Turn, stimulus: s.Concurrent) -> None:
    """A slot may have many calls of this function."""
    if _known(turn, stimulus.slot, stimulus.incarnation) is not None:
        turn.volatile.concurrent.add(stimulus.fn)


def gave_back(turn: Turn, stimulus: s.GaveBack) -> None:
    """Not begun; they wait again."""
    if _known(turn, stimulus.slot, stimulus.incarnation) is None:
        return
    leases, seat = turn.book.leases.get(stimulus.slot, {}), turn.volatile.seats.get(stimulus.slot)
    ids = tuple(id for id in dict.fromkeys(stimulus.ids) if id in leases)
    for id in stimulus.ids:
        if seat is not None:
            seat.drop(id)
    if ids:
        turn.emit(f.TasksReturned(stimulus.slot, ids, "given back"))


def slot_leaves(turn: Turn, stimulus: s.SlotLeaves) -> None:
    """It gets nothing more."""
    seat = turn.volatile.seats.get(stimulus.slot)
    if seat is not None and _known(turn, stimulus.slot, stimulus.incarnation) is not None:
        seat.leaving = True


def end_silent(turn: Turn) -> None:
    """Slots and nodes of which nothing is heard for longer than they usually take."""
    for slot in list(turn.durable.slots.values()):
        if turn.pulse(slot.name).suspected(turn.now_s):
            if slot.name in turn.volatile.seats:
                turn.order(e.Disconnect(slot.name))
            end_slot(turn, slot, "silent")


def _known(turn: Turn, slot: str, incarnation: str) -> Slot | None:
    found = turn.durable.slots.get(slot)
    return found if found is not None and found.incarnation == incarnation else None

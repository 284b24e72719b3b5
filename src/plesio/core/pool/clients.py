"""What clients ask for: submit, await, cancel, queues. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from msgspec.structs import asdict, replace

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import leases, messages, outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.book import FAILED, Call
from plesio.core.pool.recipe import CLIENT_SHIFT, MAX_PRIORITY, MESSAGE, QueueSettings, name_of, task_id
from plesio.core.pool.state import Client
from plesio.core.pool.turn import Turn
from plesio.core.taskbook import TaskState

CLIENTS_KEPT = 1024  # clients that are remembered; one that comes back later gets another number
MAX_NAME = 400
MAX_NEEDS = 10_000
MIN_RETRY_S, MAX_RETRY_S = 0.05, 5.0


def client_up(turn: Turn, stimulus: s.ClientUp) -> None:
    """It gets its number, the same one each time."""
    session = stimulus.session
    if not 16 <= len(session) <= 64:
        turn.refuse("a client", "names a session that is none")
        return
    if session not in turn.durable.clients:
        forgotten = _too_many(turn)
        leases.end_client(turn, forgotten, "it is forgotten")
        turn.emit(f.ClientJoined(turn.durable.newest_client + 1, session, forgotten))
    client = turn.durable.clients[session]
    turn.volatile.online.add(session)
    turn.volatile.gone_s.pop(session, None)
    messages.back(turn, client, stimulus.holds)
    leases.client_back(turn, session)
    turn.volatile.put_off.pop(session, None)
    turn.order(e.Welcome(session, client.number, client.known))


def _too_many(turn: Turn) -> int:
    """Who is forgotten for a new one: the oldest of those that are not here; 0: nobody."""
    if len(turn.durable.clients) < CLIENTS_KEPT:
        return 0
    online = turn.volatile.online
    return min((c.number for c in turn.durable.clients.values() if c.session not in online), default=0)


def client_lost(turn: Turn, stimulus: s.ClientLost) -> None:
    """What it waits for is kept until it asks again."""
    turn.volatile.online.discard(stimulus.session)
    messages.lost(turn, stimulus.session)
    leases.client_lost(turn, stimulus.session)
    turn.volatile.put_off.pop(stimulus.session, None)
    for id in [id for id, who in turn.volatile.watchers.items() if stimulus.session in who]:
        turn.volatile.watchers[id].discard(stimulus.session)
        if not turn.volatile.watchers[id]:
            del turn.volatile.watchers[id]


def submit(turn: Turn, stimulus: s.Submit) -> None:
    """Durable once the facts are; known ones are only acknowledged again. As many are taken as there is room for."""
    client = turn.durable.clients.get(stimulus.session)
    if client is None or client.session not in turn.volatile.online:
        return
    turn.volatile.put_off.setdefault(client.session, {}).pop(stimulus.first, None)
    stimulus = _new_part(turn, client, stimulus)
    count = len(stimulus.args)
    if not count:
        return
    reason = _unsound(turn, client, stimulus)
    if reason:
        turn.order(e.Decline(client.session, stimulus.first, count, reason))
        return
    untimely = any(id not in turn.book.calls for id in stimulus.needs)
    room = 0 if untimely else min(count, turn.book.room(stimulus.recipe.queue))
    if room and not _alias(turn, client, stimulus):
        _take(turn, client, replace(stimulus, args=stimulus.args[:room]))
    if room < count:
        first, queue = stimulus.first + room, "" if untimely else stimulus.recipe.queue
        turn.volatile.put_off[client.session][first] = (first + count - room, queue)
        why = "it needs tasks that were put off" if untimely else f"queue {queue!r} is full"
        turn.order(e.Decline(client.session, first, count - room, why, _retry_s(turn, count - room)))


def _new_part(turn: Turn, client: Client, stimulus: s.Submit) -> s.Submit:
    """What of it is not known yet; of the rest, the answers that may have been lost."""
    first, stop = stimulus.first, stimulus.first + len(stimulus.args)
    known = client.known_from(first, stop) if first >= 1 else 0
    if not known:
        return stimulus
    turn.order(e.Accept(client.session, first, known))
    _tell_those_that_ended(turn, client.session, [task_id(client.number, first + i) for i in range(known)])
    return replace(stimulus, first=first + known, args=stimulus.args[known:])


def _take(turn: Turn, client: Client, stimulus: s.Submit) -> None:
    """All of these exist from now on."""
    recipe, first, args, needs = stimulus.recipe, stimulus.first, stimulus.args, stimulus.needs
    due_s = turn.now_s + stimulus.delay_s if stimulus.delay_s > 0 else 0.0
    turn.emit(f.TasksSubmitted(client.number, first, recipe, args, turn.now_s, due_s, stimulus.key, needs))
    turn.order(e.Accept(client.session, first, len(args), recipe.fn == MESSAGE))
    if needs:
        _check_needs(turn, [turn.book.calls[task_id(client.number, first + i)] for i in range(len(args))])


def call_again(turn: Turn) -> None:
    """Who was put off for want of room is told, once, when there is some."""
    for session, groups in turn.volatile.put_off.items():
        for first, (stop, queue) in groups.items():
            if queue and turn.book.room(queue) > 0:
                groups[first] = (stop, "")
                turn.order(e.Again(session, first))


def _unsound(turn: Turn, client: Client, stimulus: s.Submit) -> str:
    """Why this cannot be a task; '' when it can."""
    recipe = stimulus.recipe
    if not recipe.fn or len(recipe.fn) > MAX_NAME:
        return "a task names its function, like package.module:function"
    if not 0 < len(recipe.queue) <= MAX_NAME or len(stimulus.key) > MAX_NAME:
        return f"names of queues and keys have up to {MAX_NAME} characters"
    if abs(recipe.priority) > MAX_PRIORITY:
        return f"priority {recipe.priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}"
    if not (recipe.timeout_s >= 0 and recipe.retries >= 0 and 0 <= stimulus.delay_s < 1e9):
        return "timeout_s, retries and delay_s are not negative"
    if not (stimulus.first >= 1 and stimulus.first + len(stimulus.args) < 1 << CLIENT_SHIFT):
        return "a client submits up to a trillion tasks; connect anew"
    if len(stimulus.needs) > MAX_NEEDS or (stimulus.key and len(stimulus.args) != 1):
        return f"a task needs up to {MAX_NEEDS} others, and a key is of one task"
    if any(math.isnan(amount) for _, amount in recipe.requires):
        return "a task requires amounts that are numbers"
    if client.has(stimulus.first, stimulus.first + len(stimulus.args)) is not False:
        return "some of these numbers are of other tasks"
    calls = turn.book.calls
    missing = next((id for id in stimulus.needs if id not in calls and not _is_put_off(turn, client, id)), None)
    if missing is not None:
        return f"task {name_of(missing)}, which it needs, is not known (any more)"
    return ""


def _is_put_off(turn: Turn, client: Client, id: int) -> bool:
    """Is it a task of this client that it was told to submit again later?"""
    n = id - task_id(client.number, 0)
    return any(first <= n < stop for first, (stop, _) in turn.volatile.put_off.get(client.session, {}).items())


def _retry_s(turn: Turn, count: int) -> float:
    """When there may be room again, from what tasks took of late."""
    costs = turn.volatile.costs_s
    cost_s = sum(costs.values()) / len(costs) if costs else MIN_RETRY_S
    return min(MAX_RETRY_S, max(MIN_RETRY_S, count * cost_s / max(1, len(turn.volatile.seats))))


def _alias(turn: Turn, client: Client, stimulus: s.Submit) -> bool:
    """Of a key that is known no second task is made: the new one ends as the first does."""
    if not stimulus.key:
        return False
    original = turn.book.keys.get((stimulus.recipe.queue, stimulus.key))
    if original is None:
        return False
    recipe = type(stimulus.recipe)("", stimulus.recipe.queue)
    turn.emit(f.TasksSubmitted(client.number, stimulus.first, recipe, (b"",), turn.now_s, 0.0, "", (original,)))
    turn.order(e.Accept(client.session, stimulus.first, 1))
    alias = turn.book.calls[task_id(client.number, stimulus.first)]
    if alias.state is TaskState.READY:  # the original is done
        end_alias(turn, alias)
    return True


def end_alias(turn: Turn, alias: Call) -> None:
    """It ends as the task does that it stands for."""
    original = turn.book.calls[alias.needs[0]]
    turn.emit(f.TasksDone("", (alias.id,), (original.result,), turn.now_s))
    ended(turn, alias)


def _check_needs(turn: Turn, calls: list[Call]) -> None:
    """What needs a task that has failed already fails, too."""
    for need in calls[0].needs:
        failed = turn.book.calls[need]
        if failed.state in FAILED:
            for call in calls:
                _fail_dependent(turn, call, failed)
                ended(turn, call)
            return


def _fail_dependent(turn: Turn, call: Call, failed: Call) -> None:
    if call.recipe.fn:
        why = f"task {name_of(failed.id)}, which it needs, {failed.kind or failed.state}: {failed.message}"
        turn.emit(f.TaskDied(call.id, "", outcome.NEEDED, why, turn.now_s))
    else:
        turn.emit(f.TaskDied(call.id, "", failed.kind, failed.message, turn.now_s))


def ended(turn: Turn, call: Call) -> None:
    """A task has ended: who waits for it is told, who needs it goes on or fails too."""
    over = deque([call])
    while over:
        call = over.popleft()
        turn.tell(call)
        if call.state is TaskState.DONE:
            continue
        for other in turn.book.dependents.pop(call.id, ()):
            dependent = turn.book.calls.get(other)
            if dependent is not None and dependent.state is TaskState.WAITING:
                _fail_dependent(turn, dependent, call)
                over.append(dependent)


def awaits(turn: Turn, stimulus: s.Await) -> None:
    """Outcomes that are there are told now, the others when they are."""
    if stimulus.session in turn.volatile.online:
        for id in _tell_those_that_ended(turn, stimulus.session, stimulus.ids):
            turn.volatile.watchers.setdefault(id, set()).add(stimulus.session)


def _tell_those_that_ended(turn: Turn, session: str, ids: Sequence[int]) -> list[int]:
    """The others."""
    others = []
    for id in ids:
        call = turn.book.calls.get(id)
        if call is None:
            turn.order(e.TellFailure(session, id, outcome.FORGOTTEN, "it is not known (any more)"))
        elif call.ended:
            turn.tell_one(session, call)
        else:
            others.append(id)
    return others


def cancel(turn: Turn, stimulus: s.Cancel) -> None:
    """At once for those that nobody runs; those that run are told to stop, and what they return does not count."""
    calls = [turn.book.calls[id] for id in dict.fromkeys(stimulus.ids) if id in turn.book.calls]
    calls = [call for call in calls if not call.ended]
    for call in calls:
        stop_running(turn, call)
    if calls:
        turn.emit(f.TasksCancelled(tuple(call.id for call in calls), turn.now_s))
        for call in calls:
            ended(turn, call)


def stop_running(turn: Turn, call: Call, but: str = "") -> None:
    """Whoever has it is told that it is not wanted; not this one, who is done with it."""
    for slot in {call.owner, turn.volatile.copies.pop(call.id, "")} - {"", but}:
        turn.order(e.Revoke(slot, (call.id,)))
        seat, known = turn.volatile.seats.get(slot), turn.durable.slots.get(slot)
        if known is not None:
            turn.order(e.StopTask(known.node, slot, known.incarnation, call.id, call.recipe.yields_s))
        if seat is not None:
            seat.drop(call.id)


def revive(turn: Turn, stimulus: s.Revive) -> None:
    """Dead letters only, while their keys are free and what they need is there; whatever needs them stays failed."""
    calls = turn.book.calls
    call = calls.get(stimulus.id)
    if call is None or call.state is not TaskState.DEAD or not call.recipe.fn:
        return
    there = all(need in calls and calls[need].state is TaskState.DONE for need in call.needs)
    if there and (call.recipe.queue, call.key) not in turn.book.keys:
        turn.emit(f.TaskRevived(call.id, turn.now_s))


def set_queue(turn: Turn, stimulus: s.SetQueue) -> None:
    """Made or changed, while it is in use."""
    known = turn.book.queues.get(stimulus.name)
    said = {key: value for key, value in asdict(stimulus.change).items() if value is not None}
    settings = replace(known.settings if known is not None else QueueSettings(), **said)
    if not 0 < len(stimulus.name) <= MAX_NAME or settings.capacity < 1 or not 0 <= settings.rate_per_s < 1e9:
        turn.refuse("a client", "a queue has a name, a capacity of at least 1 and a rate that is not negative")
        return
    if known is None or known.settings != settings:
        turn.emit(f.QueueSet(stimulus.name, settings))


def remove_queue(turn: Turn, stimulus: s.RemoveQueue) -> None:
    """What waits in it is cancelled; what runs ends."""
    queue = turn.book.queues.get(stimulus.name)
    if queue is None:
        return
    there = [c for c in turn.book.calls.values() if c.recipe.queue == stimulus.name and not c.ended]
    cancel(turn, s.Cancel(tuple(call.id for call in there)))
    turn.volatile.buckets.pop(stimulus.name, None)
    turn.emit(f.QueueRemoved(stimulus.name))

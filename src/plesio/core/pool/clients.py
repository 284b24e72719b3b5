"""What clients ask for: submit, await, cancel, queues. Pure."""

from __future__ import annotations

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import messages, outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.book import Call
from plesio.core.pool.recipe import CLIENT_SHIFT, MAX_PRIORITY, QueueSettings, name_of, task_id
from plesio.core.pool.state import Client
from plesio.core.pool.turn import Turn
from plesio.core.taskbook import TaskState

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
        turn.emit(f.ClientJoined(turn.durable.newest_client + 1, session))
    client = turn.durable.clients[session]
    turn.volatile.online.add(session)
    turn.volatile.gone_s.pop(session, None)
    turn.order(e.Welcome(session, client.number, client.known))


def client_lost(turn: Turn, stimulus: s.ClientLost) -> None:
    """What it waits for is kept until it asks again."""
    turn.volatile.online.discard(stimulus.session)
    messages.lost(turn, stimulus.session)
    for id in [id for id, who in turn.volatile.watchers.items() if stimulus.session in who]:
        turn.volatile.watchers[id].discard(stimulus.session)
        if not turn.volatile.watchers[id]:
            del turn.volatile.watchers[id]


def submit(turn: Turn, stimulus: s.Submit) -> None:
    """Durable once the facts are; known ones are only acknowledged again."""
    client = turn.durable.clients.get(stimulus.session)
    count = len(stimulus.args)
    if client is None or count == 0:
        return
    first = stimulus.first
    if client.knows(first):
        turn.order(e.Accept(client.session, first, count))
        return
    reason = _unsound(turn, stimulus)
    if reason:
        turn.order(e.Decline(client.session, first, count, reason))
        return
    queue = turn.book.queue(stimulus.recipe.queue)
    if queue.waiting + count > queue.settings.capacity and queue.waiting:
        reason = f"queue {stimulus.recipe.queue!r} is full: {queue.waiting} tasks wait in it"
        turn.order(e.Decline(client.session, first, count, reason, _retry_s(turn, count)))
        return
    if _alias(turn, client, stimulus):
        return
    due_s = turn.now_s + stimulus.delay_s if stimulus.delay_s > 0 else 0.0
    turn.emit(
        f.TasksSubmitted(
            client.number, first, stimulus.recipe, stimulus.args, turn.now_s, due_s, stimulus.key, stimulus.needs
        )
    )
    turn.order(e.Accept(client.session, first, count))
    if stimulus.needs:
        _check_needs(turn, [turn.book.calls[task_id(client.number, first + i)] for i in range(count)])


def _unsound(turn: Turn, stimulus: s.Submit) -> str:
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
    missing = next((id for id in stimulus.needs if id not in turn.book.calls), None)
    if missing is not None:
        return f"task {name_of(missing)}, which it needs, is not known (any more)"
    return ""


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
    if original is None or turn.book.calls[original].state in (TaskState.DEAD, TaskState.CANCELLED):
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
        if failed.state in (TaskState.DEAD, TaskState.CANCELLED):
            for call in calls:
                _fail_dependent(turn, call, failed)
            return


def _fail_dependent(turn: Turn, call: Call, failed: Call) -> None:
    if call.recipe.fn:
        why = f"task {name_of(failed.id)}, which it needs, {failed.kind or failed.state}: {failed.message}"
        turn.emit(f.TaskDied(call.id, "", outcome.NEEDED, why, turn.now_s))
    else:
        turn.emit(f.TaskDied(call.id, "", failed.kind, failed.message, turn.now_s))
    ended(turn, call)


def ended(turn: Turn, call: Call) -> None:
    """A task has ended: who waits for it is told, who needs it goes on or fails too."""
    turn.tell(call)
    if call.state is TaskState.DONE:
        return
    for other in turn.book.dependents.pop(call.id, ()):
        dependent = turn.book.calls.get(other)
        if dependent is not None and dependent.state is TaskState.WAITING:
            _fail_dependent(turn, dependent, call)


def awaits(turn: Turn, stimulus: s.Await) -> None:
    """Outcomes that are there are told now, the others when they are."""
    if stimulus.session not in turn.volatile.online:
        return
    for id in stimulus.ids:
        call = turn.book.calls.get(id)
        if call is None:
            turn.order(e.TellFailure(stimulus.session, id, outcome.FORGOTTEN, "it is not known (any more)"))
        elif call.ended:
            turn.tell_one(stimulus.session, call)
        else:
            turn.volatile.watchers.setdefault(id, set()).add(stimulus.session)


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


def stop_running(turn: Turn, call: Call) -> None:
    """Whoever has it is told that it is not wanted."""
    for slot in {call.owner, turn.volatile.copies.pop(call.id, "")} - {""}:
        turn.order(e.Revoke(slot, (call.id,)))
        seat, known = turn.volatile.seats.get(slot), turn.durable.slots.get(slot)
        if known is not None:
            turn.order(e.StopTask(known.node, slot, known.incarnation, call.id))
        if seat is not None:
            seat.drop(call.id)


def revive(turn: Turn, stimulus: s.Revive) -> None:
    """Dead letters only; whatever needs them has failed and stays so."""
    call = turn.book.calls.get(stimulus.id)
    if call is not None and call.state is TaskState.DEAD and call.recipe.fn:
        turn.emit(f.TaskRevived(call.id, turn.now_s))


def set_queue(turn: Turn, stimulus: s.SetQueue) -> None:
    """Made or changed, while it is in use."""
    settings = stimulus.settings
    if not 0 < len(stimulus.name) <= MAX_NAME or settings.capacity < 1 or not settings.rate_per_s >= 0:
        turn.refuse("a client", "a queue has a name, a capacity of at least 1 and a rate that is not negative")
        return
    known = turn.book.queues.get(stimulus.name)
    if known is None or known.settings != settings:
        turn.emit(f.QueueSet(stimulus.name, settings))


def remove_queue(turn: Turn, stimulus: s.RemoveQueue) -> None:
    """What waits in it is cancelled; what runs ends."""
    queue = turn.book.queues.get(stimulus.name)
    if queue is None:
        return
    there = [c for c in turn.book.calls.values() if c.recipe.queue == stimulus.name and not c.ended]
    cancel(turn, s.Cancel(tuple(call.id for call in there)))
    turn.emit(f.QueueSet(stimulus.name, QueueSettings()))
    turn.emit(f.QueueRemoved(stimulus.name))

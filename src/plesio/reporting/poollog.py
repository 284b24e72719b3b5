"""The log of a pool: what happened to a task, or when; a line a fact, from the journal that is still kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from plesio.core.facts import LeaderElected, PeerRefused
from plesio.core.pool import facts as f
from plesio.core.pool.recipe import name_of, task_id

Batch = tuple[int, float, list[Any]]  # (number, unix seconds, facts)


def lines(batches: Iterable[Batch], task: int = 0, since: float = 0.0, until: float = float("inf")) -> Iterator[str]:
    """The facts in plain words. task: of this one only; since, until: unix seconds."""
    for _, unix_s, facts in batches:
        if since <= unix_s < until:
            for fact in facts:
                said = _of_task(fact, task) if task else say(fact)
                if said:
                    yield f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(unix_s))}.{int(unix_s % 1 * 1000):03} {said}"


def say(fact: Any) -> str:
    """One fact in plain words."""
    return _WORDS[type(fact)](fact)


def _of_task(fact: Any, id: int) -> str:
    """What the fact says of this task; '' when nothing."""
    name = name_of(id)
    if isinstance(fact, f.TasksSubmitted):
        if not task_id(fact.client, fact.first) <= id < task_id(fact.client, fact.first) + len(fact.args):
            return ""
        extra = f", needs {_names(fact.needs)}" if fact.needs else ""
        extra += f", key {fact.key!r}" if fact.key else ""
        return f"task {name} submitted: {fact.recipe.fn or 'the same as another'} in queue {fact.recipe.queue!r}{extra}"
    if isinstance(fact, f.Published):
        firsts = [(queue, task_id(0, first)) for queue, first in fact.copies]
        queue = next((queue for queue, first in firsts if first <= id < first + len(fact.args)), "")
        return f"message {name} published to subscription {queue!r}" if queue else ""
    if getattr(fact, "id", 0) == id:
        return say(fact)
    if id in getattr(fact, "ids", ()):
        return say(_alone(fact, id))
    return ""


def _alone(fact: Any, id: int) -> Any:
    """The same fact, of one of its tasks."""
    if isinstance(fact, f.TasksDone):
        return f.TasksDone(fact.slot, (id,), (fact.results[fact.ids.index(id)],), fact.at_s)
    if isinstance(fact, f.TasksReturned):
        return f.TasksReturned(fact.slot, (id,), fact.reason, fact.suspect if fact.suspect == id else 0)
    if isinstance(fact, f.TasksLeased):
        return f.TasksLeased(fact.slot, (id,))
    return type(fact)(*((id,) if name == "ids" else getattr(fact, name) for name in fact.__struct_fields__))


def _names(ids: Iterable[int]) -> str:
    ids = list(ids)
    shown = ", ".join(name_of(id) for id in ids[:4])
    return shown + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")


def _tasks(ids: tuple[int, ...]) -> str:
    return f"task{'s' if len(ids) > 1 else ''} {_names(ids)}"


def _submitted(fact: f.TasksSubmitted) -> str:
    first = task_id(fact.client, fact.first)
    return f"{_tasks(tuple(range(first, first + len(fact.args))))} submitted: {fact.recipe.fn or 'as another'}"


def _done(fact: f.TasksDone) -> str:
    size = sum(map(len, fact.results))
    return f"{_tasks(fact.ids)} done by {fact.slot or 'another'}, {size} bytes of results"


def _returned(fact: f.TasksReturned) -> str:
    running = f"; {name_of(fact.suspect)} was running" if fact.suspect else ""
    return f"{_tasks(fact.ids)} went back from {fact.slot}: {fact.reason}{running}"


def _failed(fact: f.AttemptFailed) -> str:
    return f"task {name_of(fact.id)} failed on {fact.slot} ({fact.kind}), and is tried again: {_last(fact.message)}"


def _last(message: str) -> str:
    return message.strip().splitlines()[-1] if message.strip() else "no word"


_WORDS: dict[type, Callable[[Any], str]] = {
    LeaderElected: lambda fact: f"a coordinator took over, epoch {fact.epoch}",
    PeerRefused: lambda fact: (
        f"{fact.who} was turned away: {fact.reason}" + (f" ({fact.count} times)" * (fact.count > 1))
    ),
    f.ClientJoined: lambda fact: f"client {fact.client} joined",
    f.TasksSubmitted: _submitted,
    f.Published: lambda fact: f"{len(fact.args)} messages published to {len(fact.copies)} subscriptions",
    f.TopicSet: lambda fact: f"topic {fact.topic!r} has the subscriptions {', '.join(fact.subscriptions) or 'none'}",
    f.TasksLeased: lambda fact: f"{_tasks(fact.ids)} given to {fact.slot}",
    f.TasksDone: _done,
    f.TasksReturned: _returned,
    f.AttemptFailed: _failed,
    f.TaskYielded: lambda fact: f"task {name_of(fact.id)} left {fact.slot}, and waits for another slot",
    f.TaskDied: lambda fact: f"task {name_of(fact.id)} failed for good ({fact.kind}): {_last(fact.message)}",
    f.TasksCancelled: lambda fact: f"{_tasks(fact.ids)} cancelled",
    f.TaskRevived: lambda fact: f"task {name_of(fact.id)} was given another chance",
    f.TasksForgotten: lambda fact: f"{_tasks(fact.ids)} forgotten: their results are not kept any longer",
    f.SlotJoined: lambda fact: f"slot {fact.slot} joined",
    f.SlotEnded: lambda fact: f"slot {fact.slot} is gone: {fact.reason}",
    f.QueueSet: lambda fact: f"queue {fact.name!r}: {fact.settings}",
    f.PlaceTaken: lambda fact: (
        f"{fact.hold.kind} {fact.hold.name!r} held by client {fact.hold.client} ({fact.hold.owner}), token {fact.hold.token}"
    ),
    f.PlaceReleased: lambda fact: f"token {fact.token} released",
    f.PlacesLost: lambda fact: (
        f"client {fact.client} lost what it held, tokens {', '.join(map(str, fact.tokens))}: {fact.reason}"
    ),
    f.ValueSet: lambda fact: f"{fact.kind} {fact.name!r} is {fact.value}, by client {fact.client}",
    f.BarrierPassed: lambda fact: f"barrier {fact.name!r} passed by {len(fact.parties)}, generation {fact.generation}",
    f.BarriersForgotten: lambda fact: f"barriers {', '.join(map(repr, fact.names))} forgotten: nobody came for long",
    f.AnswersHeard: lambda fact: f"client {fact.client} has heard its answers up to {fact.upto}",
    f.QueueRemoved: lambda fact: f"queue {fact.name!r} removed",
}

"""The durable part of a pool's state: the fold of its facts. `apply` alone changes it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core.facts import LeaderElected
from plesio.core.pool import facts as f
from plesio.core.pool.book import Book, Call
from plesio.core.pool.outcome import BY_CRASHES
from plesio.core.pool.places import KeptPlaces, Passed, Places
from plesio.core.pool.places import thaw as thaw_places
from plesio.core.pool.recipe import MESSAGE, QueueSettings, Recipe, task_id
from plesio.core.taskbook import TaskState


class Client(msgspec.Struct):
    """Who submits. known: its highest task number that exists; holes: (start, stop) of lower ones that do not."""

    number: int
    session: str
    known: int = 0
    holes: list[tuple[int, int]] = []

    def has(self, first: int, stop: int) -> bool | None:
        """Were its tasks first .. stop - 1 submitted? None: some of them were."""
        if first > self.known or any(low <= first and stop <= high for low, high in self.holes):
            return False
        whole = stop <= self.known + 1 and all(high <= first or stop <= low for low, high in self.holes)
        return True if whole else None

    def known_from(self, first: int, stop: int) -> int:
        """How many of its tasks first, first + 1, ... below `stop` were submitted, without a gap."""
        end = min([stop, self.known + 1, *(max(first, low) for low, high in self.holes if high > first)])
        return max(0, end - first)

    def note(self, first: int, stop: int) -> None:
        """Its tasks first .. stop - 1 are submitted."""
        if first > self.known + 1:
            self.holes.append((self.known + 1, first))
        elif first <= self.known:
            split = ((a, b, max(a, first), min(b, stop)) for a, b in self.holes)
            parts = ([(a, b)] if low >= high else [(a, low), (high, b)] for a, b, low, high in split)
            self.holes = [(a, b) for part in parts for a, b in part if a < b]
        self.known = max(self.known, stop - 1)


class Slot(msgspec.Struct):
    """A place where one task runs at a time."""

    name: str
    node: str
    incarnation: str
    tags: tuple[tuple[str, float], ...]


class Durable:
    """The fold of all facts. Changed by `apply` alone."""

    def __init__(self) -> None:
        self.epoch = 0
        self.facts = 0
        self.latest_s = 0.0  # of the pool's clock, as far as facts tell
        self.newest_client = 0
        self.clients: dict[str, Client] = {}  # by session
        self.sessions: dict[int, str] = {}  # by number
        self.slots: dict[str, Slot] = {}
        self.topics: dict[str, tuple[str, ...]] = {}  # their subscriptions
        self.copies = 0  # tasks of the pool's own
        self.book = Book()
        self.places = Places()


class Kept(msgspec.Struct, array_like=True):
    """A Durable as it is written down."""

    epoch: int
    facts: int
    latest_s: float
    newest_client: int
    clients: list[Client]
    slots: list[Slot]
    queues: dict[str, QueueSettings]
    order: int
    counts: dict[TaskState, int]
    recipes: list[Recipe]
    topics: dict[str, tuple[str, ...]]
    copies: int
    calls: list[tuple[Any, ...]]  # as Call's fields, the recipe by its number
    leases: dict[str, list[int]]  # by slot, in the order of leasing
    places: KeptPlaces = msgspec.field(default_factory=KeptPlaces)


def freeze(state: Durable) -> Kept:
    """All of it, as plain records."""
    book = state.book
    used: dict[Recipe, int] = {}
    for call in book.calls.values():
        used.setdefault(call.recipe, len(used))
    calls = [
        (c.id, used[c.recipe], c.args, c.order, c.at_s, c.due_s, c.needs, c.key, c.state, c.owner, c.attempts, c.crashes,
         c.losses, c.unmet, c.result, c.kind, c.message, c.ended_s, c.tries)
        for c in book.calls.values()
    ]  # fmt: skip
    queues = {name: queue.settings for name, queue in book.queues.items()}
    leases = {slot: list(held) for slot, held in book.leases.items() if held}
    clients, slots = list(state.clients.values()), list(state.slots.values())
    return Kept(
        state.epoch, state.facts, state.latest_s, state.newest_client, clients, slots, queues, book.order, book.counts,
        list(used), state.topics, state.copies, calls, leases, state.places.freeze(),
    )  # fmt: skip


def thaw(kept: Kept) -> Durable:
    """The Durable that `freeze` wrote so."""
    state = Durable()
    state.epoch, state.facts, state.latest_s, state.newest_client = (
        kept.epoch, kept.facts, kept.latest_s, kept.newest_client,
    )  # fmt: skip
    state.clients = {client.session: client for client in kept.clients}
    state.sessions = {client.number: client.session for client in kept.clients}
    state.slots = {slot.name: slot for slot in kept.slots}
    state.topics, state.copies = kept.topics, kept.copies
    book = state.book
    book.order, book.counts = kept.order, dict.fromkeys(TaskState, 0) | kept.counts
    for name, settings in kept.queues.items():
        book.queue(name).settings = settings
    recipes = [book.shared(recipe) for recipe in kept.recipes]
    states = {state.value: state for state in TaskState}
    for id, recipe, args, order, at_s, due_s, needs, key, at, owner, *rest in kept.calls:
        book.add(Call(id, recipes[recipe], args, order, at_s, due_s, tuple(needs), key, states[at], owner, *rest))
    book.leases = {slot: {id: book.calls[id] for id in ids} for slot, ids in kept.leases.items()}
    state.places = thaw_places(kept.places)
    return state


def apply(state: Durable, fact: f.AnyFact) -> None:
    """Folds one fact into the state. The only function that changes it."""
    state.facts += 1
    handler: Callable[[Durable, Any], None] | None = _APPLY.get(type(fact))
    if handler is not None:
        handler(state, fact)


def _leader_elected(state: Durable, fact: LeaderElected) -> None:
    state.epoch = fact.epoch


def _client_joined(state: Durable, fact: f.ClientJoined) -> None:
    state.newest_client = max(state.newest_client, fact.client)
    state.clients[fact.session] = Client(fact.client, fact.session)
    state.sessions[fact.client] = fact.session
    if fact.forgets:
        del state.clients[state.sessions.pop(fact.forgets)]
        state.places.forget(fact.forgets)


def _tasks_submitted(state: Durable, fact: f.TasksSubmitted) -> None:
    book, first, args = state.book, fact.first, fact.args
    state.latest_s = max(state.latest_s, fact.at_s)
    session = state.sessions.get(fact.client)
    if session is not None:
        state.clients[session].note(first, first + len(args))
    recipe = book.shared(fact.recipe)
    unmet = sum(need in book.calls and book.calls[need].state is not TaskState.DONE for need in fact.needs)
    at = TaskState.WAITING if unmet else TaskState.READY
    order, id = book.order, task_id(fact.client, first)
    for data in args:
        order += 1
        book.add(Call(id, recipe, data, order, fact.at_s, fact.due_s, fact.needs, fact.key, at, unmet=unmet))
        id += 1
    book.order = order


def _published(state: Durable, fact: f.Published) -> None:
    book = state.book
    state.latest_s = max(state.latest_s, fact.at_s)
    session = state.sessions.get(fact.client)
    if session is not None:
        state.clients[session].note(fact.first, fact.first + len(fact.args))
    for queue, first in fact.copies:
        recipe = book.shared(Recipe(MESSAGE, queue, fact.priority))
        for n, data in enumerate(fact.args, first):
            book.order += 1
            book.add(Call(task_id(0, n), recipe, data, book.order, fact.at_s))
        state.copies = max(state.copies, first + len(fact.args) - 1)


def _topic_set(state: Durable, fact: f.TopicSet) -> None:
    if fact.subscriptions:
        state.topics[fact.topic] = fact.subscriptions
    else:
        state.topics.pop(fact.topic, None)


def _tasks_leased(state: Durable, fact: f.TasksLeased) -> None:
    book = state.book
    for id in fact.ids:
        book.lease(book.calls[id], fact.slot)


def _tasks_done(state: Durable, fact: f.TasksDone) -> None:
    book, at_s = state.book, fact.at_s
    state.latest_s = max(state.latest_s, at_s)
    for id, result in zip(fact.ids, fact.results, strict=True):
        call = book.calls[id]
        call.result, call.args = result, b""
        book.end(call, TaskState.DONE, at_s)


def _tasks_returned(state: Durable, fact: f.TasksReturned) -> None:
    for id in fact.ids:
        state.book.give_back(state.book.calls[id])
    if fact.suspect:
        state.book.calls[fact.suspect].losses += 1


def _task_yielded(state: Durable, fact: f.TaskYielded) -> None:
    state.latest_s = max(state.latest_s, fact.at_s)
    call = state.book.calls[fact.id]
    call.tries += 1
    call.at_s = fact.at_s
    state.book.give_back(call)


def _attempt_failed(state: Durable, fact: f.AttemptFailed) -> None:
    call = state.book.calls[fact.id]
    if fact.kind in BY_CRASHES:
        call.crashes += 1
    else:
        call.attempts += 1
    call.tries += 1
    call.kind, call.message = fact.kind, fact.message
    state.book.give_back(call, fact.due_s)


def _task_died(state: Durable, fact: f.TaskDied) -> None:
    state.latest_s = max(state.latest_s, fact.at_s)
    state.book.end(state.book.calls[fact.id], TaskState.DEAD, fact.at_s, fact.kind, fact.message)


def _tasks_cancelled(state: Durable, fact: f.TasksCancelled) -> None:
    state.latest_s = max(state.latest_s, fact.at_s)
    for id in fact.ids:
        state.book.end(state.book.calls[id], TaskState.CANCELLED, fact.at_s, "cancelled")


def _task_revived(state: Durable, fact: f.TaskRevived) -> None:
    state.book.revive(state.book.calls[fact.id])


def _tasks_forgotten(state: Durable, fact: f.TasksForgotten) -> None:
    for id in fact.ids:
        state.book.forget(state.book.calls[id])


def _slot_joined(state: Durable, fact: f.SlotJoined) -> None:
    state.slots[fact.slot] = Slot(fact.slot, fact.node, fact.incarnation, fact.tags)


def _slot_ended(state: Durable, fact: f.SlotEnded) -> None:
    del state.slots[fact.slot]


def _queue_set(state: Durable, fact: f.QueueSet) -> None:
    state.book.queue(fact.name).settings = fact.settings


def _queue_removed(state: Durable, fact: f.QueueRemoved) -> None:
    del state.book.queues[fact.name]


def _place_taken(state: Durable, fact: f.PlaceTaken) -> None:
    state.places.add(fact.hold)


def _place_released(state: Durable, fact: f.PlaceReleased) -> None:
    hold = state.places.holds[fact.token]
    state.places.remove(hold)
    state.places.answer(hold.client, fact.number, hold.token)


def _places_lost(state: Durable, fact: f.PlacesLost) -> None:
    for token in fact.tokens:
        state.places.remove(state.places.holds[token])


def _value_set(state: Durable, fact: f.ValueSet) -> None:
    state.places.put((fact.kind, fact.name), fact.value)
    state.places.answer(fact.client, fact.number, fact.value)


def _barrier_passed(state: Durable, fact: f.BarrierPassed) -> None:
    state.latest_s = max(state.latest_s, fact.at_s)
    state.places.barriers[fact.name] = Passed(fact.generation + 1, fact.at_s)
    for client, number in fact.parties:
        state.places.answer(client, number, fact.generation)


def _barriers_forgotten(state: Durable, fact: f.BarriersForgotten) -> None:
    for name in fact.names:
        del state.places.barriers[name]


def _answers_heard(state: Durable, fact: f.AnswersHeard) -> None:
    state.places.heard(fact.client, fact.upto, fact.but)


_APPLY: dict[type, Callable[[Durable, Any], None]] = {
    LeaderElected: _leader_elected,
    f.ClientJoined: _client_joined,
    f.TasksSubmitted: _tasks_submitted,
    f.Published: _published,
    f.TopicSet: _topic_set,
    f.TasksLeased: _tasks_leased,
    f.TasksDone: _tasks_done,
    f.TasksReturned: _tasks_returned,
    f.TaskYielded: _task_yielded,
    f.AttemptFailed: _attempt_failed,
    f.TaskDied: _task_died,
    f.TasksCancelled: _tasks_cancelled,
    f.TaskRevived: _task_revived,
    f.TasksForgotten: _tasks_forgotten,
    f.SlotJoined: _slot_joined,
    f.SlotEnded: _slot_ended,
    f.QueueSet: _queue_set,
    f.QueueRemoved: _queue_removed,
    f.PlaceTaken: _place_taken,
    f.PlaceReleased: _place_released,
    f.PlacesLost: _places_lost,
    f.ValueSet: _value_set,
    f.BarrierPassed: _barrier_passed,
    f.BarriersForgotten: _barriers_forgotten,
    f.AnswersHeard: _answers_heard,
}

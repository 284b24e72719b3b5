"""The reference of a pool: an independent, much simpler reading of its facts, checked after every commit.

I3: an acknowledged task ends, and once; order, capacity, rates and needs are kept; and the state is the fold of the facts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core.facts import LeaderElected
from plesio.core.pool import facts as f
from plesio.core.pool.recipe import QueueSettings, Recipe, task_id
from plesio.core.pool.state import Durable, apply, freeze
from plesio.core.pool.turn import State

plain = msgspec.msgpack.Encoder(order="deterministic").encode


class Known(msgspec.Struct):
    """A task as its facts tell it. where: 'waits', 'leased', 'done', 'dead', 'cancelled'."""

    id: int
    recipe: Recipe
    order: int
    at_s: float
    due_s: float
    needs: tuple[int, ...]
    where: str = "waits"
    slot: str = ""
    kind: str = ""
    result: bytes = b""
    lives: int = 1
    ends: int = 0
    failures: int = 0


class Reference:
    """Owns what it has seen. Every method raises AssertionError when a promise is broken."""

    def __init__(self, step_s: float, only_here: frozenset[str]) -> None:
        self.step_s = step_s
        self.only_here = only_here  # functions that not every node has: what waits for one may be overtaken
        self.tasks: dict[int, Known] = {}
        self.forgotten: dict[int, Known] = {}
        self.settings: dict[str, QueueSettings] = {}
        self.tokens: dict[str, tuple[float, float]] = {}  # (how many may begin, as of when)
        self.slots: dict[str, f.SlotJoined] = {}
        self.order = 0
        self.now_s = self.latest_s = 0.0
        self.shadow = Durable()
        self.copies = 0
        self.counted: dict[str, int] = {}

    def committed(self, now_s: float, facts: list[f.AnyFact]) -> None:
        """One batch became durable."""
        self._at(now_s)
        for fact in facts:
            apply(self.shadow, fact)
            name = type(fact).__name__
            self.counted[name] = self.counted.get(name, 0) + 1
            handler: Callable[[Reference, Any], None] | None = self._FACTS.get(type(fact))
            if handler is not None:
                handler(self, fact)

    def _at(self, now_s: float) -> None:
        if now_s < self.now_s:  # the clock went back, and a rate is kept by the clock
            for queue in self.tokens:
                self.tokens[queue] = (self._tokens(queue), now_s)
        self.now_s, self.latest_s = now_s, max(now_s, self.latest_s)

    def _elected(self, _: LeaderElected) -> None:
        """A coordinator that comes anew lets one task of each queue begin, whatever its rate."""
        self.tokens = {name: (max(1.0, tokens), at_s) for name, (tokens, at_s) in self.tokens.items()}

    def handled(self, now_s: float, state: State) -> None:
        """After each turn: what can begin has begun, and seats hold what the book says they do."""
        self._at(now_s)
        volatile, book = state.volatile, state.durable.book
        idle = []
        for name, seat in volatile.seats.items():
            leased = set(book.leases.get(name, ()))
            copies = {id for id, slot in volatile.copies.items() if slot == name}
            assert leased <= set(seat.tasks) <= leased | copies, f"{name} holds {leased}, its seat says {seat.tasks}"
            assert name in state.durable.slots, "a seat of a slot that ended"
            if not seat.tasks and not seat.leaving:
                idle.append(seat)
        for lane in list(book.lanes.values()) if idle else ():
            head, settings = lane.head(), book.queue(lane.queue).settings
            if head is None or settings.paused or settings.rate_per_s:
                continue
            able = [x for x in idle if x.offers(lane.requires) and (x.node, head.recipe.fn) not in volatile.unfit]
            assert not able, f"task {head.id} waits while {able[0].name} is idle"
        copies_now = len(volatile.copies)
        most = int(len(volatile.seats) * state.policies.speculation.share)
        assert copies_now <= max(most, self.copies), f"{copies_now} second copies on {len(volatile.seats)} slots"
        self.copies = copies_now

    def compare(self, state: Durable) -> None:
        """The state is the fold of what is committed."""
        assert plain(freeze(state)) == plain(freeze(self.shadow)), "state != fold(facts)"

    def _submitted(self, fact: f.TasksSubmitted) -> None:
        queue, settings = fact.recipe.queue, self.settings.get(fact.recipe.queue, QueueSettings())
        waiting = sum(task.where == "waits" and task.recipe.queue == queue for task in self.tasks.values())
        assert not fact.recipe.fn or waiting + len(fact.args) <= settings.capacity, f"{queue} is overfull"
        for i in range(len(fact.args)):
            id = task_id(fact.client, fact.first + i)
            assert id not in self.tasks and id not in self.forgotten, f"I3: {id} is submitted twice"
            self.order += 1
            self.tasks[id] = Known(id, fact.recipe, self.order, fact.at_s, fact.due_s, fact.needs)

    def _may_begin(self, task: Known, now_s: float) -> bool:
        """By itself: it waits, is due, and has what it needs."""
        done = all((self.tasks.get(need) or self.forgotten[need]).where == "done" for need in task.needs)
        return task.where == "waits" and task.due_s <= now_s and done and bool(task.recipe.fn)

    def _leased(self, fact: f.TasksLeased) -> None:
        tags = dict(self.slots[fact.slot].tags)
        for id in fact.ids:
            task = self.tasks[id]
            assert self._may_begin(task, self.latest_s), f"I3: {task} is leased"
            recipe = task.recipe
            settings = self.settings.get(recipe.queue, QueueSettings())
            assert not settings.paused, f"{recipe.queue} is paused"
            assert all(tags.get(tag, 0.0) >= amount for tag, amount in recipe.requires)
            self._spend(recipe.queue, settings.rate_per_s)
            self._check_order(task, tags)
            task.where, task.slot = "leased", fact.slot

    def _check_order(self, task: Known, tags: dict[str, float]) -> None:
        """Nobody is overtaken by one that was submitted step_s later per level of priority, or later in its own lane."""
        rank = (task.at_s - task.recipe.priority * self.step_s, task.order)
        lane = (task.recipe.queue, task.recipe.priority, task.recipe.requires)
        heads: dict[tuple[Any, ...], Known] = {}
        for other in self.tasks.values():
            if other.where == "waits" and other is not task and self._may_begin(other, self.now_s):
                recipe = other.recipe
                heads.setdefault((recipe.queue, recipe.priority, recipe.requires), other)
        for key, other in heads.items():
            if key == lane:
                assert other.order > task.order, f"{task.id} is dealt before {other.id}, which was submitted earlier"
            settings = self.settings.get(other.recipe.queue, QueueSettings())
            if settings.paused or settings.rate_per_s or other.recipe.fn in self.only_here:
                continue
            if all(tags.get(tag, 0.0) >= amount for tag, amount in other.recipe.requires):
                first = (other.at_s - other.recipe.priority * self.step_s, other.order)
                assert rank <= first, f"{task.id} overtakes {other.id}: {rank}, {first}"

    def _tokens(self, queue: str) -> float:
        """How many of its tasks may begin now."""
        rate_per_s = self.settings[queue].rate_per_s
        most = max(1.0, 0.1 * rate_per_s)
        tokens, at_s = self.tokens.get(queue, (most, self.now_s))
        return min(most, tokens + (self.now_s - at_s) * rate_per_s)

    def _spend(self, queue: str, rate_per_s: float) -> None:
        if rate_per_s:
            tokens = self._tokens(queue) - 1.0
            assert tokens > -1e-6, f"{queue} deals more than {rate_per_s} per second"
            self.tokens[queue] = (tokens, self.now_s)

    def _end(self, id: int, where: str, kind: str = "", result: bytes = b"") -> None:
        task = self.tasks[id]
        assert task.where in ("waits", "leased"), f"I3: {task} ends as {where}, too"
        task.ends += 1
        assert task.ends == task.lives, "I3: an outcome is recorded more than once"
        task.where, task.slot, task.kind, task.result = where, "", kind, result

    def _done(self, fact: f.TasksDone) -> None:
        assert len(set(fact.ids)) == len(fact.ids)
        for id, result in zip(fact.ids, fact.results, strict=True):
            self._end(id, "done", "", result)

    def _died(self, fact: f.TaskDied) -> None:
        self._end(fact.id, "dead", fact.kind)

    def _cancelled(self, fact: f.TasksCancelled) -> None:
        for id in fact.ids:
            self._end(id, "cancelled", "cancelled")

    def _revived(self, fact: f.TaskRevived) -> None:
        task = self.tasks[fact.id]
        assert task.where == "dead"
        task.where, task.due_s = "waits", 0.0
        task.lives += 1

    def _back(self, id: int, slot: str, due_s: float = 0.0) -> None:
        task = self.tasks[id]
        assert task.where == "leased" and task.slot == slot, f"{task} comes back from {slot}"
        task.where, task.slot, task.due_s = "waits", "", due_s

    def _returned(self, fact: f.TasksReturned) -> None:
        for id in fact.ids:
            self._back(id, fact.slot)

    def _failed(self, fact: f.AttemptFailed) -> None:
        self.tasks[fact.id].failures += 1
        self._back(fact.id, fact.slot, fact.due_s)

    def _yielded(self, fact: f.TaskYielded) -> None:
        self._back(fact.id, fact.slot)
        self.tasks[fact.id].at_s = fact.at_s

    def _forgotten(self, fact: f.TasksForgotten) -> None:
        for id in fact.ids:
            task = self.forgotten[id] = self.tasks.pop(id)
            assert task.where in ("done", "dead", "cancelled"), "I3: a task is forgotten before it ends"

    def _slot_joined(self, fact: f.SlotJoined) -> None:
        assert fact.slot not in self.slots
        self.slots[fact.slot] = fact

    def _slot_ended(self, fact: f.SlotEnded) -> None:
        del self.slots[fact.slot]
        assert not any(task.slot == fact.slot for task in self.tasks.values()), "a slot ends with tasks"

    def _queue_set(self, fact: f.QueueSet) -> None:
        self.settings[fact.name] = fact.settings
        self.tokens.pop(fact.name, None)

    def _queue_removed(self, fact: f.QueueRemoved) -> None:
        self.settings.pop(fact.name, None)

    _FACTS: dict[type, Callable[[Reference, Any], None]] = {
        LeaderElected: _elected,
        f.TasksSubmitted: _submitted,
        f.TasksLeased: _leased,
        f.TasksDone: _done,
        f.TaskDied: _died,
        f.TasksCancelled: _cancelled,
        f.TaskRevived: _revived,
        f.TasksReturned: _returned,
        f.AttemptFailed: _failed,
        f.TaskYielded: _yielded,
        f.TasksForgotten: _forgotten,
        f.SlotJoined: _slot_joined,
        f.SlotEnded: _slot_ended,
        f.QueueSet: _queue_set,
        f.QueueRemoved: _queue_removed,
    }

"""The calls of a pool and the lanes they wait in. Pure.

A lane holds calls that are alike to the scheduler, in the order of their submission: a million of them cost no more to
deal than ten. What a lane holds is a hint; a call counts while it is READY, so whoever takes one out of another way
(a cancellation) need not look for it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque

import msgspec

from plesio.core.pool.recipe import MESSAGE, QueueSettings, Recipe
from plesio.core.taskbook import TaskState, check_move

FOR_CLIENTS = ((MESSAGE, 0.0),)  # what a lane of messages requires
LaneKey = tuple[str, int, tuple[tuple[str, float], ...]]
WAITS = (TaskState.READY, TaskState.WAITING)
FAILED = (TaskState.DEAD, TaskState.CANCELLED)


class Call(msgspec.Struct, gc=False):
    """A task that is a call of a function. Owned and changed by the Book alone."""

    id: int
    recipe: Recipe
    args: bytes
    order: int  # of submission, over all clients
    at_s: float  # when it was submitted
    due_s: float = 0.0  # not before
    needs: tuple[int, ...] = ()
    key: str = ""
    state: TaskState = TaskState.READY
    owner: str = ""  # a slot
    attempts: int = 0  # that failed
    crashes: int = 0  # of processes under it
    losses: int = 0  # of workers under it
    unmet: int = 0  # how many of its needs have not ended
    result: bytes = b""
    kind: str = ""  # of failure, once it has failed
    message: str = ""
    ended_s: float = 0.0
    tries: int = 0  # that are over: what is said of an earlier one does not concern the one that is under way

    @property
    def ended(self) -> bool:
        """Will it never change again by itself?"""
        return self.state in (TaskState.DONE, TaskState.DEAD, TaskState.CANCELLED)


class Lane:
    """Calls of one queue, priority and requirement that may begin. Order: that of submission, whatever came back."""

    def __init__(self, key: LaneKey) -> None:
        self.queue, self.priority, self.requires = key
        self.for_slots = self.requires != FOR_CLIENTS
        self._fresh: deque[Call] = deque()
        self._back: list[tuple[int, Call]] = []  # a heap

    def __len__(self) -> int:
        """At most so many wait."""
        return len(self._fresh) + len(self._back)

    def add(self, call: Call) -> None:
        """A new one, or one that comes back."""
        if not self._fresh or call.order > self._fresh[-1].order:
            self._fresh.append(call)
        else:
            heapq.heappush(self._back, (call.order, call))

    def head(self) -> Call | None:
        """The next one; it stays."""
        fresh, back = self._fresh, self._back
        while fresh and fresh[0].state is not TaskState.READY:
            fresh.popleft()
        while back and back[0][1].state is not TaskState.READY:
            heapq.heappop(back)
        if back and (not fresh or back[0][0] < fresh[0].order):
            return back[0][1]
        return fresh[0] if fresh else None

    def first(self, count: int) -> list[Call]:
        """The next ones, in order; they stay."""
        fresh = itertools.islice((call for call in self._fresh if call.state is TaskState.READY), count)
        back = (call for _, call in heapq.nsmallest(count, self._back) if call.state is TaskState.READY)
        return sorted((*fresh, *back), key=lambda call: call.order)[:count]

    def take(self) -> Call | None:
        """The next one, which leaves the lane."""
        call = self.head()
        if call is not None:
            if self._fresh and self._fresh[0] is call:
                self._fresh.popleft()
            else:
                heapq.heappop(self._back)
        return call


class Queue(msgspec.Struct):
    """A named queue. waiting: calls that nobody has yet."""

    settings: QueueSettings
    waiting: int = 0


class Book:
    """All calls that have not been forgotten, and what can be derived from them. The only owner of Call."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.queues: dict[str, Queue] = {}
        self.lanes: dict[LaneKey, Lane] = {}
        self.leases: dict[str, dict[int, Call]] = {}  # by slot, in the order of leasing
        self.delayed: list[tuple[float, int]] = []  # (due_s, id), a heap
        self.dependents: dict[int, list[int]] = {}  # who needs it
        self.pins: dict[int, int] = {}  # by id: how many calls that have not ended need its result
        self.keys: dict[tuple[str, str], int] = {}  # (queue, key) -> the one that has it and has not failed
        self.order = 0
        self.counts = dict.fromkeys(TaskState, 0)  # how many ever reached each state that ends one
        self.recipes: dict[Recipe, Recipe] = {}  # one object each

    def add(self, call: Call) -> None:
        """A new call, or one that a snapshot kept."""
        self.calls[call.id] = call
        if call.key and call.state not in FAILED:
            self.keys[call.recipe.queue, call.key] = call.id
        if call.needs and not call.ended:
            for need in call.needs:
                self.pins[need] = self.pins.get(need, 0) + 1
                if call.state is TaskState.WAITING:
                    self.dependents.setdefault(need, []).append(call.id)
        if call.state in WAITS:
            self.queue(call.recipe.queue).waiting += 1
            if call.state is TaskState.READY:
                self.place(call)
        elif call.state is TaskState.LEASED:
            self.leases.setdefault(call.owner, {})[call.id] = call

    def queue(self, name: str) -> Queue:
        """The queue of this name; one with the usual settings when nobody made it."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(QueueSettings())
        return queue

    def room(self, name: str) -> int:
        """How many more calls may wait in a queue."""
        settings, waiting = (
            (QueueSettings(), 0) if (known := self.queues.get(name)) is None else (known.settings, known.waiting)
        )
        return max(0, settings.capacity - waiting)

    def shared(self, recipe: Recipe) -> Recipe:
        """The one object that equals this."""
        return self.recipes.setdefault(recipe, recipe)

    def place(self, call: Call) -> None:
        """To where it waits for its turn."""
        if call.due_s > 0:
            heapq.heappush(self.delayed, (call.due_s, call.id))
        else:
            self.lane(call.recipe).add(call)

    def lane(self, recipe: Recipe) -> Lane:
        """Where calls of this recipe wait."""
        key = (recipe.queue, recipe.priority, FOR_CLIENTS if recipe.fn == MESSAGE else recipe.requires)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
        return lane

    def wake(self, now_s: float) -> None:
        """What was delayed until now waits in its lane."""
        while self.delayed and self.delayed[0][0] <= now_s:
            due_s, id = heapq.heappop(self.delayed)
            call = self.calls.get(id)
            if call is not None and call.state is TaskState.READY and call.due_s == due_s:
                self.lane(call.recipe).add(call)

    def lease(self, call: Call, slot: str) -> None:
        """A slot has it."""
        self._move(call, TaskState.LEASED)
        call.owner, call.due_s = slot, 0.0
        held = self.leases.get(slot)
        if held is None:
            held = self.leases[slot] = {}
        held[call.id] = call

    def give_back(self, call: Call, due_s: float = 0.0) -> None:
        """It waits again, in its old place."""
        self._move(call, TaskState.READY)
        call.due_s = due_s
        self.place(call)

    def revive(self, call: Call) -> None:
        """A dead one waits again, as if it were new."""
        call.attempts = call.crashes = call.losses = call.unmet = 0
        call.tries += 1
        call.kind = call.message = ""
        for need in call.needs:
            self.pins[need] = self.pins.get(need, 0) + 1
        if call.key:
            self.keys[call.recipe.queue, call.key] = call.id
        self.give_back(call)

    def line_up(self) -> None:
        """Makes the lanes anew: a fold of facts tells what waits, and leaves in the lanes what does so no more."""
        self.lanes, self.delayed = {}, []
        for call in self.calls.values():
            if call.state is TaskState.READY:
                self.place(call)

    def end(self, call: Call, to: TaskState, at_s: float, kind: str = "", message: str = "") -> None:
        """It is done, dead or cancelled."""
        self._move(call, to)
        self.counts[to] += 1
        call.ended_s, call.kind, call.message = at_s, kind, message
        for need in call.needs:
            self.pins[need] -= 1
            if not self.pins[need]:
                del self.pins[need]
        if to in FAILED:
            self._let_go(call)
        if to is TaskState.DONE:
            for other in self.dependents.pop(call.id, ()):
                dependent = self.calls.get(other)
                if dependent is not None and dependent.state is TaskState.WAITING:
                    dependent.unmet -= 1
                    if dependent.unmet == 0 and dependent.recipe.fn:
                        self.give_back(dependent, dependent.due_s)

    def forget(self, call: Call) -> None:
        """It ended long ago."""
        del self.calls[call.id]
        self.dependents.pop(call.id, None)
        self._let_go(call)

    def _let_go(self, call: Call) -> None:
        """Its key is free."""
        key = (call.recipe.queue, call.key)
        if call.key and self.keys.get(key) == call.id:
            del self.keys[key]

    def _move(self, call: Call, to: TaskState) -> None:
        """The only way a state changes."""
        state = call.state
        check_move(call.id, state, to)
        if state is TaskState.LEASED:
            del self.leases[call.owner][call.id]
            call.owner = ""
        elif state in WAITS:
            self.queues[call.recipe.queue].waiting -= 1
        if to in WAITS:
            self.queue(call.recipe.queue).waiting += 1
        call.state = to

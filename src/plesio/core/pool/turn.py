"""What one batch of stimuli changes: the whole state, and the turn that collects facts and effects. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from plesio.core.membership import Pulse
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool.book import Call
from plesio.core.pool.places import Replies
from plesio.core.pool.recipe import MESSAGE, client_of
from plesio.core.pool.state import Durable, apply
from plesio.core.pool.waits import Waits
from plesio.core.refusals import Refusals
from plesio.core.taskbook import TaskState
from plesio.policies.aging import Aging
from plesio.policies.base import Order, Placement
from plesio.policies.rate_aware import RateAware
from plesio.policies.speculation import Speculation
from plesio.policies.stealing import Stealing

RESERVED = "@"  # begins tags that only the pool gives its own slots
MESSAGE_BYTES = 16 << 20  # of values in a message to a client or slot, unless one alone is larger


class Policies(msgspec.Struct, frozen=True):
    """How a pool schedules."""

    order: Order = Aging()
    placement: Placement = RateAware()
    stealing: Stealing = Stealing()
    speculation: Speculation = Speculation()


class Seat:
    """What is known of a connected slot. Owned by the schedule. tasks: what it has, in order, with the cost of each."""

    __slots__ = ("backlog_s", "exited", "leaving", "name", "node", "own", "progress_s", "speed", "tags", "tasks")

    def __init__(self, name: str, node: str, tags: tuple[tuple[str, float], ...], now_s: float) -> None:
        self.name = name
        self.node = node
        self.tags = dict(tags)
        self.own = any(tag.startswith(RESERVED) for tag in self.tags)  # for the pool's own tasks, all at once
        self.tasks: dict[int, float] = {}
        self.backlog_s = 0.0
        self.speed = 1.0
        self.leaving = False
        self.exited = False  # its process is gone, and its connection not yet
        self.progress_s = now_s  # when it last finished something, or got something while it had nothing

    def offers(self, requires: tuple[tuple[str, float], ...]) -> bool:
        """Has it all that is required? A slot with a tag of the pool's own has nothing for those that do not require it."""
        if self.own and not any(tag.startswith(RESERVED) for tag, _ in requires):
            return False
        return all(self.tags.get(tag, 0.0) >= amount for tag, amount in requires)

    def drop(self, id: int) -> None:
        """It does not have this task any more."""
        cost_s = self.tasks.pop(id, 0.0)
        self.backlog_s = self.backlog_s - cost_s if self.tasks else 0.0


class Bucket(msgspec.Struct):
    """How many tasks of a queue may begin now."""

    tokens: float
    at_s: float


class Volatile:
    """Estimates and who is connected. Never journaled; owned by the handlers."""

    def __init__(self) -> None:
        self.seats: dict[str, Seat] = {}  # connected slots
        self.nodes: dict[str, Pulse] = {}  # connected nodes
        self.pulses: dict[str, Pulse] = {}  # of slots
        self.online: set[str] = set()  # sessions of connected clients
        # by session: first -> (stop, queue) of what it will submit again; '': room is no matter, or it was told of room
        self.put_off: dict[str, dict[int, tuple[int, str]]] = {}
        self.watchers: dict[int, set[str]] = {}  # by task: sessions that asked for its end
        self.costs_s: dict[str, float] = {}  # by function: seconds of one call on an average slot
        self.seen: dict[str, int] = {}  # by function: how often that was measured
        self.unfit: dict[tuple[str, str], str] = {}  # (node, function) -> why it cannot be imported there
        self.concurrent: set[str] = set()  # functions of which a slot may run many calls at once
        self.yielding: dict[str, tuple[int, float]] = {}  # by slot: the task that was asked to leave it, and when
        self.copies: dict[int, str] = {}  # task -> the slot that runs a second copy of it
        self.buckets: dict[str, Bucket] = {}
        self.getters: dict[str, dict[tuple[str, int], int]] = {}  # by queue: (session, number) -> messages wanted
        self.gone_s: dict[str, float] = {}  # clients that hold messages and are not connected: since when
        self.waits = Waits()  # for locks and so on
        self.alive_s: dict[int, float] = {}  # clients that hold or wait: taken for gone at this time, unless heard of
        self.answered: dict[str, Replies] = {}  # by session: what was said on this connection and changed nothing
        self.taken: deque[int] = deque()  # ended tasks whose clients know it
        self.heavy: set[int] = set()  # of these, those with large results
        self.choices = 0
        self.refusals = Refusals()
        self.ticked_s = 0.0
        self.swept_s = 0.0


class State:
    """All that a pool's coordinator knows."""

    def __init__(self, durable: Durable | None = None, policies: Policies | None = None) -> None:
        self.durable = durable or Durable()
        self.policies = policies or Policies()
        self.volatile = Volatile()


class Turn:
    """A batch being handled: collects its facts, applying each at once, and its effects."""

    def __init__(self, state: State, now_s: float) -> None:
        self.durable = state.durable
        self.book = state.durable.book
        self.volatile = state.volatile
        self.policies = state.policies
        self.now_s = max(now_s, state.durable.latest_s)  # facts never go back in time
        self.facts: list[f.AnyFact] = []
        self.effects: list[e.Effect] = []
        self.done: dict[str, tuple[list[int], list[bytes]]] = {}  # what to tell each client
        self.runs: dict[str, list[Call]] = {}  # what to send each slot

    def emit(self, fact: f.AnyFact) -> None:
        """Records a fact."""
        apply(self.durable, fact)
        self.facts.append(fact)

    def order(self, effect: e.Effect) -> None:
        """Orders an effect, to be carried out after the facts are durable."""
        self.effects.append(effect)

    def refuse(self, who: str, reason: str) -> None:
        """Records that somebody was turned away; what comes again and again is told in bounded space."""
        fact = self.volatile.refusals.note(self.now_s, who, reason)
        if fact is not None:
            self.emit(fact)

    def pulse(self, slot: str) -> Pulse:
        """A slot's signs of life."""
        return self.volatile.pulses.setdefault(slot, Pulse(self.now_s))

    def tell(self, call: Call) -> None:
        """Whoever waits for the end of this task is told it; of a message nobody does."""
        if call.recipe.fn == MESSAGE:
            self.volatile.taken.append(call.id)
            return
        session = self.durable.sessions.get(client_of(call.id), "")
        watchers = self.volatile.watchers.pop(call.id, ())
        if session in self.volatile.online and session not in watchers:
            self.tell_one(session, call)
        for watcher in watchers:
            self.tell_one(watcher, call)

    def tell_one(self, session: str, call: Call) -> None:
        """This client is told how the task ended."""
        if session not in self.volatile.online:
            return
        if call.state is TaskState.DONE:
            ids, results = self.done.setdefault(session, ([], []))
            ids.append(call.id)
            results.append(call.result)
        else:
            self.order(e.TellFailure(session, call.id, call.kind, call.message))

    def finish(self) -> None:
        """What was collected becomes effects."""
        for session, (ids, results) in self.done.items():
            for start, stop in _pieces([len(result) for result in results]):
                self.order(e.Tell(session, tuple(ids[start:stop]), tuple(results[start:stop])))
        for slot, calls in self.runs.items():
            for start, stop in _pieces([self._size_bytes(call) if call.needs else len(call.args) for call in calls]):
                self.order(e.Run(slot, self._orders(calls[start:stop])))

    def settle(self) -> None:
        """What is to be sent to a slot that lost it, once, and if it has it still, whatever else came in this turn."""
        for slot, calls in self.runs.items():
            self.runs[slot] = [call for call in {call.id: call for call in calls}.values() if self._has(slot, call)]

    def _has(self, slot: str, call: Call) -> bool:
        return call.state is TaskState.LEASED and slot in (call.owner, self.volatile.copies.get(call.id))

    def _size_bytes(self, call: Call) -> int:
        return len(call.args) + sum(len(self.book.calls[need].result) for need in call.needs)

    def _orders(self, calls: list[Call]) -> tuple[e.Order, ...]:
        """Neighbours of one function, together."""
        groups: list[list[Call]] = []
        for call in calls:
            last = groups[-1][0] if groups else call
            alike = last.recipe is call.recipe and last.tries == call.tries and not call.needs and not last.needs
            if groups and alike:
                groups[-1].append(call)
            else:
                groups.append([call])
        return tuple(self._order(group) for group in groups)

    def _order(self, group: list[Call]) -> e.Order:
        recipe, known = group[0].recipe, self.book.calls
        inputs = tuple((need, known[need].result) for need in group[0].needs)
        ids, args = tuple(c.id for c in group), tuple(c.args for c in group)
        needs, yields = (inputs,) if inputs else (), recipe.yields_s > 0
        return e.Order(recipe.fn, recipe.timeout_s, ids, args, needs, group[0].tries, yields)


def _pieces(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of what goes into a message each: what is larger than MESSAGE_BYTES goes alone."""
    if sum(sizes) <= MESSAGE_BYTES:
        yield from [(0, len(sizes))] if sizes else ()
        return
    start = total = 0
    for at, size in enumerate(sizes):
        if total + size > MESSAGE_BYTES and at > start:
            yield start, at
            start, total = at, 0
        total += size
    yield start, len(sizes)

"""The processes around a simulated pool: clients, nodes and slots, which behave as those of tasks/ and runtime/ do.

What each says again after a reconnection is what the real one says again. See pool.py for the rest of it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from plesio.core.pool import effects as e
from plesio.core.pool import outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.outbox import Outbox
from plesio.core.pool.recipe import Recipe

if TYPE_CHECKING:
    from plesio.sim.pool import Connection, Pool

BEAT_S, RESTART_S, OVERTIME_S, PAUSE_S = 0.5, 0.2, 2.0, 0.001  # as in runtime/node.py and runtime/slot.py
TAKEN = 3  # outcomes confirmed together


class Peer:
    """What clients, nodes and slots have in common: a connection, made again and again."""

    role = ""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.world = pool, pool.world
        self.alive = True
        self.connection: Connection | None = None

    def connect(self) -> None:
        """Now, or as soon as there is a coordinator."""
        if self.alive and self.connection is None:
            if self.pool.coordinator is None:
                self.world.at(self.world.rng.uniform(0.05, 0.5), self.connect)
                return
            self.connection = self.pool.connection(self)
            self.greet()

    def greet(self) -> None:
        """Who it is, and what it says again."""

    def tell(self, message: Any) -> None:
        """Lost when there is no connection."""
        if self.connection is not None:
            self.connection.up(message)

    def lost(self, connection: Connection) -> None:
        """The connection broke."""
        if self.connection is connection:
            self.connection = None
            self.world.at(self.world.rng.uniform(0.01, 0.3), self.connect)

    def end(self) -> None:
        """The process ends."""
        self.alive = False
        if self.connection is not None:
            self.connection.cut()


class Work(msgspec.Struct):
    """What a task does. ends: how its attempts end, one after the other; the last one again and again; '': well."""

    seconds: float = 0.001
    ends: tuple[str, ...] = ("",)
    stubborn: bool = False  # does not stop when told to
    began: int = 0


class Slot(Peer):
    """One life of a slot, as runtime/slot.py: it reads between two tasks, keeps what it sent, and names what it holds."""

    role = "slot"

    def __init__(self, node: Node, name: str, incarnation: str) -> None:
        super().__init__(node.pool)
        self.node, self.name, self.incarnation = node, name, incarnation
        self.todo: deque[tuple[int, float, bytes, int]] = deque()  # (id, timeout_s, args, attempt)
        self.done: list[tuple[int, bytes]] = []  # results not sent yet
        self.busy_s = 0.0
        self.sent: deque[Any] = deque(maxlen=512)
        self.heard: list[Any] = []
        self.current = 0
        self.attempt = 0
        self.run = 0
        self.looked_s = 0.0
        self.reconnects = False

    def greet(self) -> None:
        holds = [item[0] for item in self.todo]
        for message in self.sent:
            holds += message.ids if isinstance(message, s.Finished) else [message.id]
        holds += [id for id, _ in self.done]
        self.tell(s.SlotUp(self.name, self.node.name, self.incarnation, self.node.tags, tuple(holds)))
        for message in self.sent:
            self.tell(message)
        self.heard.clear()
        self._go_on()

    def lost(self, connection: Connection) -> None:
        if self.current:  # it learns of it when it listens again
            self.reconnects = True
        else:
            super().lost(connection)

    def receive(self, connection: Connection, message: Any) -> None:
        """Waits until it is read."""
        self.heard.append(message)
        if not self.current:
            self._go_on()

    def _listen(self) -> None:
        self.looked_s = self.world.now_s
        heard, self.heard = self.heard, []
        for message in heard:
            if isinstance(message, e.Run):
                here = {item[0] for item in self.todo}
                for order in message.orders:
                    for id, args in zip(order.ids, order.args, strict=True):
                        if id not in here:
                            self.todo.append((id, order.timeout_s, args, order.attempt))
            elif isinstance(message, e.Revoke):
                gone = tuple(item[0] for item in self.todo if item[0] in message.ids)
                self.todo = deque(item for item in self.todo if item[0] not in message.ids)
                if gone:
                    self.tell(s.GaveBack(self.name, self.incarnation, gone))

    def _go_on(self) -> None:
        if not self.alive or self.current:
            return
        if self.reconnects:
            self.reconnects = False
            if self.connection is not None and not self.connection.open:
                super().lost(self.connection)
        if self.connection is None:
            return
        if not self.todo or self.world.now_s - self.looked_s > PAUSE_S:
            self._flush()
            self._listen()
        if self.todo:
            self._begin(*self.todo.popleft())

    def _begin(self, id: int, timeout_s: float, args: bytes, attempt: int) -> None:
        work = self.pool.works[args]
        how = work.ends[min(work.began, len(work.ends) - 1)]
        work.began += 1
        self.current, self.attempt = id, attempt
        self.run += 1
        seconds = work.seconds
        if 0 < timeout_s < seconds:
            seconds, how = timeout_s, outcome.TIMED_OUT
        if how == outcome.NOT_FOUND:
            seconds = 0.0
        self.pool.began(id, self)
        self.world.at(seconds, self._ended, self.run, id, how, args)
        self.busy_s += seconds if seconds < 1e3 else 0.0

    def _ended(self, run: int, id: int, how: str, args: bytes) -> None:
        if not self.alive or self.run != run or self.current != id:
            return
        if how in (outcome.CRASHED, outcome.MEMORY, outcome.LOST):
            self.node.slot_died(self, how)
            return
        if how == "only here":  # as if it were not importable on all nodes but one
            how = "" if self.node.name == "n0" else outcome.NOT_FOUND
        self.current = 0
        if how:
            self.fail(id, how)
        else:
            self.done.append((id, b"result of " + args))
        self._go_on()

    def stop(self, id: int) -> None:
        """A signal of its node."""
        if self.current == id:
            self.current = 0
            self.fail(id, outcome.CANCELLED)
            self._go_on()

    def fail(self, id: int, kind: str) -> None:
        """A task failed."""
        self._flush()
        self._say(s.Failed(self.name, self.incarnation, id, kind, f"it {kind}", self.attempt))

    def _flush(self) -> None:
        if self.done:
            ids, results = zip(*self.done, strict=True)
            busy_s, self.done, self.busy_s = self.busy_s, [], 0.0
            self._say(s.Finished(self.name, self.incarnation, ids, results, busy_s))

    def _say(self, message: Any) -> None:
        self.sent.append(message)
        self.tell(message)


class Node(Peer):
    """One life of a node, as runtime/node.py: starts slots, says why they ended, stops tasks."""

    role = "node"

    def __init__(self, pool: Pool, name: str, slots: int, tags: tuple[tuple[str, float], ...]) -> None:
        super().__init__(pool)
        self.name, self.tags = name, tags
        self.outbox: list[s.SlotExited] = []
        self.slots: dict[str, Slot | None] = {}
        for i in range(slots):
            self._start(f"{name}.{i}")
        self.connect()
        self._beat_on()

    def _start(self, name: str) -> None:
        if self.alive:
            self.pool.lives += 1
            slot = self.slots[name] = Slot(self, name, f"life {self.pool.lives}")
            self.world.at(self.world.rng.uniform(0.0, 0.02), slot.connect)

    def greet(self) -> None:
        self._beat()
        for message in self.outbox:
            self.tell(message)
        self.outbox.clear()

    def _beat(self) -> None:
        alive = [slot for slot in self.slots.values() if slot is not None]
        slots = tuple((slot.name, slot.incarnation) for slot in alive)
        self.tell(s.NodeUp(self.name, slots, tuple(slot.current for slot in alive)))

    def _beat_on(self) -> None:
        if self.alive:
            self._beat()
            self.world.at(BEAT_S, self._beat_on)

    def receive(self, connection: Connection, message: Any) -> None:
        """Only StopTask comes."""
        assert isinstance(message, e.StopTask)
        slot = self.slots.get(message.slot)
        if slot is None or slot.incarnation != message.incarnation or slot.current != message.id:
            return
        if self.pool.is_stubborn(message.id):
            self.world.at(OVERTIME_S, self._kill_if_at, slot, message.id, slot.run)
        else:
            slot.stop(message.id)

    def _kill_if_at(self, slot: Slot, id: int, run: int) -> None:
        if slot.current == id and slot.run == run:
            self.slot_died(slot, outcome.CANCELLED)

    def slot_died(self, slot: Slot, kind: str) -> None:
        """Its process ended."""
        if not slot.alive or not self.alive:
            return
        slot.end()
        self.slots[slot.name] = None
        message = s.SlotExited(slot.name, slot.incarnation, slot.current, kind, f"it {kind}")
        if self.connection is None:
            self.outbox.append(message)
        self.tell(message)
        self.world.at(RESTART_S, self._start, slot.name)

    def end(self) -> None:
        super().end()
        for slot in self.slots.values():
            if slot is not None:
                slot.end()


class Client(Peer):
    """A client, as tasks/link.py: resends what is not confirmed, asks for what is open."""

    role = "client"

    def __init__(self, pool: Pool, session: str) -> None:
        super().__init__(pool)
        self.session = session
        self.outbox = Outbox(session)
        self.open: set[int] = set()
        self.acknowledged: set[int] = set()
        self.outcomes: dict[int, tuple[str, bytes]] = {}
        self.taken: list[int] = []
        self.welcome = False

    def greet(self) -> None:
        self.welcome = False
        self.tell(s.ClientUp(self.session))

    def submit(self, recipe: Recipe, args: tuple[bytes, ...], **more: Any) -> list[int]:
        """The ids of a new group. Known numbers only once it is welcome."""
        ids = [self.outbox.add(recipe, each, **more) for each in args]
        self.open.update(ids)
        self._flush()
        return ids

    def _flush(self) -> None:
        if self.welcome and self.connection is not None:
            for group in self.outbox.cut():
                self.tell(group)
            if len(self.taken) >= TAKEN:
                self.tell(s.Taken(self.session, tuple(self.taken)))
                self.taken = []

    def receive(self, connection: Connection, message: Any) -> None:
        """What it is told."""
        if isinstance(message, e.Welcome):
            assert self.outbox.number in (0, message.client), "a client got another number"
            self.outbox.number, self.welcome = message.client, True
            for group in self.outbox.resend():
                self.tell(group)
            unknown = self.open.difference(self.outbox.here())
            if unknown:
                self.tell(s.Await(self.session, tuple(sorted(unknown))))
        elif isinstance(message, e.Tell):
            for id, result in zip(message.ids, message.results, strict=True):
                self._ended(id, "", result)
        elif isinstance(message, e.TellFailure):
            self._ended(message.id, message.kind, b"")
        elif isinstance(message, e.Accept):
            durable = self.outbox.confirmed(message.first, message.count)
            if durable is not None:
                self.acknowledged.update(self.outbox.ids(durable.first, len(durable.args)))
        elif isinstance(message, e.Again):
            self.outbox.again(message.first)
            self._send_due()
        elif isinstance(message, e.Decline) and message.retry_s > 0:
            self.outbox.put_off(message.first, self.world.now_s + message.retry_s)
            self.world.at(message.retry_s, self._send_due)
        elif isinstance(message, e.Decline):
            self.outbox.confirmed(message.first, message.count)
            for id in self.outbox.ids(message.first, message.count):
                self._ended(id, "refused", b"")
        self._flush()

    def _send_due(self) -> None:
        if self.connection is not None and self.welcome:
            for group in self.outbox.due(self.world.now_s):
                self.tell(group)

    def _ended(self, id: int, kind: str, result: bytes) -> None:
        self.outcomes.setdefault(id, (kind, result))
        self.open.discard(id)
        self.taken.append(id)

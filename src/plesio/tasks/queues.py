"""Queues of messages between programs, and topics: durable, ordered within a priority, taken one by one or in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from plesio.core.pool import stimuli as s
from plesio.core.pool.effects import Give
from plesio.core.pool.messages import queue_of
from plesio.core.pool.recipe import MESSAGE, TOPIC, QueueChange, Recipe
from plesio.errors import UserError
from plesio.tasks.future import Future
from plesio.tasks.link import Link
from plesio.values import encoding


class Message:
    """One message that was taken: this program's until it is acknowledged or given back, or the program is gone.

    `with message as value:` acknowledges at the end, and gives back when the block raises.
    """

    __slots__ = ("_data", "_link", "_number", "_settled", "attempts", "id")

    def __init__(self, link: Link, id: int, data: bytes, attempts: int) -> None:
        self.id = id
        self.attempts = attempts  # how often it came back before
        self._link = link
        self._data = data
        self._settled = False
        self._number = 0  # under which it is settled

    @property
    def value(self) -> Any:
        """What was put."""
        return encoding.decode(self._data)

    def ack(self, wait: bool = False) -> None:
        """It is done and will not come again. wait: until that is durable."""
        self._settle(True, 0.0, wait)

    def nack(self, delay_s: float = 0.0) -> None:
        """It goes back to its place in the queue, for whoever takes it, not before `delay_s`."""
        self._settle(False, delay_s, False)

    def _settle(self, ok: bool, delay_s: float, wait: bool) -> None:
        if self._settled:
            raise UserError("this message was acknowledged or given back before")
        self._settled = True
        self._number = self._link.settle((self.id,), ok, delay_s)
        if wait:
            self.wait_settled()

    @property
    def settled(self) -> bool:
        """Was it acknowledged or given back?"""
        return self._settled

    def wait_settled(self, timeout: float | None = None) -> None:
        """Until what was said of it is durable. Raises TimeoutError."""
        self._link.settled(self._number, timeout)

    def __enter__(self) -> Any:
        return self.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled:
            self._settle(error is None, 0.0, False)


class MessageQueue:
    """A named queue; made by Client.queue. Any number of programs may put and take."""

    def __init__(self, link: Link, name: str) -> None:
        self.name = name
        self._link = link

    def put(
        self,
        value: Any,
        priority: int = 0,
        delay_s: float = 0.0,
        block: bool = True,
        on_durable: Callable[[], object] | None = None,
    ) -> Future:
        """Sends it, and goes on; the Future is done once it is durable. Higher priorities are taken first.

        block: wait while the queue is known to be full; else raise QueueFull. on_durable: as for Client.submit.
        Raises CannotSend.
        """
        recipe = self._link.same(Recipe(MESSAGE, self.name, priority))
        return self._link.submit(recipe, encoding.encode(value), (), "", delay_s, block, on_durable)

    def put_many(self, values: Iterable[Any], priority: int = 0) -> None:
        """All of them, in order; returns once they are durable."""
        for future in [self.put(value, priority) for value in values]:
            future.result()

    def get(self, timeout: float | None = None) -> Message | None:
        """The next one, which it waits for; None when none comes within `timeout` seconds; 0: when none waits there.

        Raises TimeoutError when the pool does not say whether one does.
        """
        messages = self.get_many(1, timeout)
        return messages[0] if messages else None

    def get_many(self, count: int, timeout: float | None = None) -> list[Message]:
        """Up to `count`, as soon as there is one at least."""
        return self._messages(self._link.take(self.name, count, timeout))

    async def get_async(self, timeout: float | None = None) -> Message | None:
        """As `get`, in an event loop. `put` needs no such thing: its Future can be awaited."""
        messages = await self.get_many_async(1, timeout)
        return messages[0] if messages else None

    async def get_many_async(self, count: int, timeout: float | None = None) -> list[Message]:
        """As `get_many`, in an event loop."""
        return self._messages(await self._link.take_async(self.name, count, timeout))

    def _messages(self, given: Give | None) -> list[Message]:
        if given is None:
            return []
        rows = zip(given.ids, given.values, given.attempts, strict=True)
        return [Message(self._link, id, data, attempts) for id, data, attempts in rows]

    def ack_many(self, messages: Iterable[Message], wait: bool = False) -> None:
        """Of a batch."""
        messages = list(messages)
        for message in messages:
            message._settled = True
        number = self._link.settle([message.id for message in messages], True)
        if wait:
            self._link.settled(number)

    def __iter__(self) -> Iterator[Message]:
        """Messages without end."""
        while True:
            yield from self.get_many(1)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """The same in an event loop."""
        while True:
            if (message := await self.get_async()) is not None:
                yield message

    def peek(self, count: int = 1) -> list[Any]:
        """The next values; they stay."""
        rows = self._link.ask("peek", f"{count} {self.name}")
        return [encoding.decode(bytes.fromhex(row)) for row in rows]

    def __len__(self) -> int:
        """How many wait."""
        return int(self._link.ask("waiting", self.name))

    def set(self, capacity: int | None = None, rate_per_s: float | None = None, paused: bool | None = None) -> None:
        """Resizes it, limits how many may be taken in a second, or stops taking; what is not said stays as it is."""
        self._link.tell(s.SetQueue(self.name, QueueChange(capacity, rate_per_s, paused)))

    def pause(self, paused: bool = True) -> None:
        """Nothing is taken until it goes on; what is put stays."""
        self.set(paused=paused)

    def drain(self, timeout: float | None = None) -> list[Any]:
        """Takes and acknowledges all that waits, and what comes within `timeout` of that; returns the values."""
        values = []
        while messages := self.get_many(1000, timeout or 0):
            values += [message.value for message in messages]
            self.ack_many(messages)
        return values

    def remove(self) -> None:
        """What waits in it is given up."""
        self._link.tell(s.RemoveQueue(self.name))


class Topic:
    """What is published goes to each subscription; made by Client.topic."""

    def __init__(self, link: Link, name: str) -> None:
        self.name = name
        self._link = link

    def publish(self, value: Any, priority: int = 0, block: bool = True) -> Future:
        """The Future is done once a copy for each subscription is durable."""
        recipe = self._link.same(Recipe(TOPIC, self.name, priority))
        return self._link.submit(recipe, encoding.encode(value), (), "", 0.0, block)

    def subscribe(self, name: str, capacity: int | None = None) -> MessageQueue:
        """The queue of what is published from now on. A named subscription stays when its program goes."""
        queue = MessageQueue(self._link, queue_of(self.name, name))
        self._link.tell(s.Subscribe(self.name, name))
        queue.set(capacity)
        self._link.ask("queue", queue.name)  # it is known by now
        return queue

    def unsubscribe(self, name: str) -> None:
        """What waits for it is given up."""
        self._link.tell(s.Subscribe(self.name, name, False))

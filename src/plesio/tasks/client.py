"""The client: submit functions, gather what they return."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from plesio.core.pool import stimuli as s
from plesio.core.pool.places import LOCK, SEMAPHORE
from plesio.core.pool.recipe import QueueChange, Recipe, id_of
from plesio.core.refusals import REASON_LENGTH, WHO_LENGTH
from plesio.errors import UserError
from plesio.tasks.counters import Barrier, Counter, Event
from plesio.tasks.future import Future
from plesio.tasks.link import Link
from plesio.tasks.locks import Lock, ReadWriteLock
from plesio.tasks.naming import recipe_of
from plesio.tasks.queues import MessageQueue, Topic
from plesio.values import encoding

WINDOW = 1000  # tasks of a map that are under way


class Client:
    """A pool's user. Threads may share it; `with` closes it. Made by `plesio.connect`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._recipes: dict[Any, Recipe] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """What was submitted stays submitted. An embedded pool ends a second after its last client."""
        self._link.close()

    def submit(
        self,
        fn: str | Callable[..., Any],
        *args: Any,
        queue: str | None = None,
        priority: int | None = None,
        key: str = "",
        delay_s: float = 0.0,
        timeout_s: float | None = None,
        retries: int | None = None,
        requires: dict[str, float] | None = None,
        yields_s: float | None = None,
        block: bool = True,
        kwargs: dict[str, Any] | None = None,
        on_durable: Callable[[], object] | None = None,
    ) -> Future:
        """One call of a function, somewhere. A Future among the arguments stands for its result.

        fn: a function at the top of a module, or its name 'package.module:function'. priority: higher ones begin
        earlier, and none waits for ever. key: a task with the same key in the queue is not made twice. delay_s: not
        before. timeout_s: of one attempt. retries: when it raises or runs out of time. requires: tags of the worker,
        {'gpu': 1}. yields_s: it takes long, and leaves its slot to a task of a higher priority: `errors.Stopped` is
        raised in it, which it has so many seconds to handle, and it runs again later. block: when the queue is full,
        wait; else raise QueueFull. kwargs: the function's keyword arguments. on_durable: called once it is durable, or
        refused, by the thread that learns of it; it is then sent at once.
        Raises UserError for what cannot be a task, CannotSend for arguments that cannot be sent.
        """
        recipe = self._recipe(fn, queue, priority, timeout_s, retries, requires, yields_s)
        if any(type(arg) is Future for arg in args) or kwargs:
            args = tuple(_refer(arg) for arg in args)
            kwargs = {name: _refer(arg) for name, arg in (kwargs or {}).items()}
        data, needs = encoding.encode_call(args, kwargs or {}, self._link.shares)
        return self._link.submit(recipe, data, needs, key, delay_s, block, on_durable)

    def flush(self, timeout: float = 60.0) -> None:
        """Until what was submitted is durable, or refused, as its futures tell. Raises TimeoutError: the queue is full."""
        self._link.confirm(timeout)

    def _recipe(self, fn: Any, *said: Any) -> Recipe:
        plain = all(option is None for option in said)
        known = self._recipes.get(fn) if plain else None
        if known is None:
            names = ("queue", "priority", "timeout_s", "retries", "requires", "yields_s")
            known = self._link.same(recipe_of(fn, dict(zip(names, said, strict=True))))
            if plain:
                self._recipes[fn] = known
        return known

    def map(
        self,
        fn: str | Callable[..., Any],
        items: Iterable[Any],
        *,
        window: int = WINDOW,
        ordered: bool = True,
        **options: Any,
    ) -> Iterator[Any]:
        """The results of fn(item), as they come in order, or as they come. At most `window` tasks are under way.

        Raises what `Future.result` raises, at the item's turn; what is still under way is then cancelled.
        """
        pending: deque[Future] = deque()
        try:
            for item in items:
                pending.append(self.submit(fn, item, **options))
                while len(pending) >= window:
                    yield self._next(pending, ordered)
            while pending:
                yield self._next(pending, ordered)
        finally:
            if pending:
                self._link.cancel([future.id for future in pending])

    def _next(self, pending: deque[Future], ordered: bool) -> Any:
        if not ordered:
            while True:
                for index, future in enumerate(pending):
                    if future.done():
                        del pending[index]
                        return future.result()
                self._link.wait_any(pending)
        return pending.popleft().result()

    def gather(self, futures: Iterable[Future], timeout: float | None = None) -> list[Any]:
        """All results, in order. Raises the first failure, in order."""
        return [future.result(timeout) for future in list(futures)]  # all of them are submitted before the first wait

    def reduce(
        self,
        fn: str | Callable[..., Any],
        items: Iterable[Any],
        *,
        combine: str | Callable[..., Any],
        tree: bool = True,
        **options: Any,
    ) -> Any:
        """fn of every item, and combine(a, b) of the results: on the workers, as a tree, or one after the other.

        combine must be associative; the order of items is kept. Raises UserError when there is no item.
        """
        level = [self.submit(fn, item, **options) for item in items]
        if not level:
            raise UserError("there is nothing to reduce")
        if not tree:
            return functools.reduce(lambda a, b: self.submit(combine, a, b, **options), level).result()
        while len(level) > 1:
            pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
            level = [self.submit(combine, *pair, **options) if len(pair) == 2 else pair[0] for pair in pairs]
        return level[0].result()

    def follow(self, names: Sequence[str]) -> list[Future]:
        """Futures of tasks by name ('3-17'), whoever submitted them; known once the submitter's `flush` has returned."""
        return self._link.follow(_ids(names))

    def cancel(self, names: Sequence[str]) -> None:
        """Those of these tasks that have not ended, whoever submitted them."""
        self._link.cancel(_ids(names))

    def retry(self, names: Sequence[str]) -> None:
        """Gives those of these tasks that failed for good another chance."""
        for id in _ids(names):
            self._link.tell(s.Revive(id))

    def ask(self, what: str, argument: str = "", timeout: float = 10.0) -> Any:
        """What the pool knows: 'counts', 'tasks' (of a state), 'task' (by name), 'queues', 'workers', 'locks'.

        Raises UserError for what it does not know, TimeoutError.
        """
        return self._link.ask(what, argument, timeout)

    def refused(self, who: str, reason: str) -> None:
        """Has the pool journal that this program turned somebody away at a door of its own."""
        self._link.tell(s.Refused(who[:WHO_LENGTH], reason[:REASON_LENGTH]))

    def queue(self, name: str, *, capacity: int | None = None) -> MessageQueue:
        """A queue of messages by name; it is made when it is first used. capacity: resizes it."""
        queue = MessageQueue(self._link, name)
        if capacity is not None:
            queue.set(capacity)
        return queue

    def topic(self, name: str) -> Topic:
        """A topic by name."""
        return Topic(self._link, name)

    def remove_queue(self, name: str) -> None:
        """What is in it is cancelled."""
        self._link.tell(s.RemoveQueue(name))

    def lock(self, name: str) -> Lock:
        """What one thread or task of all programs holds at a time. `with client.lock("x") as held: held.token`."""
        return Lock(self._link.locking, LOCK, name, shared=False, limit=1)

    def rwlock(self, name: str) -> ReadWriteLock:
        """What many may read at a time, or one write: `with client.rwlock("x").read(): ...`."""
        return ReadWriteLock(self._link.locking, name)

    def semaphore(self, name: str, n: int) -> Lock:
        """What `n` hold at a time."""
        return Lock(self._link.locking, SEMAPHORE, name, shared=True, limit=n)

    def counter(self, name: str) -> Counter:
        """A durable integer, 0 at first."""
        return Counter(self._link.locking, name)

    def barrier(self, name: str, n: int) -> Barrier:
        """Where `n` wait for each other, again and again."""
        return Barrier(self._link.locking, name, n)

    def event(self, name: str) -> Event:
        """What is set, or not, and waited for."""
        return Event(self._link.locking, name)

    def set_queue(
        self, name: str, *, capacity: int | None = None, rate_per_s: float | None = None, paused: bool | None = None
    ) -> None:
        """Makes a queue of tasks, or changes it; what is not said stays as it is."""
        self._link.tell(s.SetQueue(name, QueueChange(capacity, rate_per_s, paused)))


def _ids(names: Sequence[str]) -> list[int]:
    try:
        return [id_of(name) for name in names]
    except ValueError as error:
        raise UserError(str(error)) from error


def _refer(arg: Any) -> Any:
    return encoding.Ref(arg.id) if type(arg) is Future else arg

"""Locks, read-write locks, semaphores, counters, barriers and events of all programs of a pool. See decision 0010.

What is held is leased: a program that is silent for some seconds loses it, and learns of it when it asks. Whoever writes
elsewhere on the strength of a lock sends `held.token` along, and there the smaller token is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType

from plesio.core.pool.effects import Answer, Granted
from plesio.core.pool.grants import Grants, Outcome
from plesio.core.pool.places import ADD, BARRIER, CHECK, COUNTER, EVENT, GET, PUT, RWLOCK
from plesio.core.pool.stimuli import Change, Release, Want
from plesio.errors import LeaseLost, UserError
from plesio.tasks.locking import Locking, this_task, this_thread


class Held:
    """A place that is held until it is released, or its program is silent. token: greater than of all who held it before."""

    def __init__(self, lock: Lock, owner: str, number: int, token: int) -> None:
        self.token = token
        self.owner = owner
        self.number = number
        self._lock = lock

    def __repr__(self) -> str:
        return f"<Held {self._lock.kind} {self._lock.name!r} token {self.token}>"

    def check(self) -> None:
        """Asks the pool whether it is still held. Raises LeaseLost."""
        self._lock.locking.call(self._check)

    async def check_async(self) -> None:
        """The same in an event loop."""
        await self._lock.locking.call_async(self._check)

    def _check(self, grants: Grants) -> Change:
        return grants.change("", "", CHECK, fence=self.token)

    def release(self) -> None:
        """Others may have it; returns once that is durable. Raises LeaseLost: somebody may have had it before."""
        self._lock.forget(self)
        self._released(_answer(self._lock.locking.call(self._release)))

    async def release_async(self) -> None:
        """The same in an event loop."""
        self._lock.forget(self)
        self._released(_answer(await self._lock.locking.call_async(self._release)))

    def _release(self, grants: Grants) -> Release:
        return grants.release(self.number)

    def _released(self, answer: Answer) -> None:
        if not answer.ok:
            raise LeaseLost(
                f"{self._lock.kind} {self._lock.name!r} was not held any more (token {self.token}): the pool heard nothing "
                "of this program for too long; what it did since may clash with another holder's work"
            )


class Lock:
    """A lock, one side of a read-write lock, or a semaphore, by name; `with` and `async with` hold it.

    Threads of one program, and tasks of an event loop, exclude each other as those of different programs do. Waits are
    granted in order of arrival. One that could never be granted raises WouldDeadlock; so does one for what this very
    thread holds.
    """

    def __init__(self, locking: Locking, kind: str, name: str, shared: bool, limit: int) -> None:
        self.locking = locking
        self.kind = kind
        self.name = name
        self._shared = shared
        self._limit = limit
        self._holds: dict[str, list[Held]] = {}  # by owner, the newest last

    def acquire(self, timeout: float | None = None) -> Held:
        """Waits for it. Raises TimeoutError (timeout 0: at once, unless it is free), WouldDeadlock, UserError."""
        owner = this_thread()
        return self._got(owner, self.locking.call(self._want(owner, timeout), timeout or None))

    async def acquire_async(self, timeout: float | None = None) -> Held:
        """The same in an event loop."""
        owner = this_task()
        return self._got(owner, await self.locking.call_async(self._want(owner, timeout), timeout or None))

    def _want(self, owner: str, timeout: float | None) -> Callable[[Grants], Want]:
        return lambda grants: grants.want(self.kind, self.name, owner, self._shared, self._limit, timeout != 0)

    def _got(self, owner: str, outcome: Outcome) -> Held:
        assert isinstance(outcome, Granted)
        held = Held(self, owner, outcome.number, outcome.token)
        self._holds.setdefault(owner, []).append(held)
        return held

    def release(self) -> None:
        """What this thread acquired last. Raises LeaseLost, or UserError when it holds nothing."""
        self._newest(this_thread()).release()

    async def release_async(self) -> None:
        """What this task acquired last."""
        await self._newest(this_task()).release_async()

    def _newest(self, owner: str) -> Held:
        holds = self._holds.get(owner)
        if not holds:
            raise UserError(f"{owner} does not hold {self.kind} {self.name!r} by this object")
        return holds[-1]

    def forget(self, held: Held) -> None:
        """It is about to be released. Called by Held alone. Raises UserError."""
        holds = self._holds.get(held.owner, [])
        if held not in holds:
            raise UserError(f"{held!r} was released before")
        holds.remove(held)
        if not holds:
            del self._holds[held.owner]

    def __enter__(self) -> Held:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except LeaseLost:
            if error is None:
                raise

    async def __aenter__(self) -> Held:
        return await self.acquire_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.release_async()
        except LeaseLost:
            if error is None:
                raise


class ReadWriteLock:
    """Many read at a time, or one writes. A writer that waits keeps later readers out, so that it has its turn."""

    def __init__(self, locking: Locking, name: str) -> None:
        self._sides = [Lock(locking, RWLOCK, name, shared=shared, limit=0) for shared in (True, False)]

    def read(self) -> Lock:
        """Held with other readers."""
        return self._sides[0]

    def write(self) -> Lock:
        """Held alone."""
        return self._sides[1]


class Counter:
    """A durable integer, 0 at first; each change is made once. fence: only while this is held; else it raises LeaseLost."""

    def __init__(self, locking: Locking, name: str) -> None:
        self._locking = locking
        self._name = name

    def add(self, amount: int = 1, fence: Held | None = None) -> int:
        """The new value."""
        return _value(self._locking.call(self._change(ADD, amount, None, fence)))

    async def add_async(self, amount: int = 1, fence: Held | None = None) -> int:
        """The same in an event loop."""
        return _value(await self._locking.call_async(self._change(ADD, amount, None, fence)))

    def get(self) -> int:
        """The value."""
        return _value(self._locking.call(self._change(GET)))

    async def get_async(self) -> int:
        """The same in an event loop."""
        return _value(await self._locking.call_async(self._change(GET)))

    def compare_and_set(self, expected: int, new: int, fence: Held | None = None) -> bool:
        """Was it `expected`, and is it `new` now?"""
        return _answer(self._locking.call(self._change(PUT, new, expected, fence))).ok

    async def compare_and_set_async(self, expected: int, new: int, fence: Held | None = None) -> bool:
        """The same in an event loop."""
        return _answer(await self._locking.call_async(self._change(PUT, new, expected, fence))).ok

    def _change(
        self, how: str, amount: int = 0, expected: int | None = None, fence: Held | None = None
    ) -> Callable[[Grants], Change]:
        token = fence.token if fence is not None else 0
        return lambda grants: grants.change(COUNTER, self._name, how, amount, expected, token)


class Barrier:
    """Where so many wait for each other, again and again."""

    def __init__(self, locking: Locking, name: str, parties: int) -> None:
        self._locking = locking
        self._name = name
        self._parties = parties

    def wait(self, timeout: float | None = None) -> int:
        """Until all have come; the number of this time, from 0. Raises TimeoutError: it is one of them no more."""
        return _value(self._locking.call(self._want(this_thread(), timeout), timeout or None))

    async def wait_async(self, timeout: float | None = None) -> int:
        """The same in an event loop."""
        return _value(await self._locking.call_async(self._want(this_task(), timeout), timeout or None))

    def _want(self, owner: str, timeout: float | None) -> Callable[[Grants], Want]:
        return lambda grants: grants.want(BARRIER, self._name, owner, True, self._parties, timeout != 0)


class Event:
    """Durably set, or not. Who has no connection while it is set and cleared again does not see it."""

    def __init__(self, locking: Locking, name: str) -> None:
        self._locking = locking
        self._name = name

    def set(self) -> None:
        """Whoever waits goes on."""
        self._locking.call(self._change(PUT, 1))

    async def set_async(self) -> None:
        """The same in an event loop."""
        await self._locking.call_async(self._change(PUT, 1))

    def clear(self) -> None:
        """From now on it is waited for."""
        self._locking.call(self._change(PUT, 0))

    async def clear_async(self) -> None:
        """The same in an event loop."""
        await self._locking.call_async(self._change(PUT, 0))

    def is_set(self) -> bool:
        """Just now."""
        return _value(self._locking.call(self._change(GET))) == 1

    async def is_set_async(self) -> bool:
        """The same in an event loop."""
        return _value(await self._locking.call_async(self._change(GET))) == 1

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is set; False when it is not within `timeout`."""
        with contextlib.suppress(TimeoutError):
            self._locking.call(self._want(this_thread(), timeout), timeout or None)
            return True
        return False

    async def wait_async(self, timeout: float | None = None) -> bool:
        """The same in an event loop."""
        with contextlib.suppress(TimeoutError):
            await self._locking.call_async(self._want(this_task(), timeout), timeout or None)
            return True
        return False

    def _change(self, how: str, amount: int = 0) -> Callable[[Grants], Change]:
        return lambda grants: grants.change(EVENT, self._name, how, amount)

    def _want(self, owner: str, timeout: float | None) -> Callable[[Grants], Want]:
        return lambda grants: grants.want(EVENT, self._name, owner, True, 1, timeout != 0)


def _answer(outcome: Outcome) -> Answer:
    assert isinstance(outcome, Answer)
    return outcome


def _value(outcome: Outcome) -> int:
    return _answer(outcome).value

"""Counters, barriers and events of all programs of a pool: durable, and each change made once. See decision 0010."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from plesio.core.pool.effects import Answer
from plesio.core.pool.grants import Grants, Outcome
from plesio.core.pool.places import ADD, BARRIER, COUNTER, EVENT, GET, PUT
from plesio.core.pool.stimuli import Change, Want
from plesio.tasks.locking import Locking, this_task, this_thread
from plesio.tasks.locks import Held


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
        """Until all have come; the number of this time, from 0. Raises TimeoutError: it is one of them no more.

        That the pool has confirmed, so that nobody went on with it: while the pool is away, it lasts longer than `timeout`.
        """
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

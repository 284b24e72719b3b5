"""Locks, read-write locks and semaphores of all programs of a pool. See decision 0010.

What is held is leased: a program that is silent for some seconds loses it, and learns of it when it asks. Whoever writes
elsewhere on the strength of a lock sends `held.token` along, and there the smaller token is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from plesio.core.pool.effects import Answer, Granted
from plesio.core.pool.grants import Grants, Outcome
from plesio.core.pool.places import CHECK, RWLOCK
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
        self._released(self._lock.locking.call(self._release))

    async def release_async(self) -> None:
        """The same in an event loop."""
        self._lock.forget(self)
        self._released(await self._lock.locking.call_async(self._release))

    def _release(self, grants: Grants) -> Release:
        return grants.release(self.number)

    def _released(self, outcome: Outcome) -> None:
        if not (isinstance(outcome, Answer) and outcome.ok):
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

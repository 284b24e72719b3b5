"""What a task will have returned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from plesio.core.pool import outcome
from plesio.core.pool.recipe import HEAVY, name_of
from plesio.errors import PlesioError, TaskCancelled, TaskFailed
from plesio.values import encoding

if TYPE_CHECKING:
    import asyncio

    from plesio.tasks.link import Link

_MISSING = object()


class Future:
    """One task's outcome. Made by Client.submit; may be used by any thread, and awaited in any event loop."""

    __slots__ = ("_callbacks", "_data", "_error", "_link", "_value", "id")

    def __init__(self, link: Link, id: int) -> None:
        self.id = id
        self._link = link
        self._data: bytes | None = None
        self._value: Any = _MISSING
        self._error: PlesioError | None = None
        self._callbacks: list[Callable[[Future], object]] | None = None

    def __repr__(self) -> str:
        state = "failed" if self._error is not None else "done" if self.done() else "pending"
        return f"<Future {self.name} {state}>"

    @property
    def name(self) -> str:
        """As `plesio tasks` shows it."""
        return name_of(self.id)

    @property
    def large(self) -> bool:
        """Has its result large buffers? The pool forgets it as soon as nobody has it."""
        return self._data is not None and self._data[:1] == HEAVY

    @property
    def size_bytes(self) -> int:
        """Of its result, as it came; what of it is in shared memory does not count."""
        return 0 if self._data is None else len(self._data)

    def done(self) -> bool:
        """Has it ended, well or not?"""
        return self._data is not None or self._error is not None

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned. Raises TaskFailed (kind, message), TaskCancelled, or TimeoutError."""
        if not self.done():
            self._link.wait(self, timeout)
        if self._error is not None:
            raise self._error
        if self._value is _MISSING:
            assert self._data is not None
            self._value = encoding.decode(self._data)
        return self._value

    def exception(self, timeout: float | None = None) -> PlesioError | None:
        """How it failed; None when it did not. Raises TimeoutError."""
        if not self.done():
            self._link.wait(self, timeout)
        return self._error

    def cancel(self) -> None:
        """Whether it waits or runs. It then ends with TaskCancelled, unless it had ended before."""
        self._link.cancel((self.id,))

    def cancelled(self) -> bool:
        """Did it end so?"""
        return isinstance(self._error, TaskCancelled)

    def add_done_callback(self, callback: Callable[[Future], object]) -> None:
        """Called once it has ended (at once if it has), by the thread that learns of it; it should be short."""
        self._link.when_done(self, callback)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.done():
            import asyncio  # not before it is needed: it is slow to import

            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self.add_done_callback(lambda _: in_loop(loop, _wake, waiter))
            yield from waiter.__await__()
        return self.result()

    def __del__(self) -> None:
        if self.done():  # until now it could be an argument of another task
            self._link.let_go(self.id, self.large)

    # -- the link's side

    def succeed(self, data: bytes) -> None:
        """It ended well. Called by the link alone. A large value is mapped now: the pool may drop it soon."""
        if data[:1] == HEAVY:
            try:
                self._value = encoding.decode(data, self._link.shares)
            except PlesioError as error:
                self._error = error
        self._data = data

    def fail(self, kind: str, message: str) -> None:
        """It did not. Called by the link alone."""
        made = TaskCancelled if kind == outcome.CANCELLED else TaskFailed
        self._error = made(kind, message)

    def end(self, error: PlesioError) -> None:
        """How it ended will never be known here. Called by the link alone."""
        self._error = error


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    """Calls it in the loop's thread, unless the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *args)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

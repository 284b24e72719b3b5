"""Many calls at a time in one slot: coroutines on an event loop, and functions that said so in threads.

As long as any is under way the slot's connection is read by the loop. A plain function that comes meanwhile runs in
between, and the others wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from plesio.core.pool import outcome
from plesio.errors import CannotSend, WireError
from plesio.runtime.functions import told
from plesio.values import decode_call, encode

if TYPE_CHECKING:
    from plesio.runtime.slot import Item, Slot

THREADS = 64
PAUSE_S = 0.25


class Concurrent:
    """The calls under way. Owned by the slot."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.active: dict[int, asyncio.Task[None]] = {}
        self.yielding: set[int] = set()  # of these, those that are told when the slot is to end
        self.loop = asyncio.new_event_loop()
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="task")
        self.wake = asyncio.Event()
        self.broken = False
        self.watched: int | None = None  # the connection's file descriptor, as the loop knows it

    def run(self, item: Item) -> None:
        """This one, and all that come, until none is under way. Raises AccessRefused."""
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._main(item))

    def revoke(self, ids: set[int]) -> None:
        """Those of these that are under way are not wanted any more."""
        for id in ids & self.active.keys():
            self.active[id].cancel()

    async def _main(self, item: Item) -> None:
        self._start(item)
        self._watch()
        try:
            while self.active:
                if self.slot.channel is not None and self.slot.channel.closed:  # another thread's sending broke
                    self._break()
                if self.broken:
                    await self._mend()
                self._start_waiting()
                if self.slot.leaving:
                    self.revoke(self.yielding)
                    self.yielding.clear()  # told once
                self.wake.clear()
                await self._until_something()
                self._flush()
        finally:
            self._unwatch()
        if self.broken:
            raise WireError("the connection broke")

    async def _until_something(self) -> None:
        waker = asyncio.ensure_future(self.wake.wait())
        waiting = {waker, *self.active.values()}
        await asyncio.wait(waiting, timeout=PAUSE_S, return_when=asyncio.FIRST_COMPLETED)
        waker.cancel()

    def _start_waiting(self) -> None:
        """What has come since."""
        while self.slot.todo and not self.slot.leaving:
            item = self.slot.todo.popleft()
            if self.slot.is_concurrent(item):
                self._start(item)
            else:
                self.slot.run_item(item)

    def _start(self, item: Item) -> None:
        self.active[item.id] = self.loop.create_task(self._call(item))
        if item.yields:
            self.yielding.add(item.id)

    async def _call(self, item: Item) -> None:
        slot, limit = self.slot, asyncio.timeout(item.timeout_s or None)
        try:
            function = slot.functions.get(item.fn)
            args, kwargs = decode_call(item.args, slot.shares, slot.inputs_of(item))
            async with limit:
                value = await self._outcome(function, args, kwargs)
            slot.keep(item.id, encode(value, slot.shares, "result"))
        except asyncio.CancelledError:
            self._fail(item, outcome.CANCELLED, "it was told to stop")
        except CannotSend as error:
            self._fail(item, outcome.UNSENDABLE, str(error))
        except Exception as error:  # a process edge: anybody's code
            if limit.expired():
                self._fail(item, outcome.TIMED_OUT, f"it ran for longer than its timeout of {item.timeout_s:g} s")
            else:
                self._fail(item, outcome.RAISED, told(error))
        finally:
            self.active.pop(item.id, None)
            self.yielding.discard(item.id)
            self.wake.set()

    async def _outcome(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if asyncio.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        return await self.loop.run_in_executor(self.threads, lambda: function(*args, **kwargs))

    def _fail(self, item: Item, kind: str, message: str) -> None:
        try:
            self.slot.fail(item, kind, message)
        except WireError:
            self._break()

    def _flush(self) -> None:
        if not self.broken:
            try:
                self.slot.flush()
            except WireError:
                self._break()

    # -- the connection

    def _watch(self) -> None:
        assert self.slot.channel is not None
        self.watched = self.slot.channel.sock.fileno()
        if self.watched >= 0:
            self.loop.add_reader(self.watched, self._readable)

    def _unwatch(self) -> None:
        if self.watched is not None and self.watched >= 0:
            self.loop.remove_reader(self.watched)  # also when it is closed: the next connection may have its number
        self.watched = None

    def _readable(self) -> None:
        try:
            self.slot.listen(0.0)
        except WireError:
            self._break()
        self.wake.set()

    def _break(self) -> None:
        if not self.broken:
            self.broken = True
            self._unwatch()
            if self.slot.channel is not None:
                self.slot.channel.close()
            self.wake.set()

    async def _mend(self) -> None:
        """One attempt at a new connection; what is under way goes on meanwhile."""
        try:
            await self.loop.run_in_executor(None, self.slot.connect)
        except (OSError, WireError):
            await asyncio.sleep(PAUSE_S)
            return
        self.broken = False
        self._watch()

"""The client of the pool behind all requests: it asks and tells within a time, and keeps what HTTP clients may come for.

Owned by one event loop; blocking calls go to threads. A process that dies loses what is here: results are the pool's
still, and messages that were taken come again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from plesio.core.pool.recipe import MESSAGE, id_of
from plesio.core.refusals import Refusals
from plesio.errors import AccessRefused, PlesioError, QueueFull, TaskFailed, UserError
from plesio.tasks import Client, Future
from plesio.tasks.future import in_loop
from plesio.web.held import Held
from plesio.web.problems import Refusal, away

T = TypeVar("T")

PATIENCE_S = 10.0  # the pool may start again meanwhile
THREADS = 16
KEPT, KEPT_LARGE = 1000, 32  # ended tasks whose results are not let go of
KEPT_BYTES = 64 << 20
UNCONFIRMED_BYTES = 64 << 20  # of bodies that the pool has not taken yet
TELL_S = 5.0  # between two looks at refusals to tell


class Watched:
    """A task whose end somebody may wait for."""

    __slots__ = ("future", "waiters")

    def __init__(self, future: Future) -> None:
        self.future = future
        self.waiters: set[asyncio.Future[None]] = set()


class Gateway:
    """Owns the client. Make it in the loop that uses it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, "plesio-http")
        self.watched: dict[int, Watched] = {}
        self._small: OrderedDict[int, None] = OrderedDict()  # of them, those that have ended; oldest first
        self._large: OrderedDict[int, None] = OrderedDict()
        self._ended_bytes = 0
        self._unconfirmed_bytes = 0
        self.held = Held(lambda work: self._loop.run_in_executor(self._threads, work))
        self.listeners = 0
        self._refusals = Refusals()
        self._telling = self._loop.call_later(TELL_S, self._tell_refusals)

    def close(self) -> None:
        """What was submitted stays submitted."""
        self._telling.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    # -- the pool

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """What a blocking call returns. Raises Refusal: 503 when the pool does not answer in time, 429, 422."""
        try:
            work = self._loop.run_in_executor(self._threads, function, *args)
            return await asyncio.wait_for(work, PATIENCE_S + 1.0)
        except TimeoutError:
            raise away() from None
        except PlesioError as error:
            raise refusal_of(error) from error

    async def ask(self, what: str, argument: str = "") -> Any:
        """See Client.ask."""
        return await self.call(self.client.ask, what, argument, PATIENCE_S)

    async def row(self, name: str) -> dict[str, Any]:
        """Of a task. Raises Refusal."""
        try:
            row: dict[str, Any] = await self.ask("task", name)
        except Refusal as refusal:
            if refusal.status == 422:
                raise Refusal(404, "unknown", f"task {name} is not known (any more)") from refusal
            raise
        return row

    async def until(self, tell: Callable[[], object], seen: Callable[[], Any]) -> Any:
        """Tells the pool something until it is seen to have heard it: what is told is lost with the connection."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            await self.call(tell)
            if (found := await seen()) is not None:
                return found
            await asyncio.sleep(0.05)
        raise away()

    # -- tasks

    async def submit(self, size_bytes: int, submit: Callable[[Callable[[], None]], Future]) -> Future:
        """What `submit(on_durable)` returns, once it is durable. Raises Refusal: 429 when the queue is full, 422, 503."""
        if self._unconfirmed_bytes > UNCONFIRMED_BYTES:
            raise away("the pool does not answer, and no more can be kept for it")
        durable = asyncio.Event()

        def confirmed() -> None:
            self._unconfirmed_bytes -= size_bytes
            durable.set()

        self._unconfirmed_bytes += size_bytes
        try:
            future = await self.call(submit, lambda: in_loop(self._loop, confirmed))
        except Refusal as refusal:
            if refusal.status != 503:
                self._unconfirmed_bytes -= size_bytes
            raise
        try:
            await asyncio.wait_for(durable.wait(), PATIENCE_S)
        except TimeoutError:
            raise away("the pool does not answer; it may be taken later: say the same key when you try again") from None
        error = future.exception(0) if future.done() else None
        if isinstance(error, QueueFull) or (isinstance(error, TaskFailed) and error.kind == "refused"):
            raise refusal_of(error)
        return future

    def watch(self, future: Future) -> Watched:
        """From now on its end can be waited for; its result is kept a while."""
        watched = self.watched.get(future.id)
        if watched is None:
            watched = self.watched[future.id] = Watched(future)
            future.add_done_callback(lambda future: in_loop(self._loop, self._has_ended, future.id))
        return watched

    async def find(self, name: str, wait_s: float) -> tuple[str, Future | None]:
        """(its state, its Future when it has ended), of anybody's task; waits so long. Raises Refusal: 404."""
        watched = self.watched.get(id_of(name))
        if watched is None or not watched.future.done():
            row = await self.row(name)
            if row["fn"] == MESSAGE:
                raise Refusal(404, "unknown", f"{name} is a message of queue {row['queue']!r}, and no task")
            over = row["state"] in ("done", "dead", "cancelled")
            if not over and wait_s == 0:
                return row["state"], None
            if watched is None:
                watched = self.watch((await self.call(self.client.follow, [name]))[0])
            if not await self.wait(watched, PATIENCE_S if over else wait_s):
                if over:
                    raise away()
                return row["state"], None
        return state_of(watched.future), watched.future

    async def wait(self, watched: Watched, wait_s: float) -> bool:
        """Has it ended within that time?"""
        if not watched.future.done() and wait_s > 0:
            waiter = self._loop.create_future()
            watched.waiters.add(waiter)
            try:
                await asyncio.wait_for(waiter, wait_s)
            except TimeoutError:
                pass
            finally:  # also when its client left
                watched.waiters.discard(waiter)
        return watched.future.done()

    def _has_ended(self, id: int) -> None:
        """A failure is not kept: somebody may give the task another chance, and the pool knows."""
        watched = self.watched[id]
        for waiter in watched.waiters:
            if not waiter.done():
                waiter.set_result(None)
        if watched.future.exception(0) is not None:
            del self.watched[id]
            return
        ended, most = (self._large, KEPT_LARGE) if watched.future.large else (self._small, KEPT)
        ended[id] = None
        self._ended_bytes += watched.future.size_bytes
        while len(ended) > most or (self._ended_bytes > KEPT_BYTES and len(ended) > 1):
            oldest, _ = ended.popitem(last=False)
            self._ended_bytes -= self.watched.pop(oldest).future.size_bytes

    # -- who was turned away

    def refused(self, peer: str, reason: str) -> None:
        """Said in this process's log and in the pool's journal; what comes again is counted, and told once a minute."""
        fact = self._refusals.note(time.monotonic(), peer, reason)
        if fact is not None:
            self._say_refused(fact.who, fact.reason)

    def _tell_refusals(self) -> None:
        for fact in self._refusals.tell(time.monotonic()):
            self._say_refused(fact.who, f"{fact.reason} ({fact.count} times)")
        self._telling = self._loop.call_later(TELL_S, self._tell_refusals)

    def _say_refused(self, who: str, reason: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {who} was turned away: {reason}", file=sys.stderr, flush=True)
        self._loop.run_in_executor(self._threads, self.client.refused, who, reason)


def state_of(future: Future) -> str:
    """Of one that has ended, in the pool's words. Raises Refusal: 404 when the pool has forgotten it."""
    error = future.exception(0)
    if error is None:
        return "done"
    if isinstance(error, TaskFailed):
        if error.kind in ("forgotten", "lost"):
            raise Refusal(404, "unknown", f"task {future.name} is not known any more: {error.message}")
        return "cancelled" if future.cancelled() else "dead"
    raise refusal_of(error)


def refusal_of(error: PlesioError) -> Refusal:
    """How an error of the client is told."""
    if isinstance(error, QueueFull):
        return Refusal(429, "full", str(error), retry_s=max(1.0, error.retry_s))
    if isinstance(error, TaskFailed):
        return Refusal(422, error.kind, error.message)
    if isinstance(error, UserError) and not isinstance(error, AccessRefused):
        return Refusal(422, "invalid", str(error), where="body")
    return away(str(error))

"""A client's connection: sends what its outbox and mailbox give, receives outcomes; all of it again after a reconnection.

Whoever waits for a result reads the socket itself, so that it waits for no other thread; a thread of ours reads when
nobody does, and sends what was submitted within the last moment.
"""

from __future__ import annotations

import atexit
import contextlib
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from plesio.core.pool import effects as e
from plesio.core.pool import stimuli as s
from plesio.core.pool.mailbox import Mailbox
from plesio.core.pool.outbox import Group, Outbox, is_message
from plesio.core.pool.recipe import HEAVY, Recipe
from plesio.errors import AccessRefused, PlesioError, QueueFull, TaskFailed, UserError, WireError
from plesio.tasks.dialling import Address, dial
from plesio.tasks.future import Future, in_loop
from plesio.tasks.locking import Locking
from plesio.values import Shares, segments
from plesio.wire import poolmessages as m
from plesio.wire.blocking import BlockingChannel

SOON_S = 0.0003  # what is submitted so shortly after a sending waits for more
PARK_S = 0.005  # our thread leaves the socket to a waiting one for so long
TAKEN = 500  # outcomes confirmed together
MOST_UNCONFIRMED = 50_000  # tasks; more make `submit` wait
MOST_RECIPES = 10_000  # that are remembered
ANSWER_S = 10.0  # a question is waited for so long
FIRST_S = 10.0  # a pool that has never answered is waited for so long
NONE = b"\xc0"  # as encoded


class Link:
    """Shared by all threads of a client. shares: segments for large values, on the pool's own machine.

    patient: what a full queue does not take is submitted again until it does; else its Future raises QueueFull.
    """

    def __init__(self, address: Address, shares: Shares | None = None, patient: bool = True) -> None:
        self.address = address
        self.shares = shares
        self.patient = patient
        self._session = secrets.token_hex(16)
        self._channel: BlockingChannel | None = None
        self._lock = threading.RLock()  # of all that follows
        self._futures: dict[int, Future] = {}
        self._outbox = Outbox(self._session)
        self._mailbox = Mailbox(self._session)
        self.locking = Locking(self, self._session)
        self._taken: deque[int] = deque()
        self._large_taken = False  # is there a large value among them?
        self._answers: dict[int, m.Told | None] = {}
        self._asked = 0
        self._recipes: dict[Recipe, Recipe] = {}
        self._alarms: dict[int, Callable[[], object]] = {}  # of wishes that an event loop waits for
        self._confirming: dict[int, Callable[[], object]] = {}  # by task: who waits until it is durable, or refused
        self._error: PlesioError | None = None  # why nothing goes on
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        self._waiting = 0
        self._read_s = 0.0  # when a waiting thread last read
        self._sent_s = 0.0
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="plesio-client", daemon=True)

    def open(self) -> None:
        """Connects. Raises AccessRefused, or WireError when nobody answers."""
        self._connect(None)
        self._thread.start()
        atexit.register(self.close)  # what was submitted a moment before the end of a script is sent

    # -- submitting

    def submit(
        self,
        recipe: Recipe,
        args: bytes,
        needs: tuple[int, ...],
        key: str,
        delay_s: float,
        block: bool,
        on_durable: Callable[[], object] | None = None,
    ) -> Future:
        """Numbers it and sends it soon. Waits while too much is unconfirmed; raises QueueFull instead if not `block`.

        on_durable: called once it is, or is refused.
        """
        if self._is_full():
            self._make_room(block)
        with self._lock:
            self.check()
            id = self._outbox.add(recipe, args, delay_s, key, needs)
            future = self._futures[id] = Future(self, id)
            if on_durable is not None:
                self._confirming[id] = on_durable
        if on_durable is not None or time.perf_counter() - self._sent_s > SOON_S:
            self.flush()
        elif not self._wake.is_set():
            self._wake.set()
        return future

    def _is_full(self) -> bool:
        return self._outbox.unconfirmed > MOST_UNCONFIRMED or self._outbox.puts_off

    def _make_room(self, block: bool) -> None:
        if not block:
            wait_s = max(0.0, self._outbox.due_s() - time.monotonic())
            raise QueueFull(f"the queue is full; try again in {wait_s:.2f} s, or submit with block=True", wait_s)
        self.flush()
        while not self._closed and self._is_full():
            self.check()
            self._read_or_wait(0.05)
            self._send_due()

    def flush(self) -> None:
        """Sends what was submitted."""
        with self._sending:
            with self._lock:
                groups = self._outbox.cut()
                taken: tuple[int, ...] = ()
                if len(self._taken) >= TAKEN or self._large_taken:
                    self._large_taken = False
                    taken = tuple([self._taken.popleft() for _ in range(len(self._taken))])
                channel = self._channel
            self._sent_s = time.perf_counter()
            if channel is None:
                return
            with contextlib.suppress(WireError):  # whoever reads notices, and connects anew
                for group in groups:
                    channel.send(m.encode(group))
                if taken:
                    channel.send(m.encode(s.Taken(self._session, taken)))

    def confirm(self, timeout_s: float) -> None:
        """Until all that was submitted is durable, or refused. Raises TimeoutError."""
        self.flush()
        until_s = time.monotonic() + timeout_s
        while self._outbox.unconfirmed:
            self.check()
            if time.monotonic() > until_s:
                raise TimeoutError(f"{self._outbox.unconfirmed} tasks were not taken within {timeout_s:g} s")
            self._read_or_wait(0.05)

    def _send_due(self) -> None:
        with self._lock:
            groups, channel = self._outbox.due(time.monotonic()), self._channel
        if channel is not None:
            with contextlib.suppress(WireError):
                for group in groups:
                    channel.send(m.encode(group))

    def tell(self, message: msgspec.Struct) -> None:
        """Sends it behind what was submitted. Lost with the connection."""
        self.flush()
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(WireError):
                channel.send(m.encode(message))

    def let_go(self, id: int, large: bool) -> None:
        """Nobody here has this Future any more: its result need not be kept for us. Called by any thread, at any moment."""
        self._taken.append(id)
        if large or len(self._taken) >= TAKEN:
            self._large_taken |= large
            self._wake.set()

    def cancel(self, ids: Sequence[int]) -> None:
        """See Future.cancel."""
        self.tell(s.Cancel(tuple(ids)))

    def follow(self, ids: Sequence[int]) -> list[Future]:
        """Futures of tasks that somebody submitted."""
        futures = []
        with self._lock:
            for id in ids:
                future = self._futures.get(id)
                if future is None:
                    future = self._futures[id] = Future(self, id)
                futures.append(future)
        self.tell(s.Await(self._session, tuple(ids)))
        return futures

    def ask(self, what: str, argument: str = "", timeout: float = ANSWER_S) -> Any:
        """What the pool knows; see poolview. Raises UserError, TimeoutError."""
        with self._lock:
            self._asked += 1
            number = self._asked
            self._answers[number] = None
        question, asked = m.Ask(number, what, argument), None
        until_s = time.monotonic() + timeout
        try:
            while (told := self._answers[number]) is None:
                self.check()
                if time.monotonic() > until_s:
                    raise TimeoutError(f"the pool at {self.address} did not answer within {timeout:g} s")
                if self._channel is not asked:  # it is lost with a connection
                    asked = self._channel
                    self.tell(question)
                self._read_or_wait(0.05)
        finally:
            del self._answers[number]
        if told.error:
            raise UserError(told.error)
        return msgspec.json.decode(told.body)

    # -- messages

    def same(self, recipe: Recipe) -> Recipe:
        """The one object that equals this: neighbours with the same one are sent together."""
        if len(self._recipes) > MOST_RECIPES:
            self._recipes.clear()
        return self._recipes.setdefault(recipe, recipe)

    def take(self, queue: str, count: int, timeout: float | None) -> e.Give | None:
        """Messages of a queue, as soon as there are some; None when there are none within `timeout`.

        timeout: 0: what waits there now, by the pool's own word. Raises TimeoutError then, when it does not answer.
        """
        with self._lock:
            wish = self._mailbox.wish(queue, count)
        self.tell(wish)
        try:
            if timeout == 0:
                self.ask("waiting", queue)  # answered behind the wish
            else:
                self.wait_until(lambda: self._mailbox.arrived(wish.number), timeout)
        except BaseException:
            self._end_wish(wish.number, keep=False)
            raise
        return self._end_wish(wish.number)

    async def take_async(self, queue: str, count: int, timeout: float | None) -> e.Give | None:
        """As `take`, for an event loop."""
        import asyncio  # not before it is needed: it is slow to import

        loop, came = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self.check()
            wish = self._mailbox.wish(queue, count)
            self._alarms[wish.number] = lambda: in_loop(loop, came.set)
        self.tell(wish)
        try:
            if timeout == 0:
                await asyncio.wait_for(asyncio.to_thread(self.ask, "waiting", queue), ANSWER_S)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(came.wait(), timeout)
            self.check()
        except BaseException:
            self._end_wish(wish.number, keep=False)
            raise
        return self._end_wish(wish.number)

    def _end_wish(self, number: int, keep: bool = True) -> e.Give | None:
        with self._lock:
            self._alarms.pop(number, None)
            given, no_more = self._mailbox.end_wish(number)
        if no_more is not None:
            self.tell(no_more)
        elif given is not None and not keep:
            self.settle(given.ids, False)
        return given

    def settle(self, ids: Sequence[int], ok: bool, delay_s: float = 0.0) -> int:
        """See Message. Returns the number under which it is not durable yet; see `settled`."""
        with self._lock:
            said = self._mailbox.settle(ids, ok, delay_s)
        self.tell(said)
        return said.number

    def settled(self, number: int, timeout: float | None = None) -> None:
        """Until it is durable. Raises TimeoutError."""
        if not self.wait_until(lambda: not self._mailbox.settling(number), timeout):
            raise TimeoutError(f"the pool at {self.address} did not answer within {timeout:g} s")

    # -- waiting

    def wait(self, future: Future, timeout: float | None) -> None:
        """Until it has ended. Raises TimeoutError."""
        self.flush()
        until_s = None if timeout is None else time.monotonic() + timeout
        while not future.done():
            self.check()
            left_s = 0.25 if until_s is None else min(0.25, until_s - time.monotonic())
            if left_s <= 0:
                raise TimeoutError(f"task {future.name} has not ended within {timeout:g} s; it goes on")
            self._read_or_wait(left_s, future)

    def wait_until(self, arrived: Callable[[], bool], timeout: float | None) -> bool:
        """Until it is true; False when it is not within `timeout`."""
        until_s = None if timeout is None else time.monotonic() + timeout
        while not arrived():
            self.check()
            left_s = 0.25 if until_s is None else min(0.25, until_s - time.monotonic())
            if left_s <= 0:
                return False
            self._read_or_wait(left_s)
        return True

    def wait_any(self, futures: Sequence[Future], timeout_s: float = 0.25) -> None:
        """Until one of them has ended, or for so long. Raises what keeps all of them from ending."""
        self.flush()
        until_s = time.monotonic() + timeout_s
        while not any(future.done() for future in futures) and time.monotonic() < until_s:
            self.check()
            self._read_or_wait(0.02)

    def when_done(self, future: Future, callback: Callable[[Future], object]) -> None:
        """See Future.add_done_callback."""
        with self._lock:
            if not future.done():
                if future._callbacks is None:
                    future._callbacks = []
                future._callbacks.append(callback)
                callback = _nothing
        self._wake.set()
        callback(future)

    def _read_or_wait(self, timeout_s: float, future: Future | None = None) -> None:
        """Reads what has come; or waits for the thread that reads."""
        if self._reading.acquire(blocking=False):
            try:
                self._read_s = time.perf_counter()
                if future is None or not future.done():
                    self._read(timeout_s)
                self._read_s = time.perf_counter()
            finally:
                self._reading.release()
            return
        self._read_s = time.perf_counter()
        with self._changed:
            self._waiting += 1
            if future is None or not future.done():
                self._changed.wait(min(timeout_s, 0.02))
            self._waiting -= 1

    def _loop(self) -> None:
        """Our thread: sends what is left, and reads when nobody else does."""
        while not self._closed:
            self.locking.tell_due(time.monotonic())
            if self._wake.is_set():
                self._wake.clear()
                time.sleep(SOON_S)
                self.flush()
            if self._outbox.puts_off:
                self._send_due()
            if time.perf_counter() - self._read_s < PARK_S or not self._reading.acquire(blocking=False):
                self._wake.wait(PARK_S)
                continue
            try:
                if self._error is None:
                    self._read(PARK_S if self._waiting else 0.02)
                else:
                    time.sleep(0.02)
            finally:
                self._reading.release()

    def _read(self, timeout_s: float) -> None:
        """Of the thread that holds `_reading`: receives and handles."""
        channel = self._channel
        if channel is None or self._closed:
            time.sleep(min(timeout_s, 0.01))
            return
        try:
            messages = [m.decode("from", body) for body in channel.wait(timeout_s)]
        except WireError:
            if not self._closed:
                self._connect(channel)
            return
        for message in messages:
            if not self.locking.handle(message):
                self._handle(message)
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def _handle(self, message: Any) -> None:
        calls: list[Future] = []
        unwanted: s.Settle | None = None
        with self._lock:
            if isinstance(message, e.Tell):
                for id, data in zip(message.ids, message.results, strict=True):
                    future = self._futures.pop(id, None)
                    if future is not None:
                        future.succeed(data)
                        if future._callbacks:
                            calls.append(future)
            elif isinstance(message, e.TellFailure):
                future = self._futures.pop(message.id, None)
                if future is not None:
                    future.fail(message.kind, message.message)
                    if future._callbacks:
                        calls.append(future)
            elif isinstance(message, e.Accept):
                calls = self._accepted(message)
            elif isinstance(message, e.Decline):
                calls = self._was_declined(message)
            elif isinstance(message, e.Again):
                self._outbox.again(message.first)
                self._wake.set()
            elif isinstance(message, e.Give):
                unwanted = self._mailbox.receive(message)
                self._alarms.get(message.number, _nothing)()
            elif isinstance(message, e.Settled):
                self._mailbox.settled(message)
            elif isinstance(message, m.Told) and message.number in self._answers:
                self._answers[message.number] = message
        if unwanted is not None:
            self.tell(unwanted)
        for future in calls:
            _call_back(future)

    def _end_all(self, error: PlesioError) -> None:
        """Nothing more will be heard of what was submitted: whoever waits is told."""
        with self._lock:
            futures = list(self._futures.values())
            self._futures.clear()
            for future in futures:
                future.end(error)
            alarms = [*self._alarms.values(), *self._confirming.values()]
            self._confirming.clear()
        for future in futures:
            _call_back(future)
        for alarm in alarms:
            alarm()
        self.locking.end_all(str(error))

    def _confirmed(self, first: int, count: int) -> Group | None:
        group = self._outbox.confirmed(first, count)
        if group is not None and self.shares is not None:
            for data in group.args:
                if data[:1] == HEAVY:
                    self.shares.settle(segments(data))
        return group

    def _accepted(self, message: e.Accept) -> list[Future]:
        """A message is done with, for its sender, once it is durable. Returns those with callbacks."""
        group = self._confirmed(message.first, message.count)
        if group is None:
            return []
        ended: list[Future] = []
        if is_message(group):
            ended = self._end(group.first, len(group.args), lambda future: future.succeed(NONE))
        self._call_waiting(group.first, len(group.args))
        return ended

    def _was_declined(self, message: e.Decline) -> list[Future]:
        if message.retry_s > 0 and self.patient:
            self._outbox.put_off(message.first, time.monotonic() + message.retry_s)
            return []
        self._confirmed(message.first, message.count)
        ended = self._end(message.first, message.count, lambda future: _refuse(future, message))
        self._call_waiting(message.first, message.count)
        return ended

    def _call_waiting(self, first: int, count: int) -> None:
        """Those who wait until these are durable; few do."""
        for id in self._outbox.ids(first, count) if self._confirming else ():
            self._confirming.pop(id, _nothing)()

    def _end(self, first: int, count: int, how: Callable[[Future], None]) -> list[Future]:
        ended = []
        for id in self._outbox.ids(first, count):
            future = self._futures.pop(id, None)
            if future is not None:
                how(future)
                if future._callbacks:
                    ended.append(future)
        return ended

    # -- the connection

    def _connect(self, lost: BlockingChannel | None) -> None:
        """A new connection in place of a lost one; what is not durable is submitted again."""
        patience_s = FIRST_S if lost is None else None
        try:
            answer = dial(self.address, self._hello, lambda: self._closed, patience_s)
        except (AccessRefused, WireError) as error:  # it will never answer again
            self._error = error
            self._end_all(error)
            if lost is None:
                raise
            return
        if answer is None:
            return
        channel, number, others = answer
        if self._outbox.number not in (0, number):
            self._outbox.forget()
            self._end_all(TaskFailed("lost", "the pool at this address does not know this client any more"))
        self._outbox.number = number
        with self._sending, self._lock:
            if lost is not None:
                lost.close()
            self._channel = channel
            with contextlib.suppress(WireError):
                for said in (*self._outbox.resend(), *self._mailbox.resend(), *self.locking.resend()):
                    channel.send(m.encode(said))
                unknown = set(self._futures).difference(self._outbox.here())
                if lost is not None and unknown:
                    channel.send(m.encode(s.Await(self._session, tuple(sorted(unknown)))))
        for message in others:
            if not self.locking.handle(message):
                self._handle(message)

    def _hello(self) -> s.ClientUp:
        return s.ClientUp(self._session, self.shares is not None, self._mailbox.holds())

    def check(self) -> None:
        """Raises why nothing goes on, if so."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise WireError("this client is closed")

    def close(self) -> None:
        """Sends what is left and waits until it is durable, a while; then lets go."""
        if self._closed:
            return
        atexit.unregister(self.close)
        self.flush()
        self.locking.let_go()
        until_s = time.monotonic() + 5.0
        while (
            (self._outbox.unconfirmed or self._mailbox.settling() or self.locking.settling())
            and self._error is None
            and time.monotonic() < until_s
        ):
            self._read_or_wait(0.05)
        if self._outbox.unconfirmed:
            words = f"plesio: {self._outbox.unconfirmed} tasks or messages were not taken before this client closed"
            print(f"{words}: the queue is full, or no pool answers", file=sys.stderr, flush=True)
        self._closed = True
        self._wake.set()
        if self._channel is not None:
            self._channel.close()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(2.0)
        self._end_all(WireError("this client is closed"))


def _nothing(*_: object) -> None:
    """Nobody waits for it."""


def _refuse(future: Future, message: e.Decline) -> None:
    if message.retry_s > 0:
        future.end(QueueFull(f"{message.reason}; try again in {message.retry_s:.2f} s", message.retry_s))
    else:
        future.fail("refused", message.reason)


def _call_back(future: Future) -> None:
    """What its callbacks raise is theirs: it is said, and the next one is called."""
    callbacks, future._callbacks = future._callbacks or (), None
    for callback in callbacks:
        try:
            callback(future)
        except Exception:
            sys.excepthook(*sys.exc_info())

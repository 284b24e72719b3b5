"""A client's connection: numbers tasks, sends them in groups, receives outcomes; all of it again after a reconnection.

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
from plesio.core.pool.recipe import HEAVY, MESSAGE, TOPIC, Recipe, task_id
from plesio.errors import AccessRefused, PlesioError, QueueFull, UserError, WireError
from plesio.tasks.future import Future
from plesio.values import Shares, segments
from plesio.wire import poolmessages as m
from plesio.wire.blocking import BlockingChannel, connect
from plesio.wire.tls import Tls

GROUP = 512  # tasks sent together
SOON_S = 0.0003  # what is submitted so shortly after a sending waits for more
PARK_S = 0.005  # our thread leaves the socket to a waiting one for so long
TAKEN = 500  # outcomes confirmed together
MOST_UNCONFIRMED = 50_000  # tasks; more make `submit` wait
PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
NONE = b"\xc0"  # as encoded


class Link:
    """Shared by all threads of a client. revive: starts an embedded pool again when it is gone.

    shares: segments for large values, on the pool's own machine.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        tls: Tls | None = None,
        revive: Callable[[], None] | None = None,
        shares: Shares | None = None,
    ) -> None:
        self.shares = shares
        self.host, self.port, self.tls = host, port, tls
        self._token = token
        self._revive = revive
        self.session = secrets.token_hex(16)
        self.number = 0
        self._channel: BlockingChannel | None = None
        self._lock = threading.RLock()  # of all that follows
        self._futures: dict[int, Future] = {}
        self._next = 1
        self._outbox: list[s.Submit | s.Publish] = []  # not sent
        self._open: tuple[Recipe, int, list[bytes]] | None = None  # the group that grows
        self._unconfirmed: dict[int, s.Submit | s.Publish] = {}  # sent, not durable; by their first number
        self._unconfirmed_tasks = 0
        self._declined: list[tuple[float, int]] = []  # (when to send again, first number)
        self._taken: deque[int] = deque()
        self._large_taken = False  # is there a large value among them?
        self._answers: dict[int, m.Told | None] = {}
        self._asked = 0
        self._recipes: dict[Recipe, Recipe] = {}
        self._takes: dict[int, s.Take] = {}  # wishes for messages
        self._given: dict[int, e.Give] = {}
        self._held: set[int] = set()  # messages that were given to us, until it is durable that they are settled
        self._settling: dict[int, s.Settle] = {}  # said, and not durable yet
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
        self, recipe: Recipe, args: bytes, needs: tuple[int, ...], key: str, delay_s: float, block: bool
    ) -> Future:
        """Numbers it and sends it soon. Waits while too much is unconfirmed; raises QueueFull instead if not `block`."""
        if self._unconfirmed_tasks > MOST_UNCONFIRMED or self._declined:
            self._make_room(block)
        plain = not (needs or key or delay_s)
        with self._lock:
            self._check()
            n = self._next
            self._next += 1
            id = task_id(self.number, n)
            future = self._futures[id] = Future(self, id)
            group = self._open
            if plain and group is not None and group[0] is recipe and len(group[2]) < GROUP:
                group[2].append(args)
            else:
                self._close_group()
                if plain:
                    self._open = (recipe, n, [args])
                else:
                    self._outbox.append(s.Submit(self.session, n, recipe, (args,), delay_s, key, needs))
        if time.perf_counter() - self._sent_s > SOON_S:
            self.flush()
        elif not self._wake.is_set():
            self._wake.set()
        return future

    def _close_group(self) -> None:
        if self._open is not None:
            recipe, first, args = self._open
            if recipe.fn == TOPIC:
                self._outbox.append(s.Publish(self.session, first, recipe.queue, tuple(args), recipe.priority))
            else:
                self._outbox.append(s.Submit(self.session, first, recipe, tuple(args)))
            self._open = None

    def _make_room(self, block: bool) -> None:
        if not block:
            wait_s = max(0.0, min((at_s for at_s, _ in self._declined), default=0.0) - time.monotonic())
            raise QueueFull(f"the queue is full; try again in {wait_s:.2f} s, or submit with block=True", wait_s)
        self.flush()
        while not self._closed and (self._unconfirmed_tasks > MOST_UNCONFIRMED or self._declined):
            self._check()
            self._read_or_wait(0.05)
            self._send_declined()

    def flush(self) -> None:
        """Sends what was submitted."""
        with self._sending:
            with self._lock:
                self._close_group()
                groups, self._outbox = self._outbox, []
                for group in groups:
                    self._unconfirmed[group.first] = group
                    self._unconfirmed_tasks += len(group.args)
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
                    channel.send(m.encode(s.Taken(self.session, taken)))

    def confirm(self, timeout_s: float) -> None:
        """Until all that was submitted is durable, or refused. Raises TimeoutError."""
        self.flush()
        until_s = time.monotonic() + timeout_s
        while self._unconfirmed:
            self._check()
            if time.monotonic() > until_s:
                raise TimeoutError(f"{self._unconfirmed_tasks} tasks were not taken within {timeout_s:g} s")
            self._read_or_wait(0.05)

    def _send_declined(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            due = [first for at_s, first in self._declined if at_s <= now_s]
            self._declined = [(at_s, first) for at_s, first in self._declined if at_s > now_s]
            groups = [self._unconfirmed[first] for first in due if first in self._unconfirmed]
            channel = self._channel
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
        self.tell(s.Await(self.session, tuple(ids)))
        return futures

    def ask(self, what: str, argument: str = "", timeout: float = 10.0) -> Any:
        """What the pool knows; see poolview. Raises UserError, TimeoutError."""
        with self._lock:
            self._asked += 1
            number = self._asked
            self._answers[number] = None
        question, asked = m.Ask(number, what, argument), None
        until_s = time.monotonic() + timeout
        while self._answers[number] is None:
            self._check()
            if time.monotonic() > until_s:
                raise TimeoutError(f"the pool at {self.host}:{self.port} did not answer within {timeout:g} s")
            if self._channel is not asked:  # it is lost with a connection
                asked = self._channel
                self.tell(question)
            self._read_or_wait(0.05)
        told = self._answers.pop(number)
        assert told is not None
        if told.error:
            raise UserError(told.error)
        return msgspec.json.decode(told.body)

    # -- messages

    def same(self, recipe: Recipe) -> Recipe:
        """The one object that equals this: neighbours with the same one are sent together."""
        return self._recipes.setdefault(recipe, recipe)

    def take(self, queue: str, count: int, timeout: float | None) -> e.Give | None:
        """Messages of a queue, as soon as there are some; None when there are none within `timeout`."""
        with self._lock:
            self._asked += 1
            number = self._asked
            wish = self._takes[number] = s.Take(self.session, number, queue, count)
        self.tell(wish)
        until_s = None if timeout is None else time.monotonic() + timeout
        try:
            while number not in self._given:
                self._check()
                left_s = 0.25 if until_s is None else min(0.25, until_s - time.monotonic())
                if left_s <= 0:
                    return None
                self._read_or_wait(left_s)
        finally:
            with self._lock:
                del self._takes[number]
                given = self._given.pop(number, None)
            if given is None:
                self.tell(s.Take(self.session, number, queue, 0))
        return given

    def settle(self, ids: Sequence[int], ok: bool, delay_s: float = 0.0) -> int:
        """See Message. Returns the number under which it is not durable yet; see `settled`."""
        with self._lock:
            self._asked += 1
            number = self._asked
            said = self._settling[number] = s.Settle(self.session, number, tuple(ids), ok, delay_s)
        self.tell(said)
        return number

    def settled(self, number: int, timeout: float | None = None) -> None:
        """Until it is durable. Raises TimeoutError."""
        until_s = None if timeout is None else time.monotonic() + timeout
        while number in self._settling:
            self._check()
            if until_s is not None and time.monotonic() > until_s:
                raise TimeoutError(f"the pool at {self.host}:{self.port} did not answer within {timeout:g} s")
            self._read_or_wait(0.05)

    # -- waiting

    def wait(self, future: Future, timeout: float | None) -> None:
        """Until it has ended. Raises TimeoutError."""
        self.flush()
        until_s = None if timeout is None else time.monotonic() + timeout
        while not future.done():
            self._check()
            left_s = 0.25 if until_s is None else min(0.25, until_s - time.monotonic())
            if left_s <= 0:
                raise TimeoutError(f"task {future.name} has not ended within {timeout:g} s; it goes on")
            self._read_or_wait(left_s, future)

    def wait_any(self, futures: Sequence[Future], timeout_s: float = 0.25) -> None:
        """Until one of them has ended, or for so long. Raises what keeps all of them from ending."""
        self.flush()
        until_s = time.monotonic() + timeout_s
        while not any(future.done() for future in futures) and time.monotonic() < until_s:
            self._check()
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
            if self._wake.is_set():
                self._wake.clear()
                time.sleep(SOON_S)
                self.flush()
            if self._declined:
                self._send_declined()
            if time.perf_counter() - self._read_s < PARK_S or not self._reading.acquire(blocking=False):
                self._wake.wait(PARK_S)
                continue
            try:
                if self._error is None:
                    self._read(PARK_S if self._waiting else 0.02, shared=True)
                else:
                    time.sleep(0.02)
            finally:
                self._reading.release()

    def _read(self, timeout_s: float, shared: bool = False) -> None:
        """Of the thread that holds `_reading`: receives and handles."""
        channel = self._channel
        if channel is None or self._closed:
            time.sleep(min(timeout_s, 0.01))
            return
        try:
            bodies = channel.wait(timeout_s)
            if not bodies:
                return
        except WireError:
            if not self._closed:
                self._connect(channel)
            return
        for body in bodies:
            self._handle(m.decode("from", body))
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def _handle(self, message: Any) -> None:
        calls: list[Future] = []
        unwanted: tuple[int, ...] = ()
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
                self._declined = [(0.0 if first == message.first else at_s, first) for at_s, first in self._declined]
                self._wake.set()
            elif isinstance(message, e.Give):
                self._held.update(message.ids)
                if message.number in self._takes:
                    self._given[message.number] = message
                else:  # nobody waits for it any more
                    unwanted = message.ids
            elif isinstance(message, e.Settled):
                settled = self._settling.pop(message.number, None)
                self._held.difference_update(settled.ids if settled is not None else ())
            elif isinstance(message, m.Told) and message.number in self._answers:
                self._answers[message.number] = message
        if unwanted:
            self.settle(unwanted, False)
        for future in calls:
            callbacks, future._callbacks = future._callbacks or [], None
            for callback in callbacks:
                callback(future)

    def _confirmed(self, first: int, count: int) -> None:
        """Of a group these, its first ones, are durable or refused; the rest is a group of its own."""
        group = self._unconfirmed.pop(first, None)
        if group is not None:
            args = group.args[:count]
            if len(args) < len(group.args):
                rest = msgspec.structs.replace(group, first=first + count, args=group.args[count:])
                self._unconfirmed[rest.first] = rest
            self._unconfirmed_tasks -= len(args)
            if self.shares is not None:
                for data in args:
                    if data[:1] == HEAVY:
                        self.shares.settle(segments(data))

    def _accepted(self, message: e.Accept) -> list[Future]:
        """A message is done with, for its sender, once it is durable."""
        group = self._unconfirmed.get(message.first)
        self._confirmed(message.first, message.count)
        if group is None or (isinstance(group, s.Submit) and group.recipe.fn != MESSAGE):
            return []
        ids = [task_id(self.number, message.first + i) for i in range(message.count)]
        futures = [self._futures.pop(id, None) for id in ids]
        for future in futures:
            if future is not None:
                future.succeed(NONE)
        return [future for future in futures if future is not None and future._callbacks]

    def _was_declined(self, message: e.Decline) -> list[Future]:
        if message.retry_s > 0:
            self._declined.append((time.monotonic() + message.retry_s, message.first))
            return []
        self._confirmed(message.first, message.count)
        failed = []
        for n in range(message.first, message.first + message.count):
            future = self._futures.pop(task_id(self.number, n), None)
            if future is not None:
                future.fail("refused", message.reason)
                failed.append(future)
        return [future for future in failed if future._callbacks]

    # -- the connection

    def _connect(self, lost: BlockingChannel | None) -> None:
        """A new connection in place of a lost one; what is not durable is submitted again."""
        pause_s, began_s = PAUSE_S, time.monotonic()
        while not self._closed:
            try:
                channel = connect(self.host, self.port, self._token, "client", self.tls)
                self._greet(channel)
                break
            except AccessRefused as error:
                self._give_up(error)
                if lost is None:
                    raise
                return
            except (OSError, WireError) as error:
                if lost is None and time.monotonic() - began_s > 10.0:
                    raise WireError(f"no pool answers at {self.host}:{self.port}: {error}") from error
            if self._revive is not None:
                self._revive()
            time.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        else:
            return
        with self._sending, self._lock:
            if lost is not None:
                lost.close()
            self._channel = channel
            self._declined = []
            unknown = set(self._futures)
            with contextlib.suppress(WireError):
                for first, group in sorted(self._unconfirmed.items()):
                    channel.send(m.encode(group))
                    unknown -= {task_id(self.number, first + i) for i in range(len(group.args))}
                unknown -= {task_id(self.number, n) for n in self._unsent()}
                for said in (*self._settling.values(), *self._takes.values()):
                    channel.send(m.encode(said))
                if lost is not None and unknown:
                    channel.send(m.encode(s.Await(self.session, tuple(sorted(unknown)))))

    def _unsent(self) -> list[int]:
        groups = [(group.first, len(group.args)) for group in self._outbox]
        if self._open is not None:
            groups.append((self._open[1], len(self._open[2])))
        return [first + i for first, count in groups for i in range(count)]

    def _greet(self, channel: BlockingChannel) -> None:
        channel.send(m.encode(s.ClientUp(self.session, self.shares is not None, tuple(self._held))))
        until_s = time.monotonic() + 5.0
        early: deque[Any] = deque()
        while time.monotonic() < until_s:
            if not channel.ready(0.5):
                continue
            for body in channel.receive():
                message = m.decode("from", body)
                if isinstance(message, e.Welcome):
                    if self.number and message.client != self.number:
                        self._renumber()
                    self.number = message.client
                    for other in early:
                        self._handle(other)
                    return
                early.append(message)
        raise WireError("the pool did not welcome this client")

    def _renumber(self) -> None:
        """The pool has forgotten us: nothing is known of what it had."""
        with self._lock:
            for future in self._futures.values():
                future.fail("lost", "the pool at this address does not know this client any more")
            self._futures.clear()
            self._unconfirmed.clear()
            self._unconfirmed_tasks = 0

    def _give_up(self, error: PlesioError) -> None:
        self._error = error

    def _check(self) -> None:
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
        until_s = time.monotonic() + 5.0
        while (self._unconfirmed or self._settling) and self._error is None and time.monotonic() < until_s:
            self._read_or_wait(0.05)
        if self._unconfirmed:
            words = f"plesio: {self._unconfirmed_tasks} tasks or messages were not taken before this client closed"
            print(f"{words}: the queue is full, or no pool answers", file=sys.stderr, flush=True)
        self._closed = True
        self._wake.set()
        if self._channel is not None:
            self._channel.close()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(2.0)


def _nothing(_: Future) -> None:
    """It has not ended yet."""

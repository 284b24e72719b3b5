"""A slot: a process that runs one task at a time for a pool. No event loop: it waits in `recv`, or it works.

It reads what has come between two tasks, when the last one took a while; what it has done it sends at once, or once a
millisecond while it has more to do. Where the next task takes long, a thread sends what was done before it. Coroutines and
thread tasks run many at a time: see concurrent.py.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from plesio.core.pool import effects as e
from plesio.core.pool import outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import HEAVY
from plesio.errors import AccessRefused, CannotSend, Stopped, WireError
from plesio.runtime import here
from plesio.runtime.board import Board
from plesio.runtime.functions import Functions, NotImportable, told
from plesio.runtime.segments import shares_in
from plesio.values import Shares, encoding
from plesio.wire import poolmessages as m
from plesio.wire.blocking import BlockingChannel, connect
from plesio.wire.tls import Tls

if TYPE_CHECKING:
    from plesio.runtime.concurrent import Concurrent

IDLE_S = 0.25  # a wait is no longer, so that a signal to leave is seen
PAUSE_S = 0.001  # between two looks at what has come, and between two sendings, while there is work
LATE_S = 0.02  # results do not wait much longer for the end of another task
KEPT = 512  # results that are kept to be sent again: more than a pool ever has under way in a slot
MESSAGE_LENGTH = 8000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
EARLY_S = 0.01  # a timer may come so much before its time
FAREWELLS = 2  # attempts of one that leaves to send its last results


class OutOfTime(Stopped):
    """... because its time is over."""


class SlotSettings(msgspec.Struct, frozen=True):
    """Where a slot belongs."""

    host: str
    port: int
    token: str
    slot: str
    node: str
    incarnation: str
    tags: tuple[tuple[str, float], ...] = ()
    pool: str = ""  # the pool's folder, on its own machine: large values go through shared memory
    logs: str = ""  # the node's folder for logs


class Item(msgspec.Struct):
    """A task that is here and has not begun."""

    id: int
    fn: str
    timeout_s: float
    args: bytes
    inputs: tuple[tuple[int, bytes], ...]
    attempt: int
    yields: bool = False  # it is told when the slot is to end


class Slot:
    """Owns its connection, what waits here, and results that may have to be sent again."""

    def __init__(self, settings: SlotSettings, board: Board, tls: Tls | None) -> None:
        self.settings = settings
        self.board = board
        self.tls = tls
        self.functions = Functions()
        self.todo: deque[Item] = deque()
        self.sending = threading.RLock()  # for the following, and the connection that is sent by
        self.ids: list[int] = []  # results not sent yet
        self.results: list[bytes] = []
        self.busy_s = 0.0
        self.sent: deque[msgspec.Struct] = deque(maxlen=KEPT)
        self.channel: BlockingChannel | None = None
        self.late = threading.Event()  # has a task begun while results were here?
        self.leaving = False
        self.current = 0
        self.yields = False  # is the current one told when the slot is to end?
        self.told = 0  # the task that was told to stop: it is told once
        self.modes: dict[str, bool] = {}  # by function: may many calls be under way?
        self.concurrent: Concurrent | None = None
        self.shares: Shares | None = shares_in(settings.pool) if settings.pool else None

    def serve(self) -> None:
        """Works until told to leave."""
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGUSR1, self._on_stop)
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._send_late, name="late-results", daemon=True).start()
        pause_s, farewells = FIRST_PAUSE_S, 0
        while True:
            try:
                self.connect()
                pause_s = FIRST_PAUSE_S
                self._work()
                return
            except AccessRefused as error:
                print(f"{self.settings.slot}: {error}", file=sys.stderr, flush=True)
                sys.exit(error.exit_code)
            except (OSError, WireError):
                if self.channel is not None:
                    self.channel.close()  # which ends a sending that is under way
                with self.sending:
                    self.channel = None
                farewells += self.leaving
                if farewells > FAREWELLS:
                    return
                time.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def connect(self) -> None:
        """A new connection; says what is here, and again what may be lost. Raises OSError, WireError, AccessRefused."""
        known = self.settings
        channel = connect(known.host, known.port, known.token, "slot", self.tls)
        with self.sending:
            self.channel = channel
            holds = [item.id for item in self.todo]
            if self.concurrent is not None:
                holds += self.concurrent.active
            for message in self.sent:
                holds += message.ids if isinstance(message, s.Finished) else [getattr(message, "id", 0)]
            holds += self.ids
            self._tell(
                s.SlotUp(known.slot, known.node, known.incarnation, known.tags, tuple(holds), bool(known.pool)),
                keep=False,
            )
            for message in list(self.sent):
                self._tell(message, keep=False)
            for fn, mode in self.modes.items():
                if mode:  # a coordinator that was started again does not know
                    self._tell(s.Concurrent(known.slot, known.incarnation, fn), keep=False)

    def _tell(self, message: msgspec.Struct, keep: bool = True) -> None:
        with self.sending:
            if keep:
                if len(self.sent) == KEPT and isinstance(self.sent[0], s.Finished):
                    self._settle(self.sent[0])
                self.sent.append(message)
            assert self.channel is not None
            self.channel.send(m.encode(message))

    def _settle(self, message: s.Finished) -> None:
        """The pool has had these for long."""
        if self.shares is not None:
            for data in message.results:
                if data[:1] == HEAVY:
                    self.shares.settle(encoding.segments(data))

    def _work(self) -> None:
        looked_s = 0.0
        while not self.leaving:
            if not self.todo:
                self.flush()
                self.listen(IDLE_S)
                looked_s = time.monotonic()
                continue
            now_s = time.monotonic()
            if now_s - looked_s > PAUSE_S:
                self.flush()
                self.listen(0.0)
                looked_s = time.monotonic()
                if not self.todo or self.leaving:
                    continue
            item = self.todo.popleft()
            if self.is_concurrent(item):
                self._run_concurrently(item)
            else:
                self.run_item(item)
        self._leave()

    def listen(self, timeout_s: float) -> None:
        """Takes what has come; waits so long for something."""
        assert self.channel is not None
        for body in self.channel.wait(timeout_s):
            message = m.decode("from", body)
            if isinstance(message, e.Run):
                self._take(message)
            elif isinstance(message, e.Revoke):
                self._give_back(message.ids)

    def _take(self, message: e.Run) -> None:
        here = {item.id for item in self.todo} if self.todo else set()
        if self.concurrent is not None:
            here |= self.concurrent.active.keys()
        for order in message.orders:
            inputs = order.inputs or ((),) * len(order.ids)
            for id, args, needs in zip(order.ids, order.args, inputs, strict=True):
                if id not in here and id != self.current:
                    self.todo.append(Item(id, order.fn, order.timeout_s, args, needs, order.attempt, order.yields))

    def _give_back(self, ids: tuple[int, ...]) -> None:
        """Those that wait here; said again for those that do not, nothing."""
        unwanted = set(ids)
        if self.concurrent is not None:
            self.concurrent.revoke(unwanted)
        gone = [item.id for item in self.todo if item.id in unwanted]
        self.todo = deque(item for item in self.todo if item.id not in unwanted)
        if gone:
            known = self.settings
            self._tell(s.GaveBack(known.slot, known.incarnation, tuple(gone)), keep=False)

    def is_concurrent(self, item: Item) -> bool:
        """May many calls of it be under way? The pool is told when the answer is new."""
        if item.fn not in self.modes:
            try:
                mode = self.functions.is_concurrent(item.fn)
            except NotImportable:
                mode = False  # said when it is run
            self.modes[item.fn] = mode
            if mode:
                known = self.settings
                self._tell(s.Concurrent(known.slot, known.incarnation, item.fn), keep=False)
        return self.modes[item.fn]

    def _run_concurrently(self, item: Item) -> None:
        if self.concurrent is None:
            from plesio.runtime.concurrent import Concurrent

            self.concurrent = Concurrent(self)
        self.concurrent.run(item)

    def inputs_of(self, item: Item) -> dict[int, Any] | None:
        """The results that its arguments refer to."""
        return {need: encoding.decode(data, self.shares) for need, data in item.inputs} if item.inputs else None

    def run_item(self, item: Item) -> None:
        """A plain function, to its end."""
        began_s = time.perf_counter()
        id, self.yields = item.id, item.yields
        if self.ids and not self.late.is_set():
            self.late.set()
        self.current = id
        try:
            function = self.functions.get(item.fn)
            args, kwargs = encoding.decode_call(item.args, self.shares, self.inputs_of(item))
            if item.timeout_s > 0:
                self._begin_timed(item)
            else:
                self.board.begin(id)
            try:
                value = function(*args, **kwargs)
            finally:
                self.current = 0  # signals are for it no more
                self.board.begin(0)
                if item.timeout_s > 0:
                    signal.setitimer(signal.ITIMER_REAL, 0.0)
            self.keep(id, encoding.encode(value, self.shares, "result"))
        except OutOfTime:
            self.fail(item, outcome.TIMED_OUT, f"it ran for longer than its timeout of {item.timeout_s:g} s")
        except Stopped:
            self.fail(item, outcome.CANCELLED, "it was told to stop")
        except NotImportable as error:
            self.fail(item, outcome.NOT_FOUND, str(error))
        except CannotSend as error:
            self.fail(item, outcome.UNSENDABLE, str(error))
        except MemoryError:
            self.fail(item, outcome.MEMORY, "it ran out of memory")
        except (SystemExit, KeyboardInterrupt, GeneratorExit, Exception) as error:  # a process edge: anybody's code
            self.fail(item, outcome.RAISED, told(error))
        self.current = 0
        with self.sending:
            self.busy_s += time.perf_counter() - began_s

    def _begin_timed(self, item: Item) -> None:
        self.board.begin(item.id, time.monotonic() + item.timeout_s)
        signal.setitimer(signal.ITIMER_REAL, item.timeout_s)

    def fail(self, item: Item, kind: str, message: str) -> None:
        """Tells how a task failed. kind: see outcome.py."""
        self.current = 0  # signals are for it no more
        self.flush()
        known = self.settings
        message = message[-MESSAGE_LENGTH:]
        self._tell(s.Failed(known.slot, known.incarnation, item.id, kind, message, item.attempt))

    def keep(self, id: int, result: bytes) -> None:
        """Until the next sending."""
        with self.sending:
            self.results.append(result)
            self.ids.append(id)

    def flush(self) -> None:
        """Sends the results that are here."""
        if not self.ids:
            return
        known = self.settings
        with self.sending:
            ids, results, busy_s = tuple(self.ids), tuple(self.results), self.busy_s
            self.ids, self.results, self.busy_s = [], [], 0.0
            if ids:
                self._tell(s.Finished(known.slot, known.incarnation, ids, results, busy_s))

    def _send_late(self) -> None:
        """A thread of its own: what was done before a task that takes long is not kept until that ends."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM})  # for the main thread
        while self.late.wait():
            self.late.clear()
            time.sleep(LATE_S)
            with self.sending:
                if self.channel is None:
                    continue
                try:
                    self.flush()
                except Exception:  # the main thread meets it too, and sends all again by another connection
                    self.channel.close()

    def _leave(self) -> None:
        known = self.settings
        with self.sending:
            self._tell(s.SlotLeaves(known.slot, known.incarnation), keep=False)  # first: results make room for more
            self.flush()
            self._give_back(tuple(item.id for item in self.todo))
            assert self.channel is not None
            self.channel.close()

    # -- signals

    def _on_term(self, *_: Any) -> None:
        self.leaving = True
        if self.current and self.yields:
            self._stop()

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.current and self.board.to_stop() == self.current:
            self._stop()

    def _stop(self) -> None:
        if self.told != self.current:
            self.told = self.current
            raise Stopped

    def _on_alarm(self, *_: Any) -> None:
        id, deadline_s = self.board.running()
        if (
            self.current == id != 0 and 0.0 < deadline_s <= time.monotonic() + EARLY_S
        ):  # of this task, not of one before
            raise OutOfTime


def main(settings: SlotSettings, board: Board, tls: Tls | None) -> None:
    """The whole life of a slot's process, forked by its node."""
    here.enter(settings, tls)
    with contextlib.suppress(KeyboardInterrupt):
        Slot(settings, board, tls).serve()

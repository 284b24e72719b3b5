"""A machine of a pool: forks slots, watches over them, starts them again. No event loop and no task of its own.

It tells the coordinator why a slot's process ended and which task it was at; it ends tasks that do not end by
themselves, and processes that take more memory than a slot may have.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from plesio.core.pool import effects as e
from plesio.core.pool import outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import name_of
from plesio.errors import AccessRefused, PlesioError, WireError
from plesio.launchers import logs
from plesio.launchers.child import die_with_parent
from plesio.runtime.board import Board
from plesio.runtime.slot import SlotSettings
from plesio.runtime.slot import main as slot_main
from plesio.wire import poolmessages as m
from plesio.wire.blocking import BlockingChannel, connect
from plesio.wire.tls import Tls, load

OWN = (("@host", 1.0),)  # what a slot for the pool's own tasks offers
BEAT_S = 0.5
LOOK_S = 0.1  # between two looks at deadlines and memory
OVERTIME_S = 2.0  # a task that does not stop when told to has so long until its process is killed
RESTART_S = 0.2  # a slot that ends at once is not started more often
DRAIN_S = 30.0  # for tasks that run when the node is told to leave
PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
FLAP_S, FLAPS = 2.0, 5  # so many connections, each lost so soon, are told
AGAIN_S = 0.5  # so long after it was told to leave it may be told to make haste
ANSWER_S = 1.0  # it has children to look after meanwhile


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """host, port: of the coordinator. memory_bytes: of one slot's process; 0: as much as there is."""

    host: str
    port: int
    token: str
    name: str
    slots: int
    folder: str  # for logs
    tags: tuple[tuple[str, float], ...] = ()
    memory_bytes: int = 0
    tls: str = ""
    pool: str = ""  # see SlotSettings
    own: bool = False  # one slot more, for the pool's own tasks: the runs that it hosts


class Place:
    """Where a slot runs, again and again. Owned by the node."""

    def __init__(self, name: str, tags: tuple[tuple[str, float], ...], memory_bytes: int) -> None:
        self.name = name
        self.tags = tags
        self.memory_bytes = memory_bytes
        self.board = Board()
        self.pid = 0
        self.incarnation = ""
        self.started_s = 0.0
        self.killed = ("", "")  # (kind, why) when the node itself ended it
        self.stopping: tuple[int, float] = (0, 0.0)  # a task told to stop, and when it is killed


class Node:
    """Owns the slots' processes and the connection that speaks for them.

    other_ended: told the end of another child, (pid, code); is it time to leave? in_child: what a slot is to do first.
    tell: told what a person may want to know. Told to leave a second time, it does not wait for tasks that run.
    """

    def __init__(
        self,
        settings: NodeSettings,
        tls: Tls | None,
        other_ended: Callable[[int, int], bool] | None = None,
        in_child: Callable[[], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self.tls = tls
        self.other_ended = other_ended
        self.in_child = in_child
        self.tell = tell or (lambda words: None)
        limits = settings.tags, settings.memory_bytes
        self.places = [Place(f"{settings.name}.{i}", *limits) for i in range(settings.slots)]
        if settings.own:
            self.places.append(Place(f"{settings.name}.own", OWN, 0))
        self.channel: BlockingChannel | None = None
        self.outbox: list[s.SlotExited] = []
        self.leaving = self.hurry = False
        self.leaving_s = 0.0
        self.joined_s, self.flaps = -FLAP_S, 0
        self.silent = False  # the coordinator did not answer, and that was told
        self.refused: AccessRefused | None = None

    def run(self) -> None:
        """Until told to leave, or refused. Raises AccessRefused."""
        wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_term)
        beat_s = look_s = retry_s = 0.0
        pause_s = PAUSE_S
        try:
            while not self.leaving:
                self._reap()
                now_s = time.monotonic()
                if self.channel is None and beat_s:
                    beat_s, retry_s = 0.0, now_s + pause_s  # just lost: perhaps we are about to learn why
                elif self.channel is None and now_s >= retry_s:
                    pause_s = PAUSE_S if self._connect() else min(LONGEST_PAUSE_S, 2 * pause_s)
                    retry_s = now_s + pause_s
                self._start_missing(now_s)
                if now_s - look_s >= LOOK_S:
                    look_s = now_s
                    self._watch(now_s)
                if self.channel is not None and now_s - beat_s >= BEAT_S:
                    beat_s = now_s
                    self._beat()
                self._wait(wake, LOOK_S if self.channel is not None else min(LOOK_S, max(0.01, retry_s - now_s)))
        finally:
            self._end()
        if self.refused is not None:
            raise self.refused

    def _on_term(self, *_: Any) -> None:
        if not self.leaving:
            self.leaving, self.leaving_s = True, time.monotonic()
        elif time.monotonic() - self.leaving_s > AGAIN_S:
            self.hurry = True

    def _connect(self) -> bool:
        known = self.settings
        try:
            self.channel = connect(known.host, known.port, known.token, "node", self.tls, ANSWER_S)
            self._beat()
            for message in self.outbox:
                self._tell(message)
            self.outbox.clear()
            self.silent = False
            self._tell_joined()
            return True
        except AccessRefused as error:
            self.refused, self.leaving = error, True
        except (OSError, WireError) as error:
            self.channel = None
            if not self.silent:
                self.tell(f"no pool answers at {known.host}:{known.port} ({error}); trying again")
            self.silent = True
        return False

    def _tell_joined(self) -> None:
        """Said once of a connection that comes and goes."""
        known, now_s = self.settings, time.monotonic()
        self.flaps = self.flaps + 1 if now_s - self.joined_s < FLAP_S else 0
        self.joined_s = now_s
        if self.flaps == 0:
            self.tell(f"in the pool at {known.host}:{known.port}, with {known.slots} slots")
        elif self.flaps == FLAPS:
            self.tell(f"the pool ends this connection again and again: is another worker named {known.name!r}, too?")

    def _tell(self, message: msgspec.Struct) -> None:
        """Lost when there is no connection; raises nothing."""
        if self.channel is None:
            return
        try:
            self.channel.send(m.encode(message))
        except WireError:
            self.channel = None

    def _beat(self) -> None:
        alive = [place for place in self.places if place.pid]
        slots = tuple((place.name, place.incarnation) for place in alive)
        self._tell(s.NodeUp(self.settings.name, slots, tuple(place.board.running()[0] for place in alive)))

    def _wait(self, wake: int, timeout_s: float) -> None:
        files: list[Any] = [wake] if self.channel is None else [wake, self.channel.sock]
        try:
            ready, _, _ = select.select(files, [], [], timeout_s)
        except (OSError, ValueError):
            self.channel = None
            return
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        if self.channel is not None and self.channel.sock in ready:
            try:
                for body in self.channel.receive():
                    message = m.decode("from", body)
                    if isinstance(message, e.StopTask):
                        self._stop_task(message)
            except WireError:
                self.channel.close()
                self.channel = None

    # -- processes

    def _start_missing(self, now_s: float) -> None:
        for place in self.places:
            if not place.pid and now_s - place.started_s >= RESTART_S and self.refused is None:
                self._start(place, now_s)

    def _start(self, place: Place, now_s: float) -> None:
        place.incarnation, place.started_s = secrets.token_hex(8), now_s
        place.killed, place.stopping = ("", ""), (0, 0.0)
        place.board.begin(0)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_slot(place, parent)
        place.pid = pid

    def _become_slot(self, place: Place, parent: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(parent)
            if self.channel is not None:
                self.channel.sock.close()
            if self.in_child is not None:
                self.in_child()
            log_to(Path(self.settings.folder) / f"{place.name}.log")
            known = self.settings
            settings = SlotSettings(
                known.host, known.port, known.token, place.name, known.name, place.incarnation, place.tags, known.pool,
                known.folder,
            )  # fmt: skip
            slot_main(settings, place.board, self.tls)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException as error:  # a process edge
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            place = next((place for place in self.places if place.pid == pid), None)
            if place is not None:
                self._slot_ended(place, os.waitstatus_to_exitcode(status))
            elif self.other_ended is not None and self.other_ended(pid, os.waitstatus_to_exitcode(status)):
                self.leaving = True

    def _slot_ended(self, place: Place, code: int) -> None:
        running, _ = place.board.running()
        kind, why = place.killed
        if not kind:
            kind, why = outcome.CRASHED, f"its process ended with {how_it_ended(code)} while it ran"
        if running:
            self.tell(f"{place.name}, at task {name_of(running)}: {why}")
        message = s.SlotExited(place.name, place.incarnation, running, kind, why)
        place.pid = 0
        if self.channel is None:
            self.outbox.append(message)
        self._tell(message)

    def _stop_task(self, order: e.StopTask) -> None:
        for place in self.places:
            known = (place.name, place.incarnation) == (order.slot, order.incarnation) and place.pid
            if known and place.board.running()[0] == order.id != place.stopping[0]:
                place.board.ask_to_stop(order.id)
                place.stopping = (order.id, time.monotonic() + max(order.grace_s, OVERTIME_S))
                os.kill(place.pid, signal.SIGUSR1)

    def _watch(self, now_s: float) -> None:
        for place in self.places:
            if not place.pid:
                continue
            limit_bytes = place.memory_bytes
            running, deadline_s = place.board.running()
            if running != place.stopping[0]:
                place.stopping = (0, 0.0)
            if running and deadline_s and now_s > deadline_s + OVERTIME_S:
                self._kill(
                    place, outcome.TIMED_OUT, "it ran for longer than its timeout, and did not stop when told to"
                )
            elif running and running == place.stopping[0] and now_s > place.stopping[1]:
                self._kill(place, outcome.CANCELLED, "it did not stop when told to")
            elif limit_bytes and (used := rss_bytes(place.pid)) > limit_bytes:
                why = f"its process took {used >> 20} MiB, and a slot may take {limit_bytes >> 20} MiB"
                self._kill(place, outcome.MEMORY, why)

    def _kill(self, place: Place, kind: str, why: str) -> None:
        if not place.killed[0]:
            place.killed = (kind, why)
            os.kill(place.pid, signal.SIGKILL)

    def _end(self) -> None:
        """Running tasks may end, those that wait go back; then all processes are gone."""
        until_s, told_s = time.monotonic() + DRAIN_S, 0.0
        busy = sum(bool(place.pid and place.board.running()[0]) for place in self.places)
        if busy:
            self.tell(f"waits up to {DRAIN_S:.0f} s for tasks that run ({busy}); told again, it does not wait")
        while any(place.pid for place in self.places) and time.monotonic() < until_s and not self.hurry:
            if time.monotonic() - told_s > 1.0:  # again, in case that a process was only just beginning
                told_s = time.monotonic()
                for place in self.places:
                    if place.pid:
                        os.kill(place.pid, signal.SIGTERM)
            self._reap()
            self._beat()
            time.sleep(0.02)
        for place in self.places:
            if place.pid:
                self._kill(place, outcome.LOST, "its worker left")
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(place.pid, 0)
        if self.channel is not None:
            self.channel.close()


def main() -> None:
    """Entry of a node's own process. Its settings come as one line of JSON on stdin: they hold the token."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=NodeSettings)
    log_to(Path(settings.folder) / f"{settings.name}.log")
    try:
        Node(settings, load(settings.tls) if settings.tls else None).run()
    except PlesioError as error:
        print(f"{settings.name}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def how_it_ended(code: int) -> str:
    """A process's exit code, in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def log_to(path: Path) -> None:
    """This process's output goes to a file from now on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logs.rotate(path)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(nothing)


if __name__ == "__main__":
    main()

"""The process behind `plesio up` and an embedded pool: it starts the coordinator again whenever it dies, and is a node.

The process for HTTP, where there is one, is its child, too.

Its settings come as one line of JSON on stdin, so that the token is in no argument and no environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from plesio import registry
from plesio.clock import SystemClock
from plesio.core.pool.turn import Policies
from plesio.errors import PlesioError, UserError
from plesio.launchers import logs
from plesio.launchers.child import die_with_parent
from plesio.runtime.hostsettings import HostSettings, local_path, near, withdraw
from plesio.runtime.node import Node, NodeSettings, how_it_ended, log_to
from plesio.runtime.pool import Pool
from plesio.runtime.webprocess import WebProcess, WebSettings
from plesio.wire.looking import looking_loop
from plesio.wire.tls import Tls, load

RESTART_S, LONGEST_PAUSE_S = 0.2, 5.0
QUICK_S, GIVE_UP = 2.0, 5  # a coordinator that raises so soon, so often in a row, will do so for ever


class Host:
    """Owns the coordinator's process; its node owns the slots'. tell: told what a person may want to know."""

    def __init__(self, settings: HostSettings, tell: Callable[[str], None] | None = None) -> None:
        self.settings = settings
        self.tell = tell or (lambda words: None)
        self.listener = socket.socket(fileno=settings.listener)
        self.local = socket.socket(fileno=settings.local) if settings.local >= 0 else None
        self.tls: Tls | None = load(settings.tls, serves=True) if settings.tls else None
        self.web: WebProcess | None = None
        if settings.http >= 0:
            self.web = WebProcess(
                WebSettings(
                    folder=settings.folder, listener=settings.http, token=settings.http_token, tls=settings.tls
                )
            )
        self.coordinator = 0
        self.started_s = 0.0
        self.pause_s = RESTART_S / 2
        self.failures = 0
        self.failed = False
        host, port = self.listener.getsockname()[:2]
        self.node = Node(
            NodeSettings(
                host=near(host) if self.local is None else local_path(settings.folder), port=port,
                token=settings.token, name=settings.name, slots=settings.slots,
                folder=str(Path(settings.folder) / "logs"), tags=settings.tags, memory_bytes=settings.memory_bytes,
                pool=settings.folder, own=settings.runs,
            ),
            self.tls,
            self._ended,
            self._close_listeners,
            self.tell,
        )  # fmt: skip

    def _close_listeners(self) -> None:
        self.listener.close()
        if self.local is not None:
            self.local.close()
        if self.web is not None:
            with contextlib.suppress(OSError):
                os.close(self.web.settings.listener)

    def run(self) -> None:
        """Until the pool ends or this process is told to. Raises UserError when there cannot be a pool."""
        self._start()
        if self.web is not None:
            self.web.start()
        try:
            self.node.run()
        finally:
            self._stop()
        if self.failed:
            raise UserError(self._last_words())

    def _ended(self, pid: int, code: int) -> bool:
        """The coordinator's end: wanted (True), or it is started again; as that for HTTP always is."""
        if self.web is not None and pid == self.web.pid:
            self.web.ended()
            if not self.node.leaving:
                self.tell(f"the HTTP process ended ({how_it_ended(code)}) and is started again: {self.web.restart()}")
            return False
        if pid != self.coordinator:
            return False
        self.coordinator = 0
        lasted_s = time.monotonic() - self.started_s
        self.failures = self.failures + 1 if code > 0 and lasted_s < QUICK_S else 0
        if code == 2 or self.failures >= GIVE_UP or (code == 0 and (self.settings.embedded or self.node.leaving)):
            withdraw(Path(self.settings.folder))
            self._close_listeners()  # so that nobody waits for an answer
            self.failed = self.node.hurry = code > 0
            return True
        said = f": {self._last_words()}" if code > 0 else ""
        self.tell(f"the coordinator ended ({how_it_ended(code)}) and is started again{said}")
        self.pause_s = RESTART_S if lasted_s > LONGEST_PAUSE_S else min(LONGEST_PAUSE_S, 2 * self.pause_s)
        time.sleep(max(0.0, self.pause_s - lasted_s))
        self._start()
        return False

    def _last_words(self) -> str:
        log = Path(self.settings.folder) / "logs" / "coordinator.log"
        return logs.last_line(log) or f"see {log}"

    def _start(self) -> None:
        parent, self.started_s = os.getpid(), time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._become_coordinator(parent)
        self.coordinator = pid

    def _become_coordinator(self, parent: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            die_with_parent(parent)
            folder = Path(self.settings.folder)
            log_to(folder / "logs" / "coordinator.log")
            with asyncio.Runner(loop_factory=looking_loop) as runner:
                runner.run(self._serve(folder))
            code = 0
        except PlesioError as error:
            print(f"coordinator: {error}", file=sys.stderr)
            code = error.exit_code
        except BaseException as error:  # a process edge
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)

    async def _serve(self, folder: Path) -> None:
        known = self.settings
        order = registry.load(registry.ORDERS, "order", known.order)()
        placement = registry.load(registry.PLACEMENTS, "placement", known.placement)()
        policies = Policies(order=order, placement=placement)
        pool = Pool(folder, known.token, SystemClock(), self.tls, known.sync, known.embedded, policies)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pool.stopping.set)
        await pool.run(self.listener, self.local)

    def _stop(self) -> None:
        if self.web is not None:
            self.web.stop()
        if self.coordinator:
            os.kill(self.coordinator, signal.SIGTERM)
            until_s = time.monotonic() + 5.0
            while time.monotonic() < until_s:
                pid, _ = os.waitpid(self.coordinator, os.WNOHANG)
                if pid:
                    return
                time.sleep(0.01)
            os.kill(self.coordinator, signal.SIGKILL)
            os.waitpid(self.coordinator, 0)


def main() -> None:
    """Entry of the process of an embedded pool."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=HostSettings)
    log_to(Path(settings.folder) / "logs" / "host.log")
    try:
        Host(settings).run()
    except PlesioError as error:
        print(f"pool: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

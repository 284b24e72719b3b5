"""The process that serves a pool over HTTP, as its host sees it: a child that is started again when it ends.

It is named by its module and never imported here: nothing of it is loaded unless it is wanted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from plesio.launchers import logs
from plesio.launchers.child import die_with_parent
from plesio.runtime.node import log_to

MODULE = "plesio.web.main"
PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0  # before it is started again
LASTED_S = 10.0  # then it was well
GRACE_S = 4.0


class WebSettings(msgspec.Struct, frozen=True, kw_only=True):
    """folder: of the pool. listener: descriptor of a bound socket. token: that HTTP clients show."""

    folder: str
    listener: int
    token: str
    tls: str = ""


class WebProcess:
    """Owned by the host."""

    def __init__(self, settings: WebSettings) -> None:
        self.settings = settings
        self.pid = 0
        self.started_s = 0.0
        self.pause_s = 0.0

    def start(self) -> None:
        """It connects to the pool by itself."""
        parent, self.started_s = os.getpid(), time.monotonic() + self.pause_s
        reader, writer = os.pipe()
        os.write(writer, msgspec.json.encode(self.settings) + b"\n")  # far less than a pipe holds
        os.close(writer)
        self.pid = os.fork()
        if self.pid == 0:
            self._become(parent, reader)
        os.close(reader)

    def _become(self, parent: int, reader: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.setpgrp()  # Ctrl-C is for the host, which ends us last
            die_with_parent(parent)
            log_to(self.log)
            time.sleep(self.pause_s)
            os.dup2(reader, 0)
            os.set_inheritable(self.settings.listener, True)
            os.execv(sys.executable, [sys.executable, "-m", MODULE])
        finally:
            os._exit(1)

    @property
    def log(self) -> Path:
        """What it says goes there."""
        return Path(self.settings.folder) / "logs" / "http.log"

    def ended(self) -> None:
        """Its process is gone."""
        self.pid = 0

    def restart(self) -> str:
        """Later each time when it ends soon. Returns the last words of the one before."""
        lasted_s = time.monotonic() - self.started_s
        self.pause_s = PAUSE_S if lasted_s > LASTED_S else min(LONGEST_PAUSE_S, max(PAUSE_S, 2 * self.pause_s))
        words = logs.last_line(self.log) or f"see {self.log}"
        self.start()
        return words

    def stop(self) -> None:
        """What is under way may end, a while."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGTERM)
            until_s = time.monotonic() + GRACE_S
            while time.monotonic() < until_s:
                pid, _ = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    return
                time.sleep(0.01)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

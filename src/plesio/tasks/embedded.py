"""`plesio.connect`: to a pool somewhere, or to one of this machine's own, which it starts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from plesio.errors import UserError, WireError
from plesio.runtime.hostsettings import ADDRESS, HostSettings
from plesio.runtime.segments import shares_in
from plesio.tasks.client import Client
from plesio.tasks.link import Link
from plesio.wire.tokens import read, read_or_make


def connect(
    url: str = "",
    *,
    token_file: str = "",
    tls: str = "",
    folder: str | Path = "runs/pool",
    workers: int = 0,
    sync: Literal["normal", "full"] = "normal",
) -> Client:
    """A client of the pool at `url` (HOST:PORT), or of this machine's own.

    Without a url: a pool in `folder` with so many workers (0: one per core), started when none runs there; it ends
    with its last client, and goes on with what was submitted when it is started again. token_file: the pool's, from
    its machine. sync: 'full' survives a power cut, too, at the price of an fsync per batch; 'normal' any crash of
    processes. Raises AccessRefused, UserError, WireError.
    """
    if url:
        from plesio.wire.tls import load

        name, _, number = url.removeprefix("plesio://").rpartition(":")
        if not name or not number.isdecimal():
            raise UserError(f"{url!r} is not HOST:PORT")
        if not token_file:
            raise UserError("a pool elsewhere has a token; copy its token file here and pass token_file=")
        link = Link(name, int(number), read(Path(token_file)), load(tls) if tls else None)
        link.open()
        return Client(link)
    embedded = Embedded(Path(folder), workers or os.cpu_count() or 1, sync)
    host, port = embedded.start()
    link = Link(host, port, embedded.token, None, embedded.revive, shares_in(embedded.folder))
    try:
        link.open()
    except WireError as error:
        raise WireError(f"{error}; {embedded.said()}") from error
    return Client(link)


class Embedded:
    """This machine's own pool, started by whoever needs it first. Owned by one client."""

    def __init__(self, folder: Path, workers: int, sync: Literal["normal", "full"]) -> None:
        self.folder = folder.absolute()
        self.workers = workers
        self.sync = sync
        self.token = ""
        self.host: subprocess.Popen[bytes] | None = None
        self.address = ("", 0)

    def start(self) -> tuple[str, int]:
        """(host, port) of the pool of this folder; it is started when it does not run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token = read_or_make(self.folder / "token")
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            running = self._running()
            self.address = running or self._start()
        return self.address

    def revive(self) -> None:
        """Starts it again when its process is gone, at the same address."""
        if self.host is not None and self.host.poll():
            raise WireError(f"the pool in {self.folder} ended: {self.said()}")
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._running() is None:
                with contextlib.suppress(OSError):  # the one before still has the port: tried again soon
                    self._start(self.address[1])

    def _running(self) -> tuple[str, int] | None:
        try:
            told = json.loads((self.folder / ADDRESS).read_text())
            os.kill(told["pid"], 0)
            with open(f"/proc/{told['pid']}/stat", "rb") as file:
                state, started = _state_of(file.read())
            if state == b"Z" or started != told["started"]:
                return None
            return told["host"], told["port"]
        except (OSError, ValueError, KeyError):
            return None

    def _start(self, port: int = 0) -> tuple[str, int]:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        settings = HostSettings(
            folder=str(self.folder), token=self.token, listener=listener.fileno(), slots=self.workers,
            sync=self.sync, embedded=True,
        )  # fmt: skip
        host = subprocess.Popen(
            [sys.executable, "-m", "plesio.runtime.poolhost"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        assert host.stdin is not None
        host.stdin.write(msgspec.json.encode(settings) + b"\n")
        host.stdin.close()
        address = listener.getsockname()[:2]
        listener.close()
        with open(f"/proc/{host.pid}/stat", "rb") as file:
            _, started = _state_of(file.read())
        told = {"host": address[0], "port": address[1], "pid": host.pid, "started": started}
        temporary = self.folder / f"{ADDRESS}.tmp"
        temporary.write_text(json.dumps(told))
        temporary.replace(self.folder / ADDRESS)
        self.host = host
        return address[0], address[1]

    def said(self) -> str:
        """The last words of its processes."""
        for name in ("host", "coordinator"):
            with contextlib.suppress(OSError):
                lines = (self.folder / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()
                if lines:
                    return lines[-1]
        return f"see the logs in {self.folder / 'logs'}"


def _state_of(stat: bytes) -> tuple[bytes, int]:
    """(state, start time) of a line of /proc/PID/stat."""
    fields = stat.rpartition(b")")[2].split()
    return fields[0], int(fields[19])

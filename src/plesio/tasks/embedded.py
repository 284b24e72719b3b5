"""`plesio.connect`: to a pool somewhere, or to one of this machine's own, which it starts."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from plesio.errors import UserError, WireError
from plesio.runtime import here
from plesio.runtime.hostsettings import (
    HostSettings,
    Running,
    announce,
    bind_local,
    local_path,
    locked,
    running,
    started,
    usable_cores,
)
from plesio.runtime.segments import shares_in
from plesio.tasks.client import Client
from plesio.tasks.dialling import Address
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
    """A client of the pool at `url` (HOST:PORT), or of the one that runs this script, or of this machine's own.

    Without a url, and not in a run on a pool: one in `folder` with so many workers (0: one per core), started when none
    runs there; it ends with its last client, and goes on with what was submitted when it is started again. token_file:
    the pool's, from its machine. sync: 'full' survives a power cut, too, at the price of an fsync per batch; 'normal' any
    crash of processes. Raises AccessRefused, UserError, WireError.
    """
    if not url and (told := here.pool()) is not None:
        url, token_file, tls = told.url, told.token_file, told.tls
    if url:
        from plesio.wire.tls import load

        name, _, number = url.removeprefix("plesio://").rpartition(":")
        if not name or not number.isdecimal():
            raise UserError(f"{url!r} is not HOST:PORT")
        if not token_file:
            raise UserError("a pool elsewhere has a token; copy its token file here and pass token_file=")
        link = Link(Address(name, int(number), read(Path(token_file)), load(tls) if tls else None))
        link.open()
        return Client(link)
    embedded = Embedded(Path(folder), workers or usable_cores(), sync)
    where = embedded.start()
    try:
        return _client(where, Path(folder), embedded.revive)
    except WireError as error:
        raise WireError(f"{error}; {embedded.said()}") from error


def attach(folder: str | Path, *, patient: bool = True) -> Client:
    """A client of the pool that runs in `folder` now; nothing is started. patient: see Link.

    Raises UserError, AccessRefused, WireError.
    """
    found = running(Path(folder))
    if found is None:
        raise UserError(
            f"no pool runs in {folder}; start one with `plesio up --dir {folder}`, or name one elsewhere: --to HOST:PORT"
        )
    return _client(found, Path(folder), None, patient)


def _client(where: Running, folder: Path, revive: Callable[[], None] | None, patient: bool = True) -> Client:
    tls = None
    if where.tls:
        from plesio.wire.tls import load

        tls = load(where.tls)
    local = local_path(folder)
    host = local if local and Path(local).exists() else where.host
    address = Address(host, where.port, read(Path(where.token_file)), tls, revive)
    link = Link(address, shares_in(folder.absolute()), patient)
    link.open()
    return Client(link)


class _Host(subprocess.Popen[bytes]):
    """It outlives its starter by design: that is nothing to warn of."""

    def __del__(self, *_: object) -> None:
        super().__del__(_warn=lambda *_, **__: None)  # type: ignore[call-arg]  # reaped once it has ended


class Embedded:
    """This machine's own pool, started by whoever needs it first. Owned by one client."""

    def __init__(self, folder: Path, workers: int, sync: Literal["normal", "full"]) -> None:
        self.folder = folder.absolute()
        self.workers = workers
        self.sync = sync
        self.host: subprocess.Popen[bytes] | None = None
        self.address: Running | None = None

    def start(self) -> Running:
        """The pool of this folder; it is started when none runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self.address = running(self.folder) or self._start()
        return self.address

    def revive(self) -> None:
        """Starts it again when its process is gone, at the same address; unless it is somebody's `plesio up`."""
        assert self.address is not None
        if self.host is not None:
            code = self.host.poll()
            if code is None:
                return  # it is about to answer, or to end
            if code > 0:
                raise WireError(f"the pool in {self.folder} ended: {self.said()}")
        with locked(self.folder):
            if self.address.embedded and running(self.folder) is None:
                with contextlib.suppress(OSError):  # the one before still has the port: tried again soon
                    self._start(self.address.port)

    def _start(self, port: int = 0) -> Running:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        token_file = self.folder / "token"
        local = bind_local(self.folder)
        settings = HostSettings(
            folder=str(self.folder), token=read_or_make(token_file), listener=listener.fileno(), slots=self.workers,
            local=-1 if local is None else local.fileno(), sync=self.sync, embedded=True,
        )  # fmt: skip
        host = _Host(
            [sys.executable, "-m", "plesio.runtime.poolhost"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[x.fileno() for x in (listener, local) if x is not None],
            start_new_session=True,
        )
        assert host.stdin is not None
        host.stdin.write(msgspec.json.encode(settings) + b"\n")
        host.stdin.close()
        address = listener.getsockname()[:2]
        listener.close()
        if local is not None:
            local.close()
        told = Running(
            host=address[0], port=address[1], pid=host.pid, started=started(host.pid), embedded=True,
            token_file=str(token_file),
        )  # fmt: skip
        announce(self.folder, told)
        self.host = host
        return told

    def said(self) -> str:
        """The last words of its processes."""
        from plesio.launchers import logs  # asyncio: slow to import

        folder = self.folder / "logs"
        said = (logs.last_line(folder / f"{name}.log") for name in ("host", "coordinator"))
        return next((line for line in said if line), f"see the logs in {folder}")

"""What whoever starts a pool's host tells it, and where the host of a folder is found. Light: clients import it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

ADDRESS = "address.json"  # in a pool's folder, while it runs
SOCKET = "socket"  # ... for those of this machine: a third of the time of TCP
BACKLOG = 128
LONGEST_PATH = 100  # bytes, of a Unix socket's


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """listener: descriptor of a bound socket; local: of one of `bind_local`, -1: none. slots: 0: a coordinator only.

    http: descriptor of a bound socket for HTTP, -1: none; http_token: what its clients show.

    See Pool for embedded and sync.
    """

    folder: str
    token: str
    listener: int
    slots: int
    local: int = -1
    name: str = "here"
    sync: Literal["normal", "full"] = "normal"
    embedded: bool = False
    tls: str = ""
    tags: tuple[tuple[str, float], ...] = ()
    memory_bytes: int = 0
    order: str = "aging"  # names of policies, see registry.py
    placement: str = "rate-aware"
    runs: bool = False  # does it host training runs?
    http: int = -1
    http_token: str = ""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Where a folder's pool is found, and by which process: `started` tells it from a later one of the same number.

    embedded: it ends with its last client. token_file, tls: what a client on this machine needs. listens: on which of its
    addresses, which host is how to reach from this machine.
    """

    host: str
    port: int
    pid: int
    started: int
    embedded: bool
    token_file: str
    tls: str = ""
    listens: str = "127.0.0.1"


def local_path(folder: str | Path) -> str:
    """Where those of this machine reach the pool of a folder; '' when its name is too long for that."""
    path = str(Path(folder).absolute() / SOCKET)
    return path if len(os.fsencode(path)) <= LONGEST_PATH else ""


def bind_local(folder: Path) -> socket.socket | None:
    """A listening socket there, for this user only. Call it `locked`. None: this file system has no sockets."""
    path = local_path(folder)
    if not path:
        return None
    listener = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        return None
    return listener


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else starts this folder's pool meanwhile."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def running(folder: Path) -> Running | None:
    """The pool that runs in this folder."""
    try:
        told = msgspec.json.decode((folder / ADDRESS).read_bytes(), type=Running)
        return told if started(told.pid) == told.started else None
    except (OSError, msgspec.MsgspecError):
        return None


def announce(folder: Path, told: Running) -> None:
    """From now on it is found. Call it `locked`."""
    temporary = folder / f"{ADDRESS}.tmp"
    temporary.write_bytes(msgspec.json.encode(told))
    temporary.replace(folder / ADDRESS)


def withdraw(folder: Path) -> None:
    """It is not found any more."""
    with contextlib.suppress(OSError):
        (folder / SOCKET).unlink()
    with contextlib.suppress(OSError):
        (folder / ADDRESS).unlink()


def started(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0: it has ended. Raises OSError when it is not known."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return 0 if fields[0] == b"Z" else int(fields[19])


def near(host: str) -> str:
    """How this machine reaches what listens there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  it is compared, not bound


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

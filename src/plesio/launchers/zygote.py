"""The zygote: imports torch once, runs no operation of it, and forks a process per request.

`python -m plesio.launchers.zygote FD PARENT_PID` obeys requests on the socket FD: a frame is a
4-byte little-endian length and a msgpack body; passed descriptors travel with the length. Frames
that arrive during the import wait in the socket. It lives no longer than its parent, nor its
children longer than it. It keeps no state that outlives it and restarts nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

import msgspec

from plesio.launchers import child
from plesio.launchers.child import Job

MAX_SOCKETS = 64  # passed to one process
LENGTH_BYTES = 4


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Request: start this job. Answered by Forked or Refused."""

    id: str
    job: Job


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Request: signal a process. Sent through the zygote, which reaps: the pid cannot be another's."""

    id: str
    signum: int


class Forked(msgspec.Struct, frozen=True, tag=True):
    """Answer: the process exists."""

    id: str
    pid: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Answer: the system did not let us fork."""

    id: str
    reason: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Notice: the process was reaped; a negative code is a signal."""

    id: str
    code: int


Request = Fork | Signal
Notice = Forked | Refused | Ended


def frame(message: Request | Notice) -> tuple[bytes, bytes]:
    """Length and body, as they go over the socket."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little"), body


class Zygote:
    """Owns the socket and the table of its running children."""

    def __init__(self, owner: socket.socket) -> None:
        self._owner = owner
        self._pids: dict[str, int] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def serve(self) -> Job | None:
        """Obey until the owner is gone (None). In each forked child it returns that child's job."""
        signal.signal(signal.SIGCHLD, lambda signum, stack: None)  # a handler, so that the pipe is written
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._owner.fileno(), self._wake_read], [], [])
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._owner.fileno() in ready:
                received = self._receive()
                if received is None:
                    self._kill_all()
                    return None
                request, descriptors = received
                if isinstance(request, Signal):
                    self._signal(request)
                elif job := self._fork(request, descriptors):
                    return job

    def _receive(self) -> tuple[Request, list[int]] | None:
        try:
            length, descriptors, _, _ = socket.recv_fds(self._owner, LENGTH_BYTES, MAX_SOCKETS)
        except ConnectionResetError:  # the owner ended with notices unread
            return None
        rest = self._read_exactly(LENGTH_BYTES - len(length)) if length else b""
        body = self._read_exactly(int.from_bytes(length + rest, "little"))
        return (msgspec.msgpack.decode(body, type=Request), descriptors) if body else None

    def _read_exactly(self, size_bytes: int) -> bytes:
        """`size_bytes` bytes, or none at the end of the stream."""
        data = b""
        while len(data) < size_bytes:
            part = self._owner.recv(size_bytes - len(data))
            if not part:
                return b""
            data += part
        return data

    def _fork(self, request: Fork, descriptors: list[int]) -> Job | None:
        """The job in the child, None in the zygote."""
        zygote_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send(Refused(request.id, str(error)))
            pid = -1
        if pid == 0:
            child.die_with_parent(zygote_pid)
            self._become_child()
            sockets = dict(zip(request.job.spec.sockets, descriptors, strict=True))
            spec = msgspec.structs.replace(request.job.spec, sockets=sockets)
            return msgspec.structs.replace(request.job, spec=spec)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._pids[request.id] = pid
            self._send(Forked(request.id, pid))
        return None

    def _become_child(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._owner.close()  # or the owner would not see the zygote's end
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _signal(self, request: Signal) -> None:
        if request.id in self._pids:
            os.kill(self._pids[request.id], request.signum)

    def _reap(self) -> None:
        for id, pid in list(self._pids.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._pids[id]
                self._send(Ended(id, os.waitstatus_to_exitcode(status)))

    def _send(self, notice: Notice) -> None:
        with contextlib.suppress(BrokenPipeError):  # the owner is gone: serve reads that next
            self._owner.sendall(b"".join(frame(notice)))

    def _kill_all(self) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self._pids.values():
            os.waitpid(pid, 0)


def _differ_from_siblings() -> None:
    """What a library set up once, in the zygote, and each process must have for itself."""
    if "numpy.random" in sys.modules:  # Python's own `random` reseeds itself after a fork
        sys.modules["numpy.random"].seed()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) > 0:  # OpenMP read the zygote's
        sys.modules["torch"].set_num_threads(int(threads))


def main() -> None:
    child.die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    owner = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(owner.fileno(), False)
    import torch  # noqa: F401  the reason for this process

    gc.collect()
    gc.freeze()  # a child's collector leaves the shared pages alone
    job = Zygote(owner).serve()
    if job:
        child.enter(job)
        _differ_from_siblings()
        child.run(job)


if __name__ == "__main__":
    main()

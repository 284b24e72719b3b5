"""The owner's end of a zygote: starts it, sends requests, hears notices.

When the zygote ends, its children end with it: each is reported as killed (-9). It does not
restart: the launcher opens a new link.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from plesio.errors import PlesioError
from plesio.launchers.child import Job
from plesio.launchers.zygote import LENGTH_BYTES, Ended, Fork, Forked, Notice, Request, Signal, frame

_END_S = 10.0  # a zygote that does not end by itself in this time is killed


class ZygoteLink:
    """Owns the zygote's process and the futures of the starts under way. Made by `open_link`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        end: socket.socket,
        log: Path,
        on_ended: Callable[[str, int], None],
    ) -> None:
        self.alive = True
        self._process = process
        self._end = end
        self._log = log
        self._on_ended = on_ended
        self._buffer = bytearray()
        self._starting: dict[str, asyncio.Future[int]] = {}
        self._running: set[str] = set()

    async def fork(self, id: str, job: Job) -> int:
        """The pid of a new child. Raises PlesioError if the zygote refuses or ends meanwhile."""
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting[id] = started
        self._send(Fork(id, job), list(job.spec.sockets.values()))
        return await started

    def signal(self, id: str, signum: int) -> None:
        """Signal a child; nothing happens if it or the zygote ended."""
        if self.alive:
            self._send(Signal(id, signum), [])

    async def close(self) -> None:
        """End every child and the zygote; returns once they have ended."""
        if self.alive:
            idle = not self._running and not self._starting
            self._lose()  # the zygote reads the end of the stream, then kills and reaps its children
            if idle:
                self._kill()  # it may be importing torch, for nobody
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        self._kill()
        await self._process.wait()

    def listen(self) -> None:
        """Begin to hear notices, on the running loop."""
        asyncio.get_running_loop().add_reader(self._end, self._hear)

    def _send(self, request: Request, descriptors: list[int]) -> None:
        # The socket blocks: the zygote always reads, and starts come one at a time, so it never fills.
        length, body = frame(request)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _hear reads the end next
            socket.send_fds(self._end, [length], descriptors)
            self._end.sendall(body)

    def _hear(self) -> None:
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self._end.recv(65536, socket.MSG_DONTWAIT)
        if not data:
            self._lose()
            return
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._buffer[:LENGTH_BYTES], "little")
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH_BYTES:end])
            del self._buffer[:end]
            self._take(msgspec.msgpack.decode(body, type=Notice))

    def _take(self, notice: Notice) -> None:
        if isinstance(notice, Ended):
            self._running.remove(notice.id)
            self._on_ended(notice.id, notice.code)
            return
        started = self._starting.pop(notice.id)
        if isinstance(notice, Forked):
            self._running.add(notice.id)
            if not started.done():
                started.set_result(notice.pid)
        elif not started.done():
            started.set_exception(PlesioError(f"process {notice.id} could not be forked: {notice.reason}"))

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _lose(self) -> None:
        self.alive = False
        asyncio.get_running_loop().remove_reader(self._end)
        self._end.close()
        for id, started in self._starting.items():
            if not started.done():
                started.set_exception(PlesioError(f"the zygote ended while starting {id}; see {self._log}"))
        for id in self._running:
            self._on_ended(id, -signal.SIGKILL)
        self._starting.clear()
        self._running.clear()


async def open_link(log: Path, on_ended: Callable[[str, int], None]) -> ZygoteLink:
    """A link to a new zygote, which goes on importing torch; `on_ended(id, code)` hears of children."""
    ours, theirs = socket.socketpair()
    try:
        with theirs, log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "plesio.launchers.zygote", str(theirs.fileno()), str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=[theirs.fileno()],
            )  # fmt: skip
    except BaseException:
        ours.close()
        raise
    link = ZygoteLink(process, ours, log, on_ended)
    link.listen()
    return link

"""A TCP relay that knows plesio's frames: it can slow a direction down, and reset a connection inside a frame."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from typing import Literal

import msgspec

from plesio.wire.frames import HEADER

PIECE_BYTES = 8192
CHUNK_BYTES = 16 << 10  # a frame from here on is a chunk of bulk data

Way = Literal["up", "down"]  # towards the synchronizer, or away from it


class Cut(msgspec.Struct):
    """A reset that is asked for, and then what it did."""

    way: str
    share: float  # of a chunk: how much of it still passes
    passed_bytes: int = 0
    of_bytes: int = 0  # the chunk; 0: not done yet
    unix_s: float = 0.0


class Relay:
    """Owns a thread that passes connections on to `to`. Its plain attributes may be read and set from any thread."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.to = to
        self.down_bps = 0.0  # bytes a second; 0: as they come
        self.cut: Cut | None = None
        self.pulled = 0.0  # share that has passed of the newest chunk downwards
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname()[:2])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the relay and all its connections."""
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(5.0)

    def _run(self) -> None:
        self._serving = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serving)
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._connected, sock=self._listener) as server:
            await server.serve_forever()

    async def _connected(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        try:
            far, to_far = await asyncio.open_connection(*self.to)
        except OSError:
            _reset(to_near)
            return
        self.connections += 1
        ways = [self._pass_on(near, to_far, "up"), self._pass_on(far, to_near, "down")]
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            was_cut = any(task.done() and not task.cancelled() and task.result() for task in tasks)
            for writer in (to_near, to_far):
                _reset(writer) if was_cut else writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Way) -> bool:
        """Until the connection ends; True: it is to be reset here."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await source.readexactly(HEADER.size)
                sink.write(head)
                if await self._frame(source, sink, way, sum(HEADER.unpack(head))):
                    return True
        return False

    async def _frame(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Way, of_bytes: int) -> bool:
        passed_bytes = 0
        while passed_bytes < of_bytes:
            if self._is_cut_here(way, passed_bytes, of_bytes):
                return True
            piece = await source.readexactly(min(PIECE_BYTES, of_bytes - passed_bytes))
            sink.write(piece)
            await sink.drain()
            passed_bytes += len(piece)
            if way == "down" and of_bytes >= CHUNK_BYTES:
                self.pulled = passed_bytes / of_bytes
            if way == "down" and self.down_bps:
                await asyncio.sleep(len(piece) / self.down_bps)
        return False

    def _is_cut_here(self, way: Way, passed_bytes: int, of_bytes: int) -> bool:
        """Is this where the reset was asked for? Then it is noted."""
        cut = self.cut
        if cut is None or cut.of_bytes or cut.way != way or of_bytes < CHUNK_BYTES:
            return False
        if not passed_bytes or passed_bytes < cut.share * (of_bytes - PIECE_BYTES):
            return False
        cut.passed_bytes, cut.unix_s, cut.of_bytes = passed_bytes, time.time(), of_bytes
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a RST: what is under way is thrown away."""
    end = writer.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

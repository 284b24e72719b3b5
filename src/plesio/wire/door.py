"""The door of a server that speaks TLS: accepts TCP connections and shakes hands, and tells who comes without TLS.

asyncio's own server accepts TLS too, but nobody would hear of a handshake that failed, nor why.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from typing import Protocol

from plesio.wire import tls

FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FULL_PAUSE_S = 1.0


class Guest(asyncio.BufferedProtocol):
    """A connection that is coming in. `opening` is the task to cancel when it is not wanted any more."""

    peer: str
    opening: asyncio.Task[None] | None


class Host(Protocol):
    """Whose door it is."""

    def accept(self) -> Guest:
        """A new connection; it is not known yet whether over TLS."""
        ...

    def without_tls(self, guest: Guest) -> None:
        """It speaks, and not TLS: it will be connected as it is, to be told."""
        ...

    def not_opened(self, guest: Guest, reason: str) -> None:
        """It ended before it could say anything. reason: '' when it only came and went."""
        ...


class Door:
    """Owns a listening socket, its accepting task and the handshakes under way."""

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext, host: Host, deadline_s: float, close_s: float
    ) -> None:
        self.sockets = (listener,)
        self.context = context
        self.host = host
        self.deadline_s = deadline_s
        self.close_s = close_s
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begins to accept."""
        self.sockets[0].setblocking(False)
        self._spawn(asyncio.create_task(self._accept()))

    def close(self) -> None:
        """Accepts no more; what has come in and is not open yet is dropped."""
        for task in self._tasks:
            task.cancel()
        asyncio.get_running_loop().remove_reader(self.sockets[0])
        self.sockets[0].close()

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self.sockets[0])
            except OSError as error:  # the client has gone again; or there is no descriptor left for it
                await asyncio.sleep(FULL_PAUSE_S if error.errno in FULL else 0.0)
                continue
            self._spawn(asyncio.create_task(self._open(sock, str(address[0]))))

    async def _open(self, sock: socket.socket, peer: str) -> None:
        guest = self.host.accept()
        guest.peer, guest.opening = peer, asyncio.current_task()
        failed: list[ssl.SSLError] = []
        tls.FAILED.set(failed)
        connect = asyncio.get_running_loop().connect_accepted_socket
        try:
            first = await _first_bytes(sock)
            if tls.says_hello(first):
                await connect(
                    lambda: guest, sock, ssl=self.context,
                    ssl_handshake_timeout=self.deadline_s, ssl_shutdown_timeout=self.close_s,
                )  # fmt: skip
            elif first:
                self.host.without_tls(guest)
                await connect(lambda: guest, sock)
            else:
                sock.close()
                self.host.not_opened(guest, "")
        except OSError as error:
            sock.close()
            self.host.not_opened(guest, tls.describe(failed[0] if failed else error))
        except asyncio.CancelledError:
            sock.close()
            raise
        finally:
            guest.opening = None


async def _first_bytes(sock: socket.socket) -> bytes:
    """What it says first, left there to be read; b'' when it ended."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
    with contextlib.suppress(ConnectionError):
        return sock.recv(3, socket.MSG_PEEK)
    return b""

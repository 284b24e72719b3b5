"""Channels: authenticated, framed connections over TCP or TLS, for control and for bulk. It knows no message types.

A BufferedProtocol: payloads are received straight into their own memory, and sent in slices.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import ssl
import sys
import termios
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.errors import TlsRefused, WireError
from plesio.wire.door import Guest
from plesio.wire.frames import BEFORE_AUTH, Inbox, Limits, header
from plesio.wire.greeting import (
    AUTH_DEADLINE_S,
    CONNECT_S,
    PROTOCOL_VERSION,
    Answer,
    Greeting,
    refusal,
    set_options,
)
from plesio.wire.tls import Tls, explain

SLICE_BYTES = 1 << 20
WAITING_BYTES = 64 << 10  # outside the kernel, while a bulk frame waits for room in it
QUEUE_BYTES = 64 << 20
READ_BYTES = 1 << 24  # at once: OpenSSL counts in a C int
DREGS_BYTES = 1 << 16
CLOSE_S = 2.0

Buffer = bytes | bytearray | memoryview
OnMessage = Callable[["Channel", bytes, "memoryview | None"], None]
OnClose = Callable[["Channel", "Exception | None"], None]


class Channel(Guest):
    """One connection. Owned by its event loop, which calls `on_message` per frame and `on_close` once.

    A WireError that `on_message` raises drops the connection, unless `on_nonsense` does something better.
    `bytes_sent` and `bytes_received` count every byte given to and taken from the transport, headers and greetings
    too; over TLS, what it adds (22 bytes in 16 KiB) is not seen here.
    """

    def __init__(self, on_message: OnMessage, on_close: OnClose, limits: Limits | None = None) -> None:
        self.on_message = on_message
        self.on_close = on_close
        self.on_nonsense: Callable[[Channel, WireError], None] | None = None
        self.after_read: Callable[[], None] | None = None  # called when all frames that came together were told
        self.opening = None
        self.version = PROTOCOL_VERSION  # that both sides speak
        self.role = ""
        self.kind = ""
        self.peer = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        self._inbox = Inbox(limits or Limits())
        self._transport: asyncio.Transport | None = None
        self._direct_fd = -1  # that bulk data is written to; -1: by the transport only
        self._drained = asyncio.Event()
        self._drained.set()
        self._bulk_lock = asyncio.Lock()
        self._in_bulk = False
        self._waiting: deque[Buffer] = deque()
        self._waiting_bytes = 0
        self._closed = asyncio.Event()
        self._error: Exception | None = None
        self._aborted = False

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            set_options(sock)
            if transport.get_extra_info("sslcontext") is None and hasattr(os, "writev"):
                self._direct_fd = sock.fileno()
        name = transport.get_extra_info("peername")
        self.peer = str(name[0] if name else "this machine")  # without the port: the same peer is told the same
        # so that at most one slice waits outside the kernel (two over TLS, whose limit is where it stops, not begins)
        transport.set_write_buffer_limits(high=0 if transport.get_extra_info("sslcontext") is None else 1, low=0)
        if self._aborted:
            transport.abort()

    def get_buffer(self, sizehint: int) -> Any:
        if not self._is_open():
            return bytearray(
                DREGS_BYTES
            )  # TLS reads on while it closes; what a payload's memory holds is not ours any more
        return self._inbox.space()[:READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_received += nbytes
        if not self._is_open():
            return
        self._inbox.received(nbytes)
        try:
            for body, payload in self._inbox.frames():
                self.on_message(self, body, payload)
                if not self._is_open():
                    break
        except WireError as error:
            self._error = error
            if self.on_nonsense is not None:
                self.on_nonsense(self, error)
            else:
                self.abort()
        if self.after_read is not None:
            self.after_read()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._drained.set()
        if self._inbox.unfinished and not self._aborted and self._error is None:
            self._error = WireError("the connection broke within a frame")
        if not self._closed.is_set():
            self._closed.set()
            self.on_close(self, self._error or exc)

    # -- the user's side

    def send(self, body: bytes, payload: Buffer | None = None) -> None:
        """Queues a frame, behind the bulk frame under way. Raises WireError when the channel is closed.

        When more than QUEUE_BYTES wait, the peer does not read: the connection is dropped, with WireError.
        """
        assert self._transport is not None
        view = memoryview(b"" if payload is None else payload).cast("B")
        head = header(len(body), len(view)) + body
        frame: list[Buffer] = [head, view] if view else [head]
        if self._in_bulk and self._is_open():
            self._waiting.extend(frame)
            self._waiting_bytes += sum(map(len, frame))
        else:
            for part in frame:
                self._write(part)
        if self._transport.get_write_buffer_size() + self._waiting_bytes > QUEUE_BYTES:
            self.abort()
            raise WireError(f"{self.peer} does not read what it is sent; the connection is dropped")

    def send_many(self, bodies: list[bytes]) -> None:
        """Queues frames without payloads, at once; otherwise as `send`."""
        if len(bodies) == 1 or self._in_bulk:
            for body in bodies:
                self.send(body)
            return
        assert self._transport is not None
        self._write(b"".join([part for body in bodies for part in (header(len(body), 0), body)]))
        if self._transport.get_write_buffer_size() > QUEUE_BYTES:
            self.abort()
            raise WireError(f"{self.peer} does not read what it is sent; the connection is dropped")

    def undelivered_bytes(self) -> int:
        """What the peer's machine has not yet taken of what was sent, where the system tells; else what waits here."""
        if self._transport is None or not self._is_open():
            return 0
        waiting, sock = self.unsent_bytes, self._transport.get_extra_info("socket")
        try:
            queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError, AttributeError):  # not this system, or not this socket
            return waiting
        return waiting + int.from_bytes(queued, sys.byteorder)

    async def send_bulk(self, body: bytes, payload: Buffer) -> None:
        """Sends a frame with a payload; returns when the kernel (or TLS) has copied it all: the payload may change.

        Frames never mix. Raises WireError when the channel is closed. A cancellation within the frame closes
        the channel, because the peer could not tell where the next frame begins.
        """
        view = memoryview(payload).cast("B")
        async with self._bulk_lock:
            await asyncio.sleep(0)  # a fast reader must not starve our loop
            self._in_bulk = True
            complete = False
            try:
                at = self._write_now(header(len(body), len(view)) + body, view)
                while at < len(view):
                    await asyncio.sleep(0)
                    await self._drained.wait()
                    at += self._write_now(b"", view[at : at + SLICE_BYTES])
                complete = True
            finally:
                self._end_bulk(complete)
            await self._drained.wait()
            self._check_open()

    def _write_now(self, head: bytes, view: memoryview) -> int:
        """Writes all of the head, and of the view what the kernel has room for and a little more; how much that was.

        The transport would copy what the kernel has no room for, before it tries again. It still waits, with the
        little that there is more, until there is room.
        """
        self._check_open()
        assert self._transport is not None
        written = 0
        if self._direct_fd >= 0 and not self._transport.get_write_buffer_size():
            try:
                written = os.writev(self._direct_fd, [head, view])
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.abort()
                raise WireError(f"the connection to {self.peer} is closed") from error
            self.bytes_sent += written
            if written == len(head) + len(view):
                return len(view)
        if written < len(head):
            self._write(head[written:])
        at = max(0, written - len(head))
        rest = view[at : at + (WAITING_BYTES if self._direct_fd >= 0 else SLICE_BYTES)]
        if rest:
            self._write(rest)
        return at + len(rest)

    def _end_bulk(self, complete: bool) -> None:
        self._in_bulk = False
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        if not complete:
            self.close()
            return
        for part in waiting:
            self._write(part)

    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _check_open(self) -> None:
        if not self._is_open():
            raise WireError(f"the connection to {self.peer} is closed")

    def _write(self, data: Buffer) -> None:
        self._check_open()
        assert self._transport is not None
        self.bytes_sent += len(data)
        self._transport.write(data)

    @property
    def unsent_bytes(self) -> int:
        """What was given to us and waits here for the peer to read; the kernel's buffers hold more."""
        return self._waiting_bytes + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def receive_into(self, place: Callable[[bytes, int], memoryview | None]) -> None:
        """Who says where payloads belong; see Inbox."""
        self._inbox.place = place

    def accept_frames(self, limits: Limits) -> None:
        """From the next frame on, these limits hold."""
        self._inbox.limits = limits

    def close(self) -> None:
        """Sends what the transport has, then closes; a bulk frame under way is cut."""
        if self._transport is not None and not self._transport.is_closing():  # a TLS transport breaks when closed twice
            self._transport.close()

    def abort(self) -> None:
        """Closes at once, or as soon as the connection is made."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    async def wait_closed(self) -> None:
        """Returns when the connection is gone, after `on_close`."""
        await self._closed.wait()


async def connect(
    host: str,
    port: int,
    token: str,
    role: str,
    kind: str,
    on_message: OnMessage,
    on_close: OnClose,
    tls: Tls | None = None,
) -> Channel:
    """Connects and authenticates; kind is one of KINDS. `on_close` is for channels that got through.

    Raises OSError; TokenRefused; TlsRefused when one side does not trust the other's certificate, or only one of them
    speaks TLS; WireError for another protocol version or a peer that is not plesio.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def first(channel: Channel, body: bytes, payload: memoryview | None) -> None:
        try:
            answer = msgspec.msgpack.decode(body, type=Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("it does not answer as plesio does; check the address") from error
        if answer.ok:
            channel.version = answer.v
            channel.on_message, channel.on_close = on_message, on_close
            channel.accept_frames(Limits())
        if not answered.done():
            answered.set_result(answer)

    def lost(channel: Channel, error: Exception | None) -> None:
        if answered.done():
            return
        if isinstance(error, ssl.SSLError):
            answered.set_exception(explain(f"{host}:{port}", error))
        else:
            reason = error or "no reason given"
            answered.set_exception(WireError(f"{host}:{port} closed the connection: {reason}"))

    channel = await _open(host, port, lambda: Channel(first, lost, BEFORE_AUTH), tls)
    channel.role, channel.kind = role, kind
    try:
        channel.send(msgspec.msgpack.encode(Greeting(PROTOCOL_VERSION, token, role, kind)))
        answer = await asyncio.wait_for(answered, AUTH_DEADLINE_S)
    except TimeoutError as error:
        channel.abort()
        raise WireError(f"{host}:{port} did not answer within {AUTH_DEADLINE_S:g} s") from error
    except BaseException:
        channel.abort()
        raise
    if not answer.ok:
        channel.abort()
        raise refusal(answer, f"{host}:{port}")
    return channel


async def _open(host: str, port: int, make: Callable[[], Channel], tls: Tls | None) -> Channel:
    """The connection, over TLS when there is one; not authenticated yet."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_S):
        if tls is None:
            _, channel = await loop.create_connection(make, host, port)
            return channel
        try:
            transport, channel = await loop.create_connection(
                make, host, port, ssl=tls.client, ssl_handshake_timeout=CONNECT_S, ssl_shutdown_timeout=CLOSE_S
            )
            tls.verify(transport.get_extra_info("ssl_object"))
        except ssl.SSLError as error:
            raise explain(f"{host}:{port}", error) from error
        except TlsRefused as error:
            channel.abort()
            raise TlsRefused(f"{host}:{port}: {error}") from error
        return channel

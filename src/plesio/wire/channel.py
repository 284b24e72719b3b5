"""Channels: authenticated, framed TCP connections, for control and for bulk. It knows no message types.

A BufferedProtocol: payloads are received straight into their own memory, and sent in slices with flow control.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.errors import PortInUse, TokenRefused, WireError
from plesio.wire.frames import BEFORE_AUTH, HEADER, Limits, header, lengths

PROTOCOL_VERSION = 1
INBOX_BYTES = 256 << 10
SLICE_BYTES = 1 << 20
QUEUE_BYTES = 64 << 20
AUTH_DEADLINE_S = 5.0

OnMessage = Callable[["Channel", bytes, "memoryview | None"], None]
OnClose = Callable[["Channel", "Exception | None"], None]


class Greeting(msgspec.Struct, frozen=True):
    """The first frame of the connecting side."""

    v: int
    token: str
    role: str
    kind: str


class Answer(msgspec.Struct, frozen=True):
    """The first frame of the serving side."""

    ok: bool
    error: str = ""


class Channel(asyncio.BufferedProtocol):
    """One connection. Owned by its event loop; its callbacks run on it, one frame at a time."""

    def __init__(self, on_message: OnMessage, on_close: OnClose, limits: Limits | None = None) -> None:
        self.on_message = on_message
        self.on_close = on_close
        self.limits = limits or Limits()
        self.role = ""
        self.kind = ""
        self.peer = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        self._transport: asyncio.Transport | None = None
        self._inbox = bytearray(INBOX_BYTES)
        self._start = self._end = 0
        self._body = b""
        self._payload: memoryview | None = None
        self._filled = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._bulk_lock = asyncio.Lock()
        self._in_bulk = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._closed = asyncio.Event()
        self._error: Exception | None = None

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = str(transport.get_extra_info("peername"))
        transport.set_write_buffer_limits(high=4 * SLICE_BYTES)

    def get_buffer(self, sizehint: int) -> Any:
        if self._payload is not None:
            return self._payload[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._inbox):
            self._make_room()
        return memoryview(self._inbox)[self._end :]

    def _make_room(self) -> None:
        rest = self._inbox[self._start : self._end]
        size = len(self._inbox)
        if len(rest) == size:
            size *= 2  # a body longer than the inbox; bounded by limits.body_bytes
        self._inbox = bytearray(size)
        self._inbox[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_received += nbytes
        try:
            if self._payload is not None:
                self._filled += nbytes
                if self._filled == len(self._payload):
                    self._deliver()
            else:
                self._end += nbytes
            while self._payload is None and self._next_frame():
                pass
        except WireError as error:
            self._error = error
            self.abort()

    def _next_frame(self) -> bool:
        """Takes one frame's body, and what has come of its payload, out of the inbox; False: not complete."""
        have = self._end - self._start
        if have < HEADER.size or self._transport is None or self._transport.is_closing():
            return False
        body, payload = lengths(self._inbox, self._start, self.limits)
        if have < HEADER.size + body:
            if self._start + HEADER.size + body > len(self._inbox):
                self._make_room()
            return False
        at = self._start + HEADER.size
        self._body = bytes(memoryview(self._inbox)[at : at + body])
        self._start = at + body
        if not payload:
            self._dispatch(None)
            return True
        self._payload = memoryview(bytearray(payload))
        self._filled = min(payload, self._end - self._start)
        self._payload[: self._filled] = memoryview(self._inbox)[self._start : self._start + self._filled]
        self._start += self._filled
        if self._filled == payload:
            self._deliver()
            return True
        return False

    def _deliver(self) -> None:
        payload, self._payload, self._filled = self._payload, None, 0
        self._dispatch(payload)

    def _dispatch(self, payload: memoryview | None) -> None:
        self.on_message(self, self._body, payload)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if not self._closed.is_set():
            self._closed.set()
            self.on_close(self, self._error or exc)

    # -- the user's side

    def send(self, body: bytes) -> None:
        """Queues a control frame. Raises WireError when closed, or when more than QUEUE_BYTES wait."""
        frame = header(len(body), 0) + body
        if self._in_bulk:
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
        else:
            self._write(frame)
        queued = self._transport.get_write_buffer_size() if self._transport else 0
        if queued + self._waiting_bytes > QUEUE_BYTES:
            self.abort()
            raise WireError(f"{self.peer} does not read what it is sent; the connection is dropped")

    async def send_bulk(self, body: bytes, payload: bytes | memoryview) -> None:
        """Sends a frame with a payload; returns when it is handed to the kernel. Frames never mix."""
        async with self._bulk_lock:
            self._in_bulk = True
            try:
                self._write(header(len(body), len(payload)) + body)
                view = memoryview(payload)
                for at in range(0, len(view), SLICE_BYTES):
                    await self._writable.wait()
                    self._write(view[at : at + SLICE_BYTES])
            finally:
                self._in_bulk = False
                while self._waiting:
                    frame = self._waiting.popleft()
                    with contextlib.suppress(WireError):
                        self._write(frame)
                self._waiting_bytes = 0
            await self._writable.wait()

    def _write(self, data: bytes | memoryview) -> None:
        if self._transport is None or self._closed.is_set() or self._transport.is_closing():
            raise WireError("the connection is closed")
        self.bytes_sent += len(data)
        self._transport.write(data)

    def close(self) -> None:
        """Sends what is queued, then closes."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Returns when the connection is gone."""
        await self._closed.wait()


async def connect(
    host: str, port: int, token: str, role: str, kind: str, on_message: OnMessage, on_close: OnClose
) -> Channel:
    """Connects and authenticates. Raises OSError, TokenRefused, or WireError for another protocol version."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def first(channel: Channel, body: bytes, payload: memoryview | None) -> None:
        answer = msgspec.msgpack.decode(body, type=Answer)
        channel.on_message = on_message
        if not answered.done():
            answered.set_result(answer)

    def lost(channel: Channel, error: Exception | None) -> None:
        if not answered.done():
            answered.set_exception(WireError(f"{host}:{port} closed the connection: {error or 'no reason given'}"))
        elif not answered.cancelled() and answered.exception() is None and answered.result().ok:
            on_close(channel, error)

    _, channel = await loop.create_connection(lambda: Channel(first, lost), host, port)
    channel.role, channel.kind = role, kind
    channel.send(msgspec.msgpack.encode(Greeting(PROTOCOL_VERSION, token, role, kind)))
    try:
        answer = await asyncio.wait_for(answered, AUTH_DEADLINE_S)
    except BaseException:
        channel.abort()
        raise
    if not answer.ok:
        channel.abort()
        raise TokenRefused(answer.error) if "token" in answer.error else WireError(answer.error)
    return channel


class Server:
    """Accepts channels. Owned by its loop."""

    def __init__(
        self,
        token: str,
        on_channel: Callable[[Channel], None],
        on_message: OnMessage,
        on_close: OnClose,
        on_refused: Callable[[str, str], None],
        max_connections: int,
    ) -> None:
        self.token = token
        self.on_channel = on_channel
        self.on_message = on_message
        self.on_close = on_close
        self.on_refused = on_refused
        self.max_connections = max_connections
        self.strangers: dict[Channel, asyncio.TimerHandle] = {}
        self.channels: set[Channel] = set()
        self.listener: asyncio.Server | None = None

    def accept(self) -> Channel:
        """A new connection, which must authenticate first."""
        channel = Channel(self._greeted, self._lost, BEFORE_AUTH)
        timer = asyncio.get_running_loop().call_later(AUTH_DEADLINE_S, self._too_late, channel)
        self.strangers[channel] = timer
        if len(self.strangers) > self.max_connections:
            oldest = next(iter(self.strangers))
            oldest.abort()
        return channel

    def _too_late(self, channel: Channel) -> None:
        if channel in self.strangers:
            channel.abort()

    def _greeted(self, channel: Channel, body: bytes, payload: memoryview | None) -> None:
        try:
            greeting = msgspec.msgpack.decode(body, type=Greeting)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._refuse(channel, "the first frame is not a greeting")
            return
        if greeting.v != PROTOCOL_VERSION:
            self._refuse(
                channel, f"protocol version {greeting.v} is not {PROTOCOL_VERSION}; install the same plesio everywhere"
            )
            return
        if not hmac.compare_digest(greeting.token.encode(), self.token.encode()):
            self._refuse(channel, "the token does not match the coordinator's; pass the token that it was started with")
            return
        self._known(channel)
        channel.limits = Limits()
        channel.role, channel.kind = greeting.role, greeting.kind
        channel.on_message, channel.on_close = self.on_message, self._closed
        self.channels.add(channel)
        channel.send(msgspec.msgpack.encode(Answer(True)))
        self.on_channel(channel)

    def _refuse(self, channel: Channel, reason: str) -> None:
        self._known(channel)
        self.on_refused(channel.peer, reason)
        channel.send(msgspec.msgpack.encode(Answer(False, reason)))
        channel.close()

    def _known(self, channel: Channel) -> None:
        timer = self.strangers.pop(channel, None)
        if timer is not None:
            timer.cancel()

    def _lost(self, channel: Channel, error: Exception | None) -> None:
        if channel in self.strangers:
            self._known(channel)
            if isinstance(error, WireError):
                self.on_refused(channel.peer, str(error))

    def _closed(self, channel: Channel, error: Exception | None) -> None:
        self.channels.discard(channel)
        if isinstance(error, WireError):
            self.on_refused(channel.peer, str(error))
        self.on_close(channel, error)

    async def close(self) -> None:
        """Sends what is queued (for a moment), and closes all connections."""
        if self.listener is not None:
            self.listener.close()
        channels = [*self.channels, *self.strangers]
        for channel in channels:
            channel.close()
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(c.wait_closed() for c in channels)), 2.0)
        for channel in channels:
            channel.abort()


async def serve(
    where: socket.socket | tuple[str, int],
    *,
    token: str,
    on_channel: Callable[[Channel], None],
    on_message: OnMessage,
    on_close: OnClose,
    on_refused: Callable[[str, str], None] = lambda peer, reason: None,
    max_connections: int = 1024,
) -> Server:
    """Serves on a bound socket, or on (host, port). Raises PortInUse naming it when it is taken."""
    server = Server(token, on_channel, on_message, on_close, on_refused, max_connections)
    loop = asyncio.get_running_loop()
    try:
        if isinstance(where, tuple):
            server.listener = await loop.create_server(server.accept, *where)
        else:
            server.listener = await loop.create_server(server.accept, sock=where)
    except OSError as error:
        raise PortInUse(
            f"cannot listen on {where}: {os.strerror(error.errno or 0)}; choose another --listen"
        ) from error
    return server

"""Channels: authenticated, framed TCP connections, for control and for bulk. It knows no message types.

A BufferedProtocol: payloads are received straight into their own memory, and sent in slices.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.errors import PortInUse, TokenRefused, UserError, WireError
from plesio.wire.frames import BEFORE_AUTH, Inbox, Limits, header

PROTOCOL_VERSION = 1
KINDS = ("control", "bulk", "beat")
SLICE_BYTES = 1 << 20
QUEUE_BYTES = 64 << 20
AUTH_DEADLINE_S = 5.0
MAX_SILENT = 256  # connections that have said nothing: far fewer than a process may open files
CLOSE_S = 2.0
CONNECT_S = 5.0
DEAD_S = 15.0

Buffer = bytes | bytearray | memoryview
OnMessage = Callable[["Channel", bytes, "memoryview | None"], None]
OnClose = Callable[["Channel", "Exception | None"], None]


class Greeting(msgspec.Struct, frozen=True):
    """The first frame of the connecting side."""

    v: int
    token: str
    role: str
    kind: str


class GreetingVersion(msgspec.Struct, frozen=True):
    """What a greeting of every protocol version has."""

    v: int


def read_greeting(body: bytes) -> Greeting:
    """Raises WireError, with what to tell the peer."""
    try:
        version = msgspec.msgpack.decode(body, type=GreetingVersion).v
        if version != PROTOCOL_VERSION:
            reason = f"protocol version {version} is not {PROTOCOL_VERSION}"
            raise WireError(f"{reason}; install the same plesio everywhere")
        return msgspec.msgpack.decode(body, type=Greeting)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("the first frame is not a greeting") from error


class Answer(msgspec.Struct, frozen=True):
    """The first frame of the serving side."""

    ok: bool
    error: str = ""
    wrong_token: bool = False


class Channel(asyncio.BufferedProtocol):
    """One connection. Owned by its event loop, which calls `on_message` per frame and `on_close` once.

    A WireError that `on_message` raises drops the connection. `bytes_sent` and `bytes_received` count every
    byte given to and taken from the transport, headers and greetings too.
    """

    def __init__(self, on_message: OnMessage, on_close: OnClose, limits: Limits | None = None) -> None:
        self.on_message = on_message
        self.on_close = on_close
        self.role = ""
        self.kind = ""
        self.peer = ""
        self.bytes_sent = 0
        self.bytes_received = 0
        self._inbox = Inbox(limits or Limits())
        self._transport: asyncio.Transport | None = None
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
            _set_options(sock)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0] if name else "somebody")  # without the port: the same peer is told the same
        transport.set_write_buffer_limits(high=0)  # so that at most one slice waits outside the kernel
        if self._aborted:
            transport.abort()

    def get_buffer(self, sizehint: int) -> Any:
        return self._inbox.space()

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_received += nbytes
        self._inbox.received(nbytes)
        try:
            for body, payload in self._inbox.frames():
                self.on_message(self, body, payload)
                if not self._is_open():
                    return
        except WireError as error:
            self._error = error
            self.abort()

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

    async def send_bulk(self, body: bytes, payload: Buffer) -> None:
        """Sends a frame with a payload; returns when the kernel has it all, so that the payload may change.

        Frames never mix. Raises WireError when the channel is closed. A cancellation within the frame closes
        the channel, because the peer could not tell where the next frame begins.
        """
        view = memoryview(payload).cast("B")
        async with self._bulk_lock:
            self._in_bulk = True
            complete = False
            try:
                self._write(header(len(body), len(view)) + body)
                for at in range(0, len(view), SLICE_BYTES):
                    await asyncio.sleep(0)  # a fast reader must not starve our loop
                    await self._drained.wait()
                    self._write(view[at : at + SLICE_BYTES])
                complete = True
            finally:
                self._end_bulk(complete)
            await self._drained.wait()
            self._check_open()

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

    def accept_frames(self, limits: Limits) -> None:
        """From the next frame on, these limits hold."""
        self._inbox.limits = limits

    def close(self) -> None:
        """Sends what the transport has, then closes; a bulk frame under way is cut."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once, or as soon as the connection is made."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Returns when the connection is gone, after `on_close`."""
        await self._closed.wait()


async def connect(
    host: str, port: int, token: str, role: str, kind: str, on_message: OnMessage, on_close: OnClose
) -> Channel:
    """Connects and authenticates; kind is one of KINDS. `on_close` is for channels that got through.

    Raises OSError; TokenRefused; WireError for another protocol version or a peer that is not plesio.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def first(channel: Channel, body: bytes, payload: memoryview | None) -> None:
        try:
            answer = msgspec.msgpack.decode(body, type=Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("it does not answer as plesio does; check the address") from error
        if answer.ok:
            channel.on_message, channel.on_close = on_message, on_close
            channel.accept_frames(Limits())
        if not answered.done():
            answered.set_result(answer)

    def lost(channel: Channel, error: Exception | None) -> None:
        if not answered.done():
            reason = error or "no reason given"
            answered.set_exception(WireError(f"{host}:{port} closed the connection: {reason}"))

    async with asyncio.timeout(CONNECT_S):
        _, channel = await loop.create_connection(lambda: Channel(first, lost, BEFORE_AUTH), host, port)
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
        raise TokenRefused(answer.error) if answer.wrong_token else WireError(answer.error)
    return channel


def _set_options(sock: Any) -> None:
    """No delay; and a peer that a cut cable took away is noticed within DEAD_S, also when nothing is being sent."""
    options = {"TCP_NODELAY": 1, "TCP_USER_TIMEOUT": int(1000 * DEAD_S)}
    options |= {"TCP_KEEPIDLE": int(DEAD_S / 3), "TCP_KEEPINTVL": int(DEAD_S / 3), "TCP_KEEPCNT": 2}
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Server:
    """Accepts channels, and holds those that have yet to authenticate. Owned by its loop; see `serve`."""

    def __init__(
        self,
        token: str,
        on_channel: Callable[[Channel], None],
        on_message: OnMessage,
        on_close: OnClose,
        on_refused: Callable[[str, str], None],
        max_connections: int,
        auth_deadline_s: float,
    ) -> None:
        self.token = token
        self.on_channel = on_channel
        self.on_message = on_message
        self.on_close = on_close
        self.on_refused = on_refused
        self.max_connections = max_connections
        self.auth_deadline_s = auth_deadline_s
        self.strangers: dict[Channel, asyncio.TimerHandle] = {}  # oldest first
        self.channels: set[Channel] = set()
        self.silent: dict[Channel, None] = {}  # those of them that have said nothing yet; oldest first
        self.listener: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) that it listens on."""
        assert self.listener is not None
        host, port = self.listener.sockets[0].getsockname()[:2]
        return host, port

    def accept(self) -> Channel:
        """A new connection, which must authenticate first."""
        if len(self.strangers) + len(self.silent) >= self.max_connections:
            oldest = next(iter(self.strangers or self.silent))
            self._drop(oldest, "the oldest of too many connections that say nothing")
        channel = Channel(self._greeted, self._lost, BEFORE_AUTH)
        reason = f"did not authenticate within {self.auth_deadline_s:g} s"
        loop = asyncio.get_running_loop()
        self.strangers[channel] = loop.call_later(self.auth_deadline_s, self._drop, channel, reason)
        return channel

    def _drop(self, channel: Channel, reason: str) -> None:
        self._known(channel)
        self.silent.pop(channel, None)
        self.on_refused(channel.peer, reason)
        channel.abort()

    def _greeted(self, channel: Channel, body: bytes, payload: memoryview | None) -> None:
        try:
            greeting = read_greeting(body)
        except WireError as error:
            self._refuse(channel, str(error))
            return
        if not hmac.compare_digest(greeting.token.encode(), self.token.encode()):
            reason = "the token does not match the coordinator's; pass the token that it was started with"
            self._refuse(channel, reason, wrong_token=True)
            return
        if greeting.kind not in KINDS:
            self._refuse(channel, f"a channel's kind is one of {KINDS}")
            return
        self._welcome(channel, greeting)

    def _welcome(self, channel: Channel, greeting: Greeting) -> None:
        self._known(channel)
        channel.accept_frames(Limits())
        channel.role, channel.kind = greeting.role, greeting.kind
        channel.on_message, channel.on_close = self._first, self._closed
        self.channels.add(channel)
        self.silent[channel] = None
        channel.send(msgspec.msgpack.encode(Answer(True)))
        self.on_channel(channel)

    def _first(self, channel: Channel, body: bytes, payload: memoryview | None) -> None:
        self.silent.pop(channel, None)
        channel.on_message = self.on_message
        self.on_message(channel, body, payload)

    def _refuse(self, channel: Channel, reason: str, wrong_token: bool = False) -> None:
        self._known(channel)
        self.on_refused(channel.peer, reason)
        channel.send(msgspec.msgpack.encode(Answer(False, reason, wrong_token)))
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
        self.silent.pop(channel, None)
        if isinstance(error, WireError):
            self.on_refused(f"{channel.role} {channel.peer}", str(error))
        self.on_close(channel, error)

    async def close(self) -> None:
        """Sends what is queued (for CLOSE_S at most), and closes all connections."""
        if self.listener is not None:
            self.listener.close()
        for stranger in list(self.strangers):
            self._known(stranger)
            stranger.abort()
        channels = list(self.channels)
        for channel in channels:
            channel.close()
        if channels:
            ends = [asyncio.ensure_future(c.wait_closed()) for c in channels]
            _, stuck = await asyncio.wait(ends, timeout=CLOSE_S)
            for channel in channels:
                channel.abort()
            if stuck:
                await asyncio.wait(stuck, timeout=CLOSE_S)


async def serve(
    where: socket.socket | tuple[str, int],
    *,
    token: str,
    on_channel: Callable[[Channel], None],
    on_message: OnMessage,
    on_close: OnClose,
    on_refused: Callable[[str, str], None] = lambda peer, reason: None,
    max_connections: int = MAX_SILENT,
    auth_deadline_s: float = AUTH_DEADLINE_S,
) -> Server:
    """Serves on a bound socket, or on (host, port); port 0 is any, see `Server.address`.

    `on_refused(peer, reason)` never holds the token. Raises PortInUse when the port is taken, else UserError.
    """
    server = Server(token, on_channel, on_message, on_close, on_refused, max_connections, auth_deadline_s)
    loop = asyncio.get_running_loop()
    if isinstance(where, socket.socket):
        server.listener = await loop.create_server(server.accept, sock=where)
        return server
    host, port = where
    try:
        server.listener = await loop.create_server(server.accept, host, port)
    except OSError as error:
        advice = "choose another with --listen HOST:PORT"
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{host}:{port} is already in use; {advice}") from error
        raise UserError(f"cannot listen on {host}:{port}: {error}; {advice}") from error
    return server

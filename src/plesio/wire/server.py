"""The serving side: accepts channels over TCP or TLS, and holds those that have yet to authenticate."""

from __future__ import annotations

import asyncio
import errno
import hmac
import socket
from collections.abc import Callable

import msgspec

from plesio.errors import PortInUse, ProtocolRefused, UserError, WireError
from plesio.wire.channel import CLOSE_S, Channel, OnClose, OnMessage
from plesio.wire.door import Door, Guest
from plesio.wire.frames import BEFORE_AUTH, Limits
from plesio.wire.greeting import AUTH_DEADLINE_S, KINDS, Answer, Greeting, agree, read_greeting
from plesio.wire.tls import Tls

MAX_SILENT = 256  # connections that have said nothing: far fewer than a process may open files


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
        self.listener: asyncio.Server | Door | None = None
        self.local: asyncio.Server | None = None

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
        channel.on_nonsense = self._nonsense
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
        except ProtocolRefused as error:
            self._refuse(channel, str(error), wrong_version=True)
            return
        except WireError as error:
            self._refuse(channel, str(error))
            return
        channel.version = agree(greeting.v, greeting.oldest)
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
        channel.on_message, channel.on_close, channel.on_nonsense = self._first, self._closed, None
        self.channels.add(channel)
        self.silent[channel] = None
        channel.send(msgspec.msgpack.encode(Answer(True, v=channel.version)))
        self.on_channel(channel)

    def _first(self, channel: Channel, body: bytes, payload: memoryview | None) -> None:
        self.silent.pop(channel, None)
        channel.on_message = self.on_message
        self.on_message(channel, body, payload)

    def _refuse(self, channel: Channel, reason: str, **why: bool) -> None:
        """why: a flag of Answer."""
        self._known(channel)
        self.on_refused(channel.peer, reason)
        channel.send(msgspec.msgpack.encode(Answer(False, reason, **why)))
        channel.close()

    def _nonsense(self, channel: Channel, error: WireError) -> None:
        """A stranger's bytes are no frame: it is told in ours, which tells a TLS client that we speak no TLS."""
        self._refuse(channel, str(error))

    # -- what the door of TLS asks

    def without_tls(self, guest: Guest) -> None:
        """See Host."""
        assert isinstance(guest, Channel)
        guest.on_message = lambda channel, body, payload: self._refuse(
            channel, "this run speaks TLS; pass --tls CERT,KEY,CA here too", wants_tls=True
        )

    def not_opened(self, guest: Guest, reason: str) -> None:
        """See Host."""
        assert isinstance(guest, Channel)
        if guest in self.strangers:
            self._known(guest)
            if reason:
                self.on_refused(guest.peer, reason)

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

    async def listen_also(self, listener: socket.socket) -> None:
        """On a Unix socket, too: of this machine and this user, so without TLS."""
        loop = asyncio.get_running_loop()
        self.local = await loop.create_unix_server(self.accept, sock=listener)

    async def close(self) -> None:
        """Sends what is queued (for CLOSE_S at most), and closes all connections."""
        for listening in (self.listener, self.local):
            if listening is not None:
                listening.close()
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
    tls: Tls | None = None,
) -> Server:
    """Serves on a bound socket, or on (host, port); port 0 is any, see `Server.address`.

    tls: whose `server` side every connection must speak. `on_refused(peer, reason)` never holds the token.
    Raises PortInUse when the port is taken, else UserError.
    """
    server = Server(token, on_channel, on_message, on_close, on_refused, max_connections, auth_deadline_s)
    loop = asyncio.get_running_loop()
    if isinstance(where, socket.socket):
        server.listener = _door(where, server, tls) or await loop.create_server(server.accept, sock=where)
        return server
    host, port = where
    try:
        if tls is not None:
            where = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
            server.listener = _door(where, server, tls)
        else:
            server.listener = await loop.create_server(server.accept, host, port)
    except OSError as error:
        advice = "choose another with --listen HOST:PORT"
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{host}:{port} is already in use; {advice}") from error
        raise UserError(f"cannot listen on {host}:{port}: {error}; {advice}") from error
    return server


def _door(listener: socket.socket, server: Server, tls: Tls | None) -> Door | None:
    """An open one; None without TLS."""
    if tls is None:
        return None
    assert tls.server is not None, "whoever serves says so to `tls.load`"
    door = Door(listener, tls.server, server, server.auth_deadline_s, CLOSE_S)
    door.open()
    return door

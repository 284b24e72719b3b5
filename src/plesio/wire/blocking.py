"""A channel for programs without an event loop: the same frames over a blocking socket, TCP or TLS.

One thread may receive while others send; with TLS one of them at a time reads or writes, as OpenSSL wants it. It knows no
message types, and no payloads.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

import msgspec

from plesio.errors import PlesioError, WireError
from plesio.wire.frames import BEFORE_AUTH, HEADER, Limits, lengths
from plesio.wire.greeting import AUTH_DEADLINE_S, CONNECT_S, PROTOCOL_VERSION, Answer, Greeting, refusal, set_options
from plesio.wire.looking import Looker

if TYPE_CHECKING:
    from plesio.wire.tls import Tls

READ_BYTES = 256 << 10
SEND_S = 60.0  # a peer that reads nothing for so long is dropped
PATIENCE_S = 0.25
LOOK_S, SHORT_BYTES = 0.0006, 512  # before it sleeps, after so little; on one machine
_TIME = struct.Struct("ll")  # a timeval
LIMITS = Limits(256 << 20, 0)


class BlockingChannel:
    """One authenticated connection; see `connect`. Any error closes it."""

    def __init__(self, sock: socket.socket, limits: Limits = BEFORE_AUTH) -> None:
        self.sock = sock
        self.limits = limits
        self.patient = False  # does the system itself end a `recv` after PATIENCE_S?
        self._talks = False  # did something short come last time? Then the next answer may be near
        self._looker = Looker()
        self._buffer = bytearray()
        self._sending = threading.Lock()
        self._secured = hasattr(sock, "pending")
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    @property
    def closed(self) -> bool:
        """Has it been closed here, by whomever?"""
        return self.sock.fileno() < 0

    def send(self, body: bytes) -> None:
        """Sends one frame, whole. Raises WireError when the connection is gone."""
        data = HEADER.pack(len(body), 0) + body
        with self._sending:
            try:
                self.sock.sendall(data)
            except (OSError, ValueError) as error:
                self.close()
                raise WireError(f"the connection broke: {error}") from error

    def ready(self, timeout_s: float | None) -> bool:
        """Waits until there is something to receive, or for `timeout_s` (None: for ever). Is there?"""
        pending = getattr(self.sock, "pending", None)
        if pending is not None and pending():
            return True
        try:
            return bool(self._poll.poll(None if timeout_s is None else max(0, round(1000 * timeout_s + 0.49))))
        except (OSError, ValueError) as error:
            raise WireError(f"the connection broke: {error}") from error

    def wait(self, timeout_s: float) -> list[bytes]:
        """What has come, or comes within `timeout_s`: as `ready` and `receive`, with fewer calls of the system."""
        if self.patient and timeout_s >= PATIENCE_S:
            data = self._looker.look(self._peek, LOOK_S) if self._talks else None
            return self.receive() if data is None else self._bodies(data)
        return self.receive() if self.ready(timeout_s) else []

    def receive(self) -> list[bytes]:
        """What has come: the bodies of the frames that are whole by now. Waits for some bytes. Raises WireError."""
        data = self._recv(0)
        if data is None:
            self._talks = False
            return []
        return self._bodies(data)

    def _recv(self, flags: int) -> bytes | None:
        """Bytes; None when there are none. Raises WireError when there will be none."""
        try:
            data = self._recv_secured() if self._secured else self.sock.recv(READ_BYTES, flags)
        except (BlockingIOError, InterruptedError, TimeoutError):
            return None
        except (OSError, ValueError) as error:
            raise WireError(f"the connection broke: {error}") from error
        if not data:
            raise WireError("the other side closed the connection")
        return data

    def _recv_secured(self) -> bytes:
        """As `recv`. It waits before it has the lock, not with it: for less than a record there is BlockingIOError."""
        import ssl

        self.ready(None)
        with self._sending:
            waits_s = self.sock.gettimeout()
            self.sock.settimeout(0.0)
            try:
                return self.sock.recv(READ_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise BlockingIOError from error
            finally:
                with contextlib.suppress(OSError):  # it was closed meanwhile
                    self.sock.settimeout(waits_s)

    def _peek(self) -> bytes | None:
        return self._recv(socket.MSG_DONTWAIT)

    def _bodies(self, data: bytes) -> list[bytes]:
        """Of the frames that are whole with these bytes."""
        self._talks = len(data) < SHORT_BYTES
        buffer = self._buffer
        buffer += data
        bodies, at, size = [], 0, len(buffer)
        while size - at >= HEADER.size:
            body, payload = lengths(buffer, at, self.limits)
            end = at + HEADER.size + body + payload
            if end > size:
                break
            bodies.append(bytes(buffer[at + HEADER.size : end]))
            at = end
        if at:
            del buffer[:at]
        return bodies

    def close(self) -> None:
        """Idempotent; wakes whoever receives."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def connect(
    host: str, port: int, token: str, role: str, tls: Tls | None = None, answer_s: float = AUTH_DEADLINE_S
) -> BlockingChannel:
    """Connects and authenticates; waits so long for the answer. Raises OSError, or as `channel.connect` does.

    host: or the path of a Unix socket, which needs no TLS.
    """
    local = host.startswith("/")
    where = host if local else f"{host}:{port}"
    sock = _unix(host) if local else socket.create_connection((host, port), timeout=CONNECT_S)
    try:
        set_options(sock)
        if tls is not None and not local:
            sock = _secured(sock, tls, where)
        sock.settimeout(answer_s)
        channel = BlockingChannel(sock)
        channel.send(msgspec.msgpack.encode(Greeting(PROTOCOL_VERSION, token, role, "control")))
        answer = _answer(channel, where, answer_s)
        if not answer.ok:
            raise refusal(answer, where)
        channel.limits = LIMITS
        sock.settimeout(SEND_S)
        if tls is None or local:
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME.pack(0, int(PATIENCE_S * 1e6)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME.pack(int(SEND_S), 0))
            channel.patient = True
        return channel
    except BaseException:
        sock.close()
        raise


def _unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _answer(channel: BlockingChannel, where: str, answer_s: float) -> Answer:
    bodies: list[bytes] = []
    while not bodies:
        if not channel.ready(answer_s):
            raise WireError(f"{where} did not answer within {answer_s:g} s")
        bodies = channel.receive()
    try:
        return msgspec.msgpack.decode(bodies[0], type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("it does not answer as plesio does; check the address") from error


def _secured(sock: socket.socket, tls: Tls, where: str) -> socket.socket:
    import ssl

    from plesio.wire.tls import explain

    try:
        secured = tls.client.wrap_socket(sock)
        tls.verify(secured)
    except ssl.SSLError as error:
        raise explain(where, error) from error
    except PlesioError as error:
        raise type(error)(f"{where}: {error}") from error
    return secured

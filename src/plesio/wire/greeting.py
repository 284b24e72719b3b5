"""The first frames of a connection: who connects, with which token and protocol version, and what it is answered."""

from __future__ import annotations

import socket
from typing import Any

import msgspec

from plesio.errors import PlesioError, ProtocolRefused, TlsRefused, TokenRefused, WireError

PROTOCOL_VERSION = 1
OLDEST_VERSION = 1  # that we speak too
KINDS = ("control", "bulk", "beat")
AUTH_DEADLINE_S = 5.0
CONNECT_S = 5.0
DEAD_S = 15.0


class Greeting(msgspec.Struct, frozen=True):
    """The first frame of the connecting side, which speaks the protocol's versions from `oldest` to `v`."""

    v: int
    token: str
    role: str
    kind: str
    oldest: int = OLDEST_VERSION


class GreetingVersion(msgspec.Struct, frozen=True):
    """What a greeting of every protocol version has. oldest: 0: `v` only."""

    v: int
    oldest: int = 0


def agree(newest: int, oldest: int) -> int:
    """The newest protocol version that such a peer and we speak. Raises ProtocolRefused."""
    version = min(newest, PROTOCOL_VERSION)
    if version >= max(oldest or newest, OLDEST_VERSION):
        return version
    ours = f"{OLDEST_VERSION} to {PROTOCOL_VERSION}" if OLDEST_VERSION < PROTOCOL_VERSION else f"{PROTOCOL_VERSION}"
    raise ProtocolRefused(f"protocol version {newest} is not {ours}; install the same plesio everywhere")


def read_greeting(body: bytes) -> Greeting:
    """Raises ProtocolRefused or WireError, with what to tell the peer."""
    try:
        versions = msgspec.msgpack.decode(body, type=GreetingVersion)
        agree(versions.v, versions.oldest)
        return msgspec.msgpack.decode(body, type=Greeting)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("the first frame is not a greeting") from error


class Answer(msgspec.Struct, frozen=True):
    """The first frame of the serving side. v: the protocol version that both speak from now on."""

    ok: bool
    error: str = ""
    wrong_token: bool = False
    wants_tls: bool = False
    wrong_version: bool = False
    v: int = PROTOCOL_VERSION


def refusal(answer: Answer, where: str) -> PlesioError:
    """What a client raises when it was not taken."""
    if answer.wants_tls:
        return TlsRefused(f"{where}: {answer.error}")
    if answer.wrong_version:
        return ProtocolRefused(f"{where}: {answer.error}")
    return TokenRefused(answer.error) if answer.wrong_token else WireError(answer.error)


def set_options(sock: Any) -> None:
    """No delay; and a peer that a cut cable took away is noticed within DEAD_S, also when nothing is being sent."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return
    options = {"TCP_NODELAY": 1, "TCP_USER_TIMEOUT": int(1000 * DEAD_S)}
    options |= {"TCP_KEEPIDLE": int(DEAD_S / 3), "TCP_KEEPINTVL": int(DEAD_S / 3), "TCP_KEEPCNT": 2}
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

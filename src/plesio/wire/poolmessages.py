"""The typed messages of a pool. Stimuli and effects travel as they are; what a peer may send depends on its role."""

from __future__ import annotations

from typing import Any

import msgspec

from plesio.core.pool import effects as e
from plesio.core.pool import stimuli as s
from plesio.errors import WireError
from plesio.wire.messages import Message


class Ask(Message, frozen=True):
    """A client wants to know. what: 'tasks', 'locks' and so on, see runtime/poolview."""

    number: int
    what: str
    argument: str = ""


class Told(Message, frozen=True):
    """The answer: JSON. error: why there is none."""

    number: int
    body: bytes
    error: str = ""


CLIENT_MAY = (
    s.ClientUp, s.Submit, s.Await, s.Taken, s.Cancel, s.Revive, s.SetQueue, s.RemoveQueue, s.Take, s.Settle, s.Publish,
    s.Subscribe, s.Want, s.Release, s.Change, s.Heard, s.Renew, s.Refused, Ask,
)  # fmt: skip
MAY_SEND: dict[str, tuple[type, ...]] = {
    "client": CLIENT_MAY,
    "node": (s.NodeUp, s.SlotExited),
    "slot": (s.SlotUp, s.Finished, s.Failed, s.Concurrent, s.GaveBack, s.SlotLeaves),
}

_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "to": msgspec.msgpack.Decoder(s.AnyStimulus | Ask),
    "from": msgspec.msgpack.Decoder(e.AnyEffect | Told),
}


def encode(message: msgspec.Struct) -> bytes:
    """The body of a frame."""
    return _encode(message)


def decode(direction: str, body: bytes | memoryview) -> Any:
    """direction: 'to' (the coordinator) or 'from' (it). Raises WireError on anything else."""
    try:
        return _decoders[direction].decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message: {error}") from error


def check_role(role: str, message: object) -> None:
    """Raises WireError when this role may not say this."""
    if not isinstance(message, MAY_SEND.get(role, ())):
        raise WireError(f"a {role} may not send {type(message).__name__}")

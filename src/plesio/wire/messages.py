"""The typed messages: stimuli to the coordinator, effects from it, and what learner and synchronizer tell each other.

Stimuli and effects travel as they are, so the wire adds no second vocabulary. What a peer may send depends on its
role: nobody but the launcher may say that a process ended, nobody but the synchronizer that a version is merged.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plesio.core import effects as e
from plesio.core import stimuli as s
from plesio.errors import WireError
from plesio.records import Contribution, Version


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A message that is neither a stimulus nor an effect."""


class Metrics(Message, frozen=True):
    """Learner or synchronizer to coordinator, about once a second; never journaled. Counters of this process."""

    name: str
    generation: int
    tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0
    tokens_per_s: float = 0.0
    loss: float = float("nan")
    phase: str = ""
    base: Version | None = None
    up_bytes: int = 0
    down_bytes: int = 0


class Listening(Message, frozen=True):
    """Synchronizer to coordinator: learners reach me here."""

    host: str
    port: int


class SynchronizerAt(Message, frozen=True):
    """Coordinator to learner: where to push."""

    host: str
    port: int


class Watch(Message, frozen=True):
    """Launcher to coordinator: send me a Status about twice a second."""


class LearnerStatus(msgspec.Struct, frozen=True, array_like=True):
    """One learner, for the live table."""

    name: str
    state: str
    generation: int
    tokens_per_s: float
    tokens: int
    loss: float
    staleness: int
    last_push_s: float
    up_bytes: int
    down_bytes: int


class Status(Message, frozen=True):
    """Coordinator to launcher: the run just now."""

    version: Version | None
    committed: Version | None
    strategy: str
    tokens: int
    target: int | None
    units: tuple[int, int]  # applied, in all (0: without end)
    effective: int
    live: int
    losses: tuple[tuple[int, float], ...]
    learners: tuple[LearnerStatus, ...]
    finished: str
    faults: int


class Subscribe(Message, frozen=True):
    """Learner to synchronizer: send me versions; I have `base` (None: nothing)."""

    name: str
    generation: int
    base: Version | None


class Push(Message, frozen=True):
    """Learner to synchronizer, with the packet as payload."""

    contribution: Contribution


class StateUpload(Message, frozen=True):
    """Learner to synchronizer, with a safetensors file as payload: the state of this version."""

    name: str
    generation: int
    version: Version


class VersionMade(Message, frozen=True):
    """Synchronizer to learner, with a payload.

    kind: 'gradient' (packet of the mean gradient), 'delta' (packet of the change of the model that learners see),
    'state' (safetensors file), 'gap' (no payload: what you miss is gone, join anew).
    merged: newest merged push per learner, (generation, seq).
    """

    version: Version
    kind: str
    merged: dict[str, tuple[int, int]]
    final: bool = False
    donor: str = ""
    evaluator: str = ""


LEARNER_MAY = (s.Join, s.Hold, s.Beat, s.AskUnits, s.Leave, s.LossMeasured, Metrics)
SYNCHRONIZER_MAY = (s.SynchronizerUp, s.PushArrived, s.Merged, s.SnapshotWritten, Listening, Metrics)
LAUNCHER_MAY = (s.ProcessEnded, s.Drain, Watch)
MAY_SEND: dict[str, tuple[type, ...]] = {
    "learner": LEARNER_MAY,
    "synchronizer": SYNCHRONIZER_MAY,
    "launcher": LAUNCHER_MAY,
}

ToCoordinator = s.AnyStimulus | Metrics | Listening | Watch
FromCoordinator = e.AnyEffect | SynchronizerAt | Status
Bulk = Subscribe | Push | StateUpload | VersionMade

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "to": msgspec.msgpack.Decoder(ToCoordinator),
    "from": msgspec.msgpack.Decoder(FromCoordinator),
    "bulk": msgspec.msgpack.Decoder(Bulk),
}


def encode(message: msgspec.Struct) -> bytes:
    """The body of a frame."""
    return _encoder.encode(message)


def decode(direction: str, body: bytes | memoryview) -> Any:
    """direction: 'to' (the coordinator), 'from' (it) or 'bulk'. Raises WireError on anything else."""
    try:
        return _decoders[direction].decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"not a message: {error}") from error


def check_role(role: str, message: object) -> None:
    """Raises WireError when this role may not say this."""
    if not isinstance(message, MAY_SEND.get(role, ())):
        raise WireError(f"a {role} may not send {type(message).__name__}")

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
from plesio.wire.parts import Have, Part
from plesio.wire.timings import NOTHING, Timings


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
    timings: Timings = NOTHING


class Listening(Message, frozen=True):
    """Synchronizer to coordinator: learners reach me here."""

    host: str
    port: int


class SynchronizerAt(Message, frozen=True):
    """Coordinator to learner: where to push."""

    host: str
    port: int


class Committed(Message, frozen=True):
    """Coordinator to synchronizer: this snapshot is committed, so older ones may go. Lost without harm."""

    snapshot: str


class Watch(Message, frozen=True):
    """Send me a Status about twice a second."""


class Probe(Message, frozen=True):
    """Viewer to coordinator: answer at once, with so many bytes (PROBE_BYTES at most). One at a time.

    It may have a payload, of PROBE_BYTES at most, which is dropped: both sides are timed by who asks.
    """

    number: int
    size_bytes: int = 0


class Probed(Message, frozen=True):
    """Coordinator to viewer, with as many bytes of payload as were asked for. unix_s: when it was answered."""

    number: int
    unix_s: float
    plesio: str  # the version of the package
    run: str
    synchronizer: SynchronizerAt | None  # None: it has not said where it listens


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
    tokens: int  # committed
    merged_tokens: int  # and those of versions that are not committed yet
    target: int | None
    units: tuple[int, int]  # applied, in all (0: without end)
    effective: int
    live: int
    losses: tuple[tuple[int, float], ...]
    learners: tuple[LearnerStatus, ...]
    finished: str
    faults: int
    trouble: str = ""  # what keeps the run's folder from being complete; the run goes on


class Subscribe(Message, frozen=True):
    """Learner to synchronizer: send me versions; I have `base` (None: nothing)."""

    name: str
    generation: int
    base: Version | None
    incarnation: str = ""  # proves who it is
    have: Have = Have()  # of the message that was coming when the last connection broke


class Subscribed(Message, frozen=True):
    """Synchronizer to learner: go on sending. have: of the message that was coming; known: ids that are all here."""

    have: Have
    known: tuple[str, ...]


class Push(Message, frozen=True):
    """Learner to synchronizer, with the packet as payload.

    buffers: see runtime/buffers; empty: they are the base's. rule: of its optimizer, where the synchronizer steps.
    """

    contribution: Contribution
    buffers: bytes = b""
    rule: bytes = b""


class StateUpload(Message, frozen=True):
    """Learner to synchronizer, with a safetensors file as payload: the state of this version."""

    name: str
    generation: int
    version: Version


class VersionMade(Message, frozen=True):
    """Synchronizer to learner, with a payload.

    kind: 'gradient' (packet of the mean gradient), 'delta' (packet of the change of the model that learners see),
    'params' (packet of that model), 'state' (safetensors file), 'gap' (no payload: what you miss is gone, join anew).
    merged: newest merged push per learner, (generation, seq). buffers: the new ones; empty: they are as they were.
    ends: of phases of the schedule, see Timeline.
    """

    version: Version
    kind: str
    merged: dict[str, tuple[int, int]]
    final: bool = False
    donor: str = ""
    evaluator: str = ""
    buffers: bytes = b""
    ends: tuple[int, ...] = ()


def instead(newer: VersionMade, older: VersionMade) -> VersionMade:
    """The newer one of two that say all, with what only the older one asked for."""
    return msgspec.structs.replace(
        newer, buffers=newer.buffers or older.buffers, evaluator=newer.evaluator or older.evaluator
    )


PROBE_BYTES = 1 << 20  # a viewer must not be able to hurt the run


def push_id(generation: int, seq: int) -> str:
    """Names the bytes of a learner's push."""
    return f"{generation}.{seq}"


def upload_id(generation: int, version: Version) -> str:
    """Names the bytes of a learner's state."""
    return f"{generation}.state.{version.lineage}.{version.number}"


def is_upload(id: str) -> bool:
    """Is it one of `upload_id`?"""
    return ".state." in id


LEARNER_MAY = (s.Join, s.Hold, s.Beat, s.AskUnits, s.Leave, s.LossMeasured, Metrics)
SYNCHRONIZER_MAY = (s.SynchronizerUp, s.PushArrived, s.Merged, s.SnapshotWritten, s.Refused, Listening, Metrics)
LAUNCHER_MAY = (s.ProcessEnded, s.Drain, s.AllEnded, Watch)
MAY_SEND: dict[str, tuple[type, ...]] = {
    "learner": LEARNER_MAY,
    "synchronizer": SYNCHRONIZER_MAY,
    "launcher": LAUNCHER_MAY,
    "joiner": (s.ProcessEnded, Watch),
    "viewer": (Watch, Probe),
}

ToCoordinator = s.AnyStimulus | Metrics | Listening | Watch | Probe
FromCoordinator = e.AnyEffect | SynchronizerAt | Committed | Status | Probed
Bulk = Subscribe | Subscribed | Part | Push | StateUpload | VersionMade

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
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message: {error}") from error


def check_role(role: str, message: object) -> None:
    """Raises WireError when this role may not say this."""
    if not isinstance(message, MAY_SEND.get(role, ())):
        raise WireError(f"a {role} may not send {type(message).__name__}")

"""Stimuli: what reaches the coordinator. Messages of peers, and time."""

from __future__ import annotations

import msgspec

from plesio.core.spec import RunSpec
from plesio.records import Contribution, Dataset, Version


class Stimulus(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something that reached the coordinator."""


class StartRun(Stimulus, frozen=True):
    """The user asks for this run. gather: all its learners are started now; they are waited for."""

    spec: RunSpec
    gather: bool = False


class TakeLead(Stimulus, frozen=True):
    """This coordinator was elected."""

    epoch: int


class Join(Stimulus, frozen=True):
    """A learner's process asks to take part."""

    name: str
    incarnation: str
    signature: str
    parameters: int


class Hold(Stimulus, frozen=True):
    """A learner (again) tells which version is its base; after loading a state, after a reconnection."""

    name: str
    generation: int
    base: Version
    incarnation: str = ""  # proves, on a new connection, who speaks


class Beat(Stimulus, frozen=True):
    """A sign of life. Never journaled."""

    name: str
    generation: int
    incarnation: str = ""  # proves who speaks


class AskUnits(Stimulus, frozen=True):
    """A learner wants up to `count` units of this dataset. `request` makes the answer idempotent."""

    name: str
    generation: int
    request: int
    count: int
    dataset: Dataset


class Leave(Stimulus, frozen=True):
    """A learner wants to go, having sent what it could; it waits for Goodbye as long as it can."""

    name: str
    generation: int


class ProcessEnded(Stimulus, frozen=True):
    """The launcher saw this process end."""

    name: str
    incarnation: str
    reason: str


class SynchronizerUp(Stimulus, frozen=True):
    """The synchronizer connected. `version`: its newest; None when it has just started."""

    incarnation: str
    version: Version | None


class PushArrived(Stimulus, frozen=True):
    """The synchronizer holds these bytes."""

    incarnation: str
    contribution: Contribution


class Merged(Stimulus, frozen=True):
    """The synchronizer made this version."""

    incarnation: str
    version: Version
    seconds: float = 0.0


class SnapshotWritten(Stimulus, frozen=True):
    """Fsynced and renamed: this version is on disk."""

    incarnation: str
    version: Version
    snapshot: str
    digest: str
    seconds: float = 0.0


class LossMeasured(Stimulus, frozen=True):
    """A learner measured the held-out loss of a version."""

    name: str
    generation: int
    version: Version
    loss: float
    seconds: float


class Refused(Stimulus, frozen=True):
    """The wire turned somebody away."""

    who: str
    reason: str


class Drain(Stimulus, frozen=True):
    """The user wants to stop, resumably: commit what is merged as soon as possible."""


class AllEnded(Stimulus, frozen=True):
    """The launcher saw every learner's script end by itself. Said again until the run is finished."""


class Tick(Stimulus, frozen=True):
    """Time passed."""


AnyStimulus = (
    StartRun | TakeLead | Join | Hold | Beat | AskUnits | Leave | ProcessEnded | SynchronizerUp | PushArrived | Merged
    | SnapshotWritten | LossMeasured | Refused | Drain | AllEnded | Tick
)  # fmt: skip

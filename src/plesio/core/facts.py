"""Facts: what happened, in the past tense. They alone are journaled, and the state is their fold."""

from __future__ import annotations

import msgspec

from plesio.core.spec import RunSpec
from plesio.records import Contribution, Dataset, Span, Version


class Fact(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something that happened and will stay true."""


class RunStarted(Fact, frozen=True):
    """The run exists."""

    spec: RunSpec


class LeaderElected(Fact, frozen=True):
    """A coordinator took over with this store epoch."""

    epoch: int


class MemberJoined(Fact, frozen=True):
    """A learner took part under a new generation. `incarnation` names its process."""

    name: str
    generation: int
    incarnation: str


class MemberEnded(Fact, frozen=True):
    """A generation is over; its leases went back. reason: 'killed', 'exited', 'left', 'silent', 'replaced'."""

    name: str
    generation: int
    reason: str
    returned: tuple[Span, ...]  # back to the pool
    partial: tuple[Span, ...]  # some of it was merged: counted, never re-issued


class ModelDeclared(Fact, frozen=True):
    """The run trains this model; others are refused. `signature`: digest of names, shapes and dtypes."""

    signature: str
    parameters: int


class DatasetDeclared(Fact, frozen=True):
    """The ledger deals this."""

    dataset: Dataset


class UnitsLeased(Fact, frozen=True):
    """A learner holds these units."""

    name: str
    generation: int
    spans: tuple[Span, ...]
    request: int


class ContributionAccepted(Fact, frozen=True):
    """The synchronizer holds this push, and it counts for the next round."""

    contribution: Contribution


class ContributionVoided(Fact, frozen=True):
    """A push was refused; its units went back to the pool. reason: 'stale'."""

    name: str
    generation: int
    seq: int
    returned: tuple[Span, ...]
    reason: str
    partial: tuple[Span, ...] = ()  # an earlier push holds a part of them: never re-issued


class RoundClosed(Fact, frozen=True):
    """These contributions, with these factors, make this version."""

    version: Version
    strategy: str
    pushes: tuple[tuple[str, int, int], ...]  # (contributor, generation, seq)
    factors: tuple[float, ...]
    contributors: int  # how many different ones: the effective participants
    live: int
    tokens: int
    final: bool
    donor: str = ""  # who uploads its state at this version, if anybody
    evaluator: str = ""  # who measures the held-out loss of this version, if anybody
    ends: tuple[int, ...] = ()  # the last version of each phase of the schedule that is over now


class VersionMerged(Fact, frozen=True):
    """The synchronizer made this version; it is provisional."""

    version: Version


class VersionCommitted(Fact, frozen=True):
    """Its snapshot is on disk; what it holds is applied."""

    version: Version
    snapshot: str
    digest: str
    ledger_seq: int


class RolledBack(Fact, frozen=True):
    """The synchronizer was lost: the lineage goes on from a committed version; provisional units went back."""

    to: Version
    lineage: int
    returned: tuple[Span, ...]
    reheld: tuple[Span, ...]  # still with their living learner, unsent again
    voided: tuple[tuple[str, int, int], ...]  # pushes that had been merged: (contributor, generation, seq)
    partial: tuple[Span, ...] = ()


class SynchronizerSeen(Fact, frozen=True):
    """This process is the synchronizer."""

    incarnation: str


class Evaluated(Fact, frozen=True):
    """The held-out loss of a version, in the user's unit (nats)."""

    version: Version
    loss: float
    by: str


class PeerRefused(Fact, frozen=True):
    """Somebody was turned away, `count` times since this was last told."""

    who: str
    reason: str
    count: int = 1


class RunFinished(Fact, frozen=True):
    """All that was asked is committed."""

    version: Version
    reason: str


AnyFact = (
    RunStarted | LeaderElected | MemberJoined | MemberEnded | ModelDeclared | DatasetDeclared | UnitsLeased
    | ContributionAccepted | ContributionVoided | RoundClosed | VersionMerged | VersionCommitted | RolledBack
    | SynchronizerSeen | Evaluated | PeerRefused | RunFinished
)  # fmt: skip

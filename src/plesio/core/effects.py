"""Effects: what the driver is to do, in the imperative. Each may be done again without harm."""

from __future__ import annotations

import msgspec

from plesio.core.spec import RunSpec
from plesio.records import Span, Version


class Effect(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An order to the driver."""


class Welcome(Effect, frozen=True):
    """To a learner: you are in."""

    to: str
    generation: int
    spec: RunSpec
    lineage: int


class Refuse(Effect, frozen=True):
    """To a peer: you are not in, and why; `mend` for the user."""

    to: str
    incarnation: str
    reason: str


class GrantUnits(Effect, frozen=True):
    """To a learner: these units are yours. Empty: none is left for now; send what you have, and wait."""

    to: str
    generation: int
    request: int
    spans: tuple[Span, ...]


class DonateState(Effect, frozen=True):
    """To a learner: upload the state of your base version (the newest you have). To the synchronizer: it may."""

    to: str
    generation: int
    initial: bool  # there is no version yet: the model as your script made it


class AnswerPush(Effect, frozen=True):
    """To a learner and to the synchronizer: this push does not count (reason), forget it."""

    to: str
    generation: int
    seq: int
    reason: str


class RollBack(Effect, frozen=True):
    """To a learner: the lineage goes on from `version`; your pushes in `voided` (seqs) are not yours any more."""

    to: str
    generation: int
    lineage: int
    version: Version
    voided: tuple[int, ...]
    settled: int  # your newest push that is committed


class Rejoin(Effect, frozen=True):
    """To a learner: your generation is over; join anew, drop what you have."""

    to: str
    generation: int


class Goodbye(Effect, frozen=True):
    """To a learner that wants to go: nobody needs you any more."""

    to: str
    generation: int


class EndRun(Effect, frozen=True):
    """To everybody: the run is finished."""

    version: Version
    reason: str


class LoadState(Effect, frozen=True):
    """To the synchronizer: you serve this lineage, from this snapshot ('' : nothing yet)."""

    spec: RunSpec
    lineage: int
    version: Version | None
    snapshot: str
    learners: tuple[tuple[str, int], ...]  # (name, generation) that may push
    incarnations: tuple[str, ...] = ()  # of these learners
    ends: tuple[int, ...] = ()  # see Timeline


class Admit(Effect, frozen=True):
    """To the synchronizer: accept pushes of this learner's generation only."""

    name: str
    generation: int
    incarnation: str = ""


class Forget(Effect, frozen=True):
    """To the synchronizer: this learner is gone for long; it comes back, if at all, as a new one."""

    name: str


class CloseRound(Effect, frozen=True):
    """To the synchronizer: merge these pushes into this version."""

    version: Version
    pushes: tuple[tuple[str, int, int], ...]
    factors: tuple[float, ...]
    contributors: int
    final: bool
    donor: str
    evaluator: str
    ends: tuple[int, ...] = ()  # see Timeline


class TakeSnapshot(Effect, frozen=True):
    """To the synchronizer: write the newest version to disk (it is at least this one)."""

    version: Version


AnyEffect = (
    Welcome | Refuse | GrantUnits | DonateState | AnswerPush | RollBack | Rejoin | Goodbye | EndRun | LoadState
    | Admit | Forget | CloseRound | TakeSnapshot
)  # fmt: skip
TO_SYNCHRONIZER = (LoadState, Admit, Forget, CloseRound, TakeSnapshot)

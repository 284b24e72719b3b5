"""When a round closes: pure rules over what is held and who is expected. No clock, no tensors.

`Free` waits for nobody; `All` for everybody who is expected; `Quorum` for K contributors that hold more than half of the
expected tokens, and then for the grace. Source: DiLoCo 2311.08105, Decoupled DiLoCo 2604.21428.
"""

from __future__ import annotations

import math

import msgspec

MAJORITY = 0.55  # of the expected tokens; at one half, two equal learners would make a momentum step per arrival


class RoundView(msgspec.Struct, frozen=True):
    """What a barrier may look at. Expected and held are tokens by contributor."""

    expected: dict[str, float]  # contributor -> tokens that one push of it holds; only those who can contribute
    held: dict[str, float]  # contributor -> tokens held for this round
    quorum_s: float | None  # when the quorum was first in, on the caller's clock; None: not yet
    step_s: float  # seconds of one step of the fastest contributor (estimate)
    merge_s: float  # seconds from closing a round to its arrival (estimate)


class Verdict(msgspec.Struct, frozen=True):
    """Close now, or wait; `again_s` is when to ask again without a new arrival (None: only an arrival helps)."""

    close: bool
    quorum: bool = False
    again_s: float | None = None


class All(msgspec.Struct, frozen=True, tag="all"):
    """Everybody expected must have contributed."""

    def judge(self, view: RoundView, now_s: float) -> Verdict:
        """Closes when each expected contributor is held."""
        complete = bool(view.held) and all(name in view.held for name in view.expected)
        return Verdict(close=complete, quorum=complete)


class Quorum(msgspec.Struct, frozen=True, tag="quorum"):
    """K contributors (0: half of the live, rounded up) with clearly more than half of the expected tokens, then a grace.

    The grace is `gamma * (overlap * step - merge)` seconds, at least 0: the time that overlap hides anyway.
    """

    k: int = 0
    gamma: float = 1.0
    overlap: int = 2

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"a quorum of k={self.k}: give 0 (half of the live learners) or how many")

    def judge(self, view: RoundView, now_s: float) -> Verdict:
        """Closes when all are in, or when the quorum is in and its grace is over."""
        if not view.held:
            return Verdict(close=False)
        if all(name in view.held for name in view.expected):
            return Verdict(close=True, quorum=True)
        needed = min(self.k or math.ceil(len(view.expected) / 2), len(view.expected))
        enough = sum(view.held.values()) >= MAJORITY * sum(view.expected.values())
        if len(view.held) < needed or not enough:
            return Verdict(close=False)
        since_s = now_s if view.quorum_s is None else view.quorum_s
        until_s = since_s + self.grace_s(view)
        return Verdict(close=now_s >= until_s, quorum=True, again_s=until_s)

    def grace_s(self, view: RoundView) -> float:
        """Seconds that a round waits for the others after its quorum."""
        return max(0.0, self.gamma * (self.overlap * view.step_s - view.merge_s))


class Free(msgspec.Struct, frozen=True, tag="free"):
    """Nobody waits for anybody: what is there is merged."""

    def judge(self, view: RoundView, now_s: float) -> Verdict:
        """Closes as soon as anything is held."""
        return Verdict(close=bool(view.held), quorum=bool(view.held))


Barrier = All | Quorum | Free

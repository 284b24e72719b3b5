"""A strategy is a point in a space: how often, what, how many close a round, how merged, how applied.

The records here are what the coordinator journals and every process receives; the arithmetic lives in
`merge` (weights) and `outer` (tensors). Source: DESIGN section 6.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from plesio.strategies.barrier import All, Barrier

MAX_IN_FLIGHT = 2  # pushes of one learner under way

Sends = Literal["gradient", "delta"]
Merge = Literal["mean", "token-weighted", "tokens", "each"]
Kind = Literal["replicated", "served", "local"]


class Outer(msgspec.Struct, frozen=True):
    """The outer optimizer: theta -= lr * (D + momentum * m), m = momentum * m + D (D: merged delta).

    `nesterov=False` with momentum 0 is SGD. `lr=None`: by the number of contributors (2503.09799).
    """

    lr: float | None = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if (self.lr is not None and not 0.0 <= self.lr < math.inf) or not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"an outer step with lr={self.lr}, momentum={self.momentum}: lr >= 0, 0 <= momentum < 1")

    def rate(self, contributors: int) -> float:
        """The outer learning rate for so many contributors."""
        if self.lr is not None:
            return self.lr
        return {1: 0.4, 2: 0.6, 3: 0.6}.get(
            contributors, 0.6 if contributors < 4 else 0.8 if contributors >= 8 else 0.7
        )


class Strategy(msgspec.Struct, frozen=True, kw_only=True):
    """One phase of a run. Raises ValueError for settings that make none, which the wire takes for no message.

    every: steps between two pushes (H). sends: gradients (each learner's own optimizer steps on their mean)
    or deltas (an outer optimizer steps). optimizer: whose optimizer steps on gradients; 'server': the learner's
    optimizer says rule and rate, and its state is the synchronizer's. fragments: parts that are sent apart (P; 1 so
    far). overlap: steps that a learner may run on while its push is under way; 0 blocks. mix: share of the
    local model kept at an arrival beyond the unsent work (alpha). warmup_rounds: synchronous rounds before it, when
    the schedule does not say.
    """

    name: str
    every: int = 1
    sends: Sends = "delta"
    fragments: int = 1
    barrier: Barrier = All()
    merge: Merge = "mean"
    outer: Outer = Outer()
    optimizer: Literal["learner", "server"] = "learner"
    overlap: int = 0
    mix: float = 0.0
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1")
        if self.overlap < 0 or (self.sends == "gradient" and self.overlap >= MAX_IN_FLIGHT):
            most = f" and at most {MAX_IN_FLIGHT - 1}" if self.sends == "gradient" else ""
            raise ValueError(f"overlap={self.overlap} must be at least 0{most}")

    @property
    def kind(self) -> Kind:
        """Where the newest state is: with every learner, with the synchronizer, or local work besides."""
        if self.sends == "delta":
            return "local"
        return "replicated" if self.optimizer == "learner" else "served"

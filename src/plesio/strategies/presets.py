"""The named strategies: functions from few settings to a schedule."""

from __future__ import annotations

from plesio.strategies.barrier import All, Quorum
from plesio.strategies.base import Outer, Schedule, Strategy

SYNC = Strategy(name="sync", every=1, sends="gradient", barrier=All(), merge="tokens")


def Sync(**_: object) -> Schedule:  # noqa: N802  named as the field names it
    """Every step: the mean of all gradients, weighted by tokens; each learner's own optimizer steps."""
    return Schedule(main=SYNC)


def Decoupled(  # noqa: N802
    every: int = 32, k: int = 0, start_rounds: int = 60, overlap: int | None = None, **_: object
) -> Schedule:
    """Local steps on the learners' own clocks; quorum, grace, token weights; a synchronous start.

    every: H, steps between pushes. k: quorum (0: half of the live learners, rounded up). start_rounds:
    synchronous rounds before the local steps (ALGORITHMS, measured findings). overlap: steps a learner may
    go on while its push is under way (default H). Source: Decoupled DiLoCo 2604.21428.
    """
    main = Strategy(
        name="decoupled",
        every=every,
        sends="delta",
        barrier=Quorum(k=k),
        merge="token-weighted",
        outer=Outer(lr=0.7, momentum=0.9),
        overlap=every if overlap is None else overlap,
    )
    return Schedule(main=main, start=SYNC if start_rounds else None, start_rounds=start_rounds)

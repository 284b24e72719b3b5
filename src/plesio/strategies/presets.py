"""The named strategies: functions from few settings to a schedule."""

from __future__ import annotations

from plesio.strategies.barrier import All, Quorum
from plesio.strategies.base import Outer, Schedule, Strategy

SYNC = Strategy(name="sync", every=1, sends="gradient", barrier=All(), merge="tokens")


def Sync(**_: object) -> Schedule:  # noqa: N802  named as the field names it
    """Every step: the mean of all gradients, weighted by tokens; each learner's own optimizer steps."""
    return Schedule(main=SYNC)


def LocalSGD(every: int = 32, start_rounds: int = 0, **_: object) -> Schedule:  # noqa: N802
    """Every H steps the learners' models are averaged; nobody goes on before. Source: Stich 1808.07217."""
    return _started(Strategy(name="localsgd", every=every), start_rounds)


def DiLoCo(  # noqa: N802
    every: int = 32, lr: float = 0.7, momentum: float = 0.9, start_rounds: int = 0, **_: object
) -> Schedule:
    """Every H steps an outer Nesterov step on the mean change; nobody goes on before. Source: DiLoCo 2311.08105.

    lr, momentum: of the outer step; momentum 0 is SGD, and (1, 0) is LocalSGD.
    """
    return _started(Strategy(name="diloco", every=every, outer=Outer(lr=lr, momentum=momentum)), start_rounds)


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
        barrier=Quorum(k=k),
        merge="token-weighted",
        outer=Outer(lr=0.7, momentum=0.9),
        overlap=every if overlap is None else overlap,
    )
    return _started(main, start_rounds)


def _started(main: Strategy, start_rounds: int) -> Schedule:
    return Schedule(main=main, start=SYNC if start_rounds else None, start_rounds=start_rounds)

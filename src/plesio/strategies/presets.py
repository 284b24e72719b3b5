"""The named strategies: functions from few settings to a point in the space."""

from __future__ import annotations

from plesio.strategies.barrier import All, Free, Quorum
from plesio.strategies.base import Outer, Strategy


def Sync() -> Strategy:  # noqa: N802  named as the field names it
    """Every step: the mean of all gradients, weighted by tokens; each learner's own optimizer steps."""
    return Strategy(name="sync", every=1, sends="gradient", barrier=All(), merge="tokens")


def Async(overlap: int = 0) -> Strategy:  # noqa: N802
    """A parameter server: each gradient is a step of the optimizer, which the synchronizer keeps; nobody waits for others.

    overlap: further gradients that a learner may compute while one is under way; they are so much older.
    Source: Downpour SGD (Dean 2012). A large learning rate times a large staleness diverges.
    """
    return Strategy(
        name="async", every=1, sends="gradient", optimizer="server", barrier=Free(), merge="each", overlap=overlap
    )


def LocalSGD(every: int = 32) -> Strategy:  # noqa: N802
    """Every H steps the learners' models are averaged; nobody goes on before. Source: Stich 1808.07217."""
    return Strategy(name="localsgd", every=every)


def DiLoCo(every: int = 32, lr: float = 0.7, momentum: float = 0.9) -> Strategy:  # noqa: N802
    """Every H steps an outer Nesterov step on the mean change; nobody goes on before. Source: DiLoCo 2311.08105.

    lr, momentum: of the outer step; momentum 0 is SGD, and (1, 0) is LocalSGD.
    """
    return Strategy(name="diloco", every=every, outer=Outer(lr=lr, momentum=momentum))


def Decoupled(  # noqa: N802
    every: int = 32, k: int = 0, overlap: int | None = None, lr: float = 0.7, momentum: float = 0.9
) -> Strategy:
    """Local steps on the learners' own clocks; quorum, grace, token weights; after a synchronous start.

    every: H, steps between pushes. k: quorum (0: half of the live learners, rounded up). overlap: steps a learner
    may go on while its push is under way (default H). lr, momentum: of the outer Nesterov step. Source: Decoupled
    DiLoCo 2604.21428; the synchronous start: ALGORITHMS, measured findings.
    """
    return Strategy(
        name="decoupled",
        every=every,
        barrier=Quorum(k=k),
        merge="token-weighted",
        outer=Outer(lr=lr, momentum=momentum),
        overlap=every if overlap is None else overlap,
        warmup_rounds=60,
    )

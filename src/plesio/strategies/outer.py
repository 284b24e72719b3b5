"""The outer optimizer step on one flat tensor. Torch arithmetic, no I/O."""

from __future__ import annotations

from torch import Tensor

from plesio.strategies.base import Outer


def step(outer: Outer, theta: Tensor, momentum: Tensor, delta: Tensor, contributors: int) -> None:
    """theta, momentum, delta: (n,). Changes theta and momentum in place (2311.08105).

    m = b*m + D; theta -= lr * (D + b*m).
    """
    rate = outer.rate(contributors)
    if outer.momentum:
        momentum.mul_(outer.momentum).add_(delta)
        theta.sub_(momentum, alpha=rate * outer.momentum)
    theta.sub_(delta, alpha=rate)

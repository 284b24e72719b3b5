"""The outer optimizer step on one flat tensor. Torch arithmetic, no I/O."""

from __future__ import annotations

import torch
from torch import Tensor

from plesio.strategies.base import Outer


def step(outer: Outer, theta: Tensor, momentum: Tensor, delta: Tensor, contributors: int) -> None:
    """theta, momentum, delta: (n,). Changes theta and momentum in place (2311.08105).

    m = b*m + D; theta -= lr * (D + b*m).
    """
    rate = outer.rate(contributors)
    if outer.momentum and theta.dtype == delta.dtype in (torch.float32, torch.float64):
        torch._fused_sgd_(  # one pass; torch 2.13's is wrong for 16-bit dtypes
            [theta], [delta], [momentum], weight_decay=0.0, momentum=outer.momentum, lr=rate, dampening=0.0,
            nesterov=True, maximize=False, is_first_step=False,
        )  # fmt: skip
        return
    if outer.momentum:
        momentum.mul_(outer.momentum).add_(delta)
        theta.sub_(momentum, alpha=rate * outer.momentum)
    theta.sub_(delta, alpha=rate)

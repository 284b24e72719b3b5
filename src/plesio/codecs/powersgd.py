"""PowerSGD: a matrix as the product of two thin ones, which the next stage encodes.

One step of the power method a tensor, from where the last one ended: P = orthonormal(M Q), Q = M^T P, and P Q^T is read.
Exact for matrices of at most that rank. A tensor of more dimensions is a matrix of its first one by the others; what has
fewer than two, or would not get smaller, is handed on as it is. Only with feedback. Two forms: pushed, one round, each
sender its own P and Q; and collective, two rounds, in which all have the means of P and of Q (`rounds`).
Source: Vogels et al. 2019 (1905.13727).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plesio.codecs.base import Stage
from plesio.codecs.packets import Payload, Shape
from plesio.errors import UserError

MAX_RANK = 1024
SEED = 1


@dataclass(frozen=True, repr=False)
class PowerSGD(Stage):
    """rank: columns of P and Q. State: Q, (n, rank) float32, or None where nothing is gained."""

    rank: int = 4
    name: ClassVar[str] = "powersgd"
    can_end: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    by_shape: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise UserError(f"codec 'powersgd' needs a rank of 1 to {MAX_RANK}, not {self.rank}")

    def __repr__(self) -> str:
        return f"powersgd({self.rank})"

    def init(self, like: Tensor) -> Tensor | None:
        """A random Q, the same everywhere."""
        sides = self._sides(tuple(like.shape))
        return None if sides is None else self._first(sides[1]).to(like.device)

    def _first(self, columns: int) -> Tensor:
        return torch.randn(columns, self.rank, generator=torch.Generator().manual_seed(SEED))

    def inner_shape(self, shape: Shape) -> Shape:
        """See Stage.inner_shape. P, then Q."""
        sides = self._sides(shape)
        return shape if sides is None else (self.rank * sum(sides),)

    def split(self, tensor: Tensor, side: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See Stage.split."""
        sides = self._sides(tuple(tensor.shape))
        if sides is None:
            return tensor, None
        matrix = tensor.reshape(sides).float()
        left = orthonormal(matrix @ (self._first(sides[1]).to(matrix) if state is None else state))
        right = matrix.T @ left
        return torch.cat([left.reshape(-1), right.reshape(-1)]).to(tensor.dtype), right

    def add(self, side: Payload, inner: Tensor, into: Tensor, weight: float) -> None:
        """See Stage.add."""
        sides = self._sides(tuple(into.shape))
        if sides is None:
            into.add_(inner.to(into), alpha=weight)
            return
        flat = inner.to(into.device)
        left, right = flat[: sides[0] * self.rank].view(sides[0], -1), flat[sides[0] * self.rank :].view(sides[1], -1)
        into.view(sides).addmm_(left.to(into.dtype), right.T.to(into.dtype), alpha=weight)

    def rounds(
        self, tensor: Tensor, state: Tensor | None
    ) -> Generator[Tensor, Tensor, tuple[Tensor, Tensor, Tensor | None]]:
        """The collective form: yields what is to be averaged over all, is sent the average.

        Returns (the mean of what all gave, as far as it was sent; the same of this tensor alone; the next state).
        """
        sides = self._sides(tuple(tensor.shape))
        if sides is None:
            return (yield tensor), tensor, None
        matrix = tensor.detach().reshape(sides).float()
        left = orthonormal((yield matrix @ (self._first(sides[1]).to(matrix) if state is None else state)))
        own = matrix.T @ left
        right = yield own
        mean, alone = ((left @ each.T).view(tensor.shape).to(tensor.dtype) for each in (right, own))
        return mean, alone, right

    def _sides(self, shape: Shape) -> tuple[int, int] | None:
        """(rows, columns) of the matrix; None where the factors would be no smaller."""
        if len(shape) < 2:
            return None
        rows, columns = shape[0], math.prod(shape[1:])
        return (rows, columns) if self.rank * (rows + columns) < rows * columns else None


def orthonormal(matrix: Tensor) -> Tensor:
    """Columns of length 1 at right angles that span the same: (n, r) of (n, r) float32. Of zeros, some."""
    found: Tensor = torch.linalg.qr(matrix).Q
    return found

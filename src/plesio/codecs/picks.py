"""Codecs that pick some of the values: the next stage encodes those, and the receiver knows where they belong."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from plesio.codecs.base import Stage
from plesio.codecs.packets import Payload, Shape


class Picks(Stage, ABC):
    """Contract of the pickers: which values, and their places again from what is beside them."""

    can_end: ClassVar[bool] = False
    plain: ClassVar[bool] = False

    @abstractmethod
    def picked(self, numel: int) -> int:
        """How many of so many values."""

    @abstractmethod
    def choose(self, flat: Tensor, side: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(places: (picked,) int64, ascending, the next state) of flat: (numel,). Fills side: (side_bytes,) uint8."""

    @abstractmethod
    def places(self, side: Payload, numel: int) -> Tensor:
        """The same places, from side."""

    def inner_shape(self, shape: Shape) -> Shape:
        """See Stage.inner_shape."""
        return (self.picked(math.prod(shape)),)

    def split(self, tensor: Tensor, side: Tensor, state: Any) -> tuple[Tensor, Any]:
        """See Stage.split."""
        flat = tensor.reshape(-1)
        places, after = self.choose(flat, side, state)
        return flat[places.to(flat.device)], after

    def add(self, side: Payload, inner: Tensor, into: Tensor, weight: float) -> None:
        """See Stage.add."""
        flat = into.view(-1)
        places = self.places(side, flat.numel()).to(flat.device)
        flat.index_add_(0, places, inner.to(flat), alpha=weight)

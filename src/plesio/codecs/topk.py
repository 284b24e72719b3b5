"""TopK: of each block of 4,096 values the largest magnitudes; the next stage encodes them, and zeros are not sent.

Side: places in the block, 12 bits each, ascending. `topk(1/64)+int2` has .22 bits a value. Only with
feedback. Source: Aji & Heafield 2017 (1704.05021); in blocks: SparseLoCo, 2025 (2508.15706).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from plesio.codecs import kernels
from plesio.codecs.kernels.threads import spread
from plesio.codecs.packets import Payload, Shape, Stamp
from plesio.codecs.picks import Picks
from plesio.errors import CodecError, UserError

BLOCK = 4096


@dataclass(frozen=True, init=False, repr=False)
class TopK(Picks):
    """density: of values that are sent, 1/4096 to 1; of a block that is not full at least so many. Ties: the first."""

    keep: int
    name: ClassVar[str] = "topk"

    def __init__(self, density: float | Fraction = Fraction(1, 64)) -> None:
        keep = round(density * BLOCK) if math.isfinite(density) else 0
        if not 1 <= keep <= BLOCK:
            raise UserError(f"codec 'topk' keeps between 1/{BLOCK} and all of the values, not {density}")
        object.__setattr__(self, "keep", keep)

    @property
    def stamp(self) -> Stamp:
        """See Stage.stamp. Of each block."""
        return self.name, (self.keep,)

    @classmethod
    def from_stamp(cls, *arguments: int) -> Self:
        """See Stage.from_stamp."""
        (keep,) = arguments
        return cls(Fraction(keep, BLOCK))

    def __repr__(self) -> str:
        return f"topk({Fraction(self.keep, BLOCK)})"

    def side_bytes(self, shape: Shape) -> int:
        """See Stage.side_bytes."""
        return -(-self.picked(math.prod(shape)) * 3 // 2)

    def picked(self, numel: int) -> int:
        """See Picks.picked."""
        whole, rest = divmod(numel, BLOCK)
        return whole * self.keep + -(-rest * self.keep // BLOCK)

    def split(self, tensor: Tensor, side: Tensor, state: Any) -> tuple[Tensor, Any]:
        """See Stage.split."""
        flat = tensor.reshape(-1)
        whole = len(flat) // BLOCK * BLOCK
        compiled = kernels.worth("topk", flat[:whole]) if flat.dtype == torch.float32 else None
        if compiled is None or self.keep % 2 or not flat.is_contiguous():
            return super().split(tensor, side, state)
        inner = torch.empty(self.picked(len(flat)))
        count = whole // BLOCK * self.keep
        end = count * 3 // 2
        rows = [flat[:whole].numpy(), side[:end].numpy(), inner[:count].numpy()]
        compiled.pick([array.reshape(whole // BLOCK, -1) for array in rows])
        inner[count:] = super().split(flat[whole:], side[end:], state)[0]
        return inner, None

    def add(self, side: Payload, inner: Tensor, into: Tensor, weight: float) -> None:
        """See Stage.add."""
        flat = into.view(-1)
        whole = len(flat) // BLOCK * BLOCK
        floats = inner.dtype == flat.dtype == torch.float32 and flat.device.type == "cpu"
        compiled = kernels.on_cpu("topk") if whole and floats and not self.keep % 2 else None
        if compiled is None:
            super().add(side, inner, into, weight)
            return
        count = whole // BLOCK * self.keep
        end = count * 3 // 2
        rows = [np.frombuffer(side, np.uint8)[:end], inner[:count].numpy(), flat[:whole].numpy()]
        rows[0].flags.writeable = False
        shaped = [array.reshape(whole // BLOCK, -1) for array in rows]
        spread(compiled.add_picked, shaped, np.float32(weight))
        super().add(side[end:], inner[count:], flat[whole:], weight)

    @property
    def unit(self) -> int:
        """See Stage.unit. Two blocks, whose places end with a byte."""
        return 2 * BLOCK

    def add_piece(self, side: Payload, inner: Tensor, start: int, piece: Tensor, weight: float) -> None:
        """See Stage.add_piece."""
        first, count = start // BLOCK * self.keep, self.picked(len(piece))
        own = side[first * 3 // 2 : first * 3 // 2 + -(-count * 3 // 2)]
        self.add(own, inner[first : first + count], piece, weight)

    def choose(self, flat: Tensor, side: Tensor, state: Any) -> tuple[Tensor, Any]:
        """See Picks.choose."""
        whole = len(flat) // BLOCK * BLOCK
        found = [_largest(flat[:whole].view(-1, BLOCK), self.keep)]
        if rest := len(flat) - whole:
            found.append(_largest(flat[whole:].view(1, -1), -(-rest * self.keep // BLOCK)))
        places = torch.cat([each.reshape(-1) for each in found])
        side.copy_(_packed(places))
        firsts = torch.arange(0, max(len(flat), 1), BLOCK, device=flat.device).repeat_interleave(self.keep)[: len(places)]
        return places + firsts, None

    def places(self, side: Payload, numel: int) -> Tensor:
        """See Picks.places."""
        count = self.picked(numel)
        firsts = torch.arange(0, max(numel, 1), BLOCK).repeat_interleave(self.keep)[:count]
        return _unpacked(np.frombuffer(side, np.uint8), count) + firsts

    def check(self, payload: Payload, shape: Shape, dtype: torch.dtype) -> None:
        """Raises CodecError unless places ascend within their blocks and the tensor."""
        numel = math.prod(shape)
        blocks = numel // BLOCK
        compiled = kernels.on_cpu("topk") if blocks and not self.keep % 2 else None
        if compiled is not None:
            end = blocks * self.keep * 3 // 2
            rows = np.frombuffer(payload, np.uint8)[:end].reshape(blocks, -1)
            rows.flags.writeable = False
            if compiled.check_picked(rows) != -1:
                raise self._refusal()
            payload, numel = payload[end:], numel % BLOCK
        places = self.places(payload, numel)
        if len(places) and not (bool((places.diff() > 0).all()) and int(places[-1]) < numel):
            raise self._refusal()

    def _refusal(self) -> CodecError:
        return CodecError(f"codec {self!r} met places that do not ascend within the tensor")


def _largest(rows: Tensor, keep: int) -> Tensor:
    """(n, keep) int64, ascending: places of the largest magnitudes in rows: (n, m). The first of equal ones."""
    order = rows.abs().sort(dim=1, descending=True, stable=True).indices[:, :keep]
    return order.sort(dim=1).values


def _packed(places: Tensor) -> Tensor:
    """12 bits each: two in three bytes."""
    pairs = torch.nn.functional.pad(places, (0, len(places) % 2)).view(-1, 2)
    words = pairs[:, 0] | pairs[:, 1] << 12
    found = torch.stack([words & 255, words >> 8 & 255, words >> 16], 1).to(torch.uint8).view(-1)
    return found[: -(-len(places) * 3 // 2)]


def _unpacked(side: Any, count: int) -> Tensor:
    """(count,) int64."""
    whole = np.zeros(-(-count // 2) * 3, np.uint8)
    whole[: len(side)] = side
    bytes_ = torch.from_numpy(whole).view(-1, 3).long()
    words = bytes_[:, 0] | bytes_[:, 1] << 8 | bytes_[:, 2] << 16
    return torch.stack([words & 0xFFF, words >> 12], 1).view(-1)[:count]

"""Zstd: what a codec made, compressed once more without loss, where that makes it smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from plesio.codecs.base import Codec
from plesio.codecs.compose import ErrorFeedback
from plesio.codecs.packets import Packet
from plesio.codecs.pieces import compressed, packet_of, pieces_of
from plesio.errors import UserError

PAYS = 0.97  # of its bytes that a packet may have afterwards to be sent so: reading it takes longer
MOST_LEVEL = 19


@dataclass(frozen=True, repr=False)
class Zstd:
    """The last of a chain: `int8+zstd`. level: 1, fast, to 19. State: the codec's. Source: RFC 8878."""

    codec: Codec
    level: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.codec, ErrorFeedback):
            raise UserError(f"codec {self!r} has feedback inside, which goes around: ef(a+zstd)")
        if not 1 <= self.level <= MOST_LEVEL:
            raise UserError(f"codec 'zstd' has levels 1 to {MOST_LEVEL}, not {self.level}")

    def __repr__(self) -> str:
        return f"{self.codec!r}+zstd" + ("" if self.level == 1 else f"({self.level})")

    @property
    def needs_feedback(self) -> bool:
        """See Codec.needs_feedback."""
        return self.codec.needs_feedback

    @property
    def varies(self) -> bool:
        """It does."""
        return True

    @property
    def by_shape(self) -> bool:
        """See Codec.by_shape."""
        return self.codec.by_shape

    def under_feedback(self) -> Codec:
        """See Codec.under_feedback."""
        return replace(self, codec=self.codec.under_feedback())

    def init(self, like: Tensor) -> Any:
        """See Codec.init."""
        return self.codec.init(like)

    def encode(self, tensor: Tensor, state: Any) -> tuple[Packet, Any]:
        """See Codec.encode. The codec's own packet where little is gained."""
        plain, after = self.codec.encode(tensor, state)
        smaller = packet_of([compressed(piece, self.level) for piece in pieces_of(plain)], plain.dtype, plain.shape)
        return (smaller if len(smaller.payload) <= PAYS * len(plain.payload) else plain), after

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        return self.codec.wire_bytes(shape, dtype)

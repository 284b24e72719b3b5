"""ByRole: norms and biases, embeddings, and all other parameters by a codec each. And codecs for a model's whole vector.

What is sent of a model is one vector of all its parameters. A codec that looks at shapes, and ByRole, which looks at names,
take it apart again: `bound` makes the codec that does, of the names and shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from plesio.codecs.base import Codec
from plesio.codecs.compose import ErrorFeedback
from plesio.codecs.lossless import Zstd
from plesio.codecs.packets import Packet, Shape, header, name_of
from plesio.codecs.pieces import Pieces, joined_bytes, packet_of, pieces_of
from plesio.errors import CodecError, UserError

EMBEDDING = re.compile(r"(^|[._])(w[tp]e|\w*emb\w*)([._]|$)", re.IGNORECASE)
ROLES = {"norms": "bf16", "embeddings": "int8", "rest": "int4"}  # and their defaults


@dataclass(frozen=True, init=False, repr=False)
class ByRole:
    """norms: of what has fewer than two dimensions: norms and biases. embeddings: of matrices that are called so
    (`wte`, `wpe`, `..emb..`). rest: of all others. Codecs, or their texts. Of a tensor without a name its shape decides.
    """

    norms: Codec
    embeddings: Codec
    rest: Codec

    def __init__(
        self,
        norms: Codec | str = ROLES["norms"],
        embeddings: Codec | str = ROLES["embeddings"],
        rest: Codec | str = ROLES["rest"],
    ) -> None:
        from plesio.codecs.text import parse  # which reads this one, too

        for role, given in zip(ROLES, (norms, embeddings, rest), strict=True):
            codec = parse(given) if isinstance(given, str) else given
            if isinstance(codec, ErrorFeedback):
                raise UserError(f"codec {codec!r} cannot be that of {role}: feedback goes around, ef(byrole(..))")
            object.__setattr__(self, role, codec)

    def __repr__(self) -> str:
        told = {role: repr(getattr(self, role)) for role in ROLES}
        return "byrole(" + ", ".join(f"{role}={text}" for role, text in told.items() if text != ROLES[role]) + ")"

    def of(self, name: str, shape: Sequence[int]) -> Codec:
        """The codec of a parameter."""
        if len(shape) < 2:
            return self.norms
        return self.embeddings if EMBEDDING.search(name) else self.rest

    @property
    def needs_feedback(self) -> bool:
        """See Codec.needs_feedback."""
        return any(codec.needs_feedback for codec in (self.norms, self.embeddings, self.rest))

    @property
    def varies(self) -> bool:
        """See Codec.varies."""
        return any(codec.varies for codec in (self.norms, self.embeddings, self.rest))

    @property
    def by_shape(self) -> bool:
        """It does."""
        return True

    def under_feedback(self) -> Codec:
        """See Codec.under_feedback."""
        return ByRole(*(codec.under_feedback() for codec in (self.norms, self.embeddings, self.rest)))

    def init(self, like: Tensor) -> Any:
        """See Codec.init."""
        return self.of("", like.shape).init(like)

    def encode(self, tensor: Tensor, state: Any) -> tuple[Packet, Any]:
        """See Codec.encode."""
        return self.of("", tensor.shape).encode(tensor, state)

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        return self.of("", shape).wire_bytes(shape, dtype)


def for_parameter(codec: Codec, name: str, shape: Sequence[int]) -> Codec:
    """What the codec is for a parameter of that name."""
    if isinstance(codec, (ErrorFeedback, Zstd)):
        return replace(codec, codec=for_parameter(codec.codec, name, shape))
    return for_parameter(codec.of(name, shape), name, shape) if isinstance(codec, ByRole) else codec


def bound(codec: Codec, names: Sequence[str], shapes: Sequence[Sequence[int]]) -> Codec:
    """The same codec for the vector (n,) of all parameters of these names and shapes, one behind the other."""
    if isinstance(codec, (ErrorFeedback, Zstd)):
        return replace(codec, codec=bound(codec.codec, names, shapes))
    if not codec.by_shape:
        return codec
    parts: list[tuple[Codec, Shape]] = []
    for name, shape in zip(names, shapes, strict=True):
        own, numel = for_parameter(codec, name, shape), math.prod(shape)
        alone = own.by_shape and len(shape) > 1
        if not alone and parts and parts[-1][0] == own and len(parts[-1][1]) == 1:
            numel += parts.pop()[1][0]
        parts.append((own, tuple(shape) if alone else (numel,)))
    return Bound(codec, tuple(parts))


@dataclass(frozen=True, repr=False)
class Bound:
    """Sends each part of a vector by a codec of its own, in its own shape. State: one a part. Made by `bound`."""

    codec: Codec
    parts: tuple[tuple[Codec, Shape], ...]

    def __repr__(self) -> str:
        return repr(self.codec)

    @property
    def needs_feedback(self) -> bool:
        """See Codec.needs_feedback."""
        return any(codec.needs_feedback for codec, _ in self.parts)

    @property
    def varies(self) -> bool:
        """See Codec.varies."""
        return any(codec.varies for codec, _ in self.parts)

    @property
    def by_shape(self) -> bool:
        """It takes vectors only."""
        return False

    def under_feedback(self) -> Codec:
        """See Codec.under_feedback."""
        return Bound(self.codec.under_feedback(), tuple((codec.under_feedback(), shape) for codec, shape in self.parts))

    def init(self, like: Tensor) -> tuple[Any, ...]:
        """See Codec.init."""
        return tuple(
            codec.init(part) for (codec, _), part in zip(self.parts, self._split(like.detach()), strict=True)
        )

    def encode(self, tensor: Tensor, state: tuple[Any, ...]) -> tuple[Packet, tuple[Any, ...]]:
        """See Codec.encode."""
        pieces, after = [], []
        for (codec, _), part, own in zip(self.parts, self._split(tensor.detach()), state, strict=True):
            packet, next_state = codec.encode(part, own)
            pieces += pieces_of(packet)
            after.append(next_state)
        return packet_of(pieces, name_of(tensor.dtype), tuple(tensor.shape)), tuple(after)

    def wire_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """See Codec.wire_bytes."""
        sizes = [codec.wire_bytes(own, dtype) for codec, own in self.parts]
        return len(header((Pieces().stamp,), name_of(dtype), tuple(shape))) + joined_bytes(sizes)

    def _split(self, flat: Tensor) -> list[Tensor]:
        sizes = [math.prod(shape) for _, shape in self.parts]
        if tuple(flat.shape) != (sum(sizes),):
            raise CodecError(f"codec {self!r} is for a vector of {sum(sizes)} parameters, not {tuple(flat.shape)}")
        parts = torch.split(flat, sizes)
        return [part.view(shape) for part, (_, shape) in zip(parts, self.parts, strict=True)]

"""What a learner's codec makes of what leaves, and where that stays which its packets lose.

Of gradients it stays with the codec (ErrorFeedback). Of changes it stays in the learner's model: it is handed back, and is
again a part of the change that is not sent. So the next steps start from all that the learner has found, not only from what
got through (docs/decisions/0013). No threads, no sockets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plesio.codecs import ErrorFeedback, Link, Packet, lost, parse, told, with_feedback
from plesio.codecs.states import holds_back
from plesio.runtime.fragments import Layout

EXACT = (torch.float32, torch.float64)  # parameters that can hold what is much smaller than they are


class Encoder:
    """Of changes, or of gradients, of a model of that layout. Owns the codec's state. Raises UserError for a bad text."""

    def __init__(self, text: str, changes: bool, layout: Layout) -> None:
        codec = with_feedback(layout.bound(parse(text)))
        self.codec, self.decay = codec, 0.0  # decay: of what is handed back; 0: nothing is
        if changes and layout.dtype in EXACT and isinstance(codec, ErrorFeedback):
            self.codec, self.decay = codec.codec, codec.decay
        self.state: Any = None

    def encode(self, value: Tensor, link: Link | None = None) -> tuple[Packet, Tensor | None]:
        """(the packet, what it lost and the model keeps). value: (n,), handed over. Raises CodecError."""
        if self.state is None:
            self.state = self.codec.init(value)
        if link is not None:
            self.state = told(self.codec, self.state, link)
        packet, self.state = self.codec.encode(value, self.state)
        return packet, lost(self.codec, packet, value).mul_(self.decay) if self.decay else None

    def drop(self) -> bool:
        """Begins anew. Had feedback kept something?"""
        kept, self.state = holds_back(self.state), None
        return kept

"""Tensors to bytes and back: the one room below the runtime that knows torch.

packets: what travels. base: the contract. reading: the receiver. blocks: what quantisers share, kernels: their compiled
loops. picks: what those share that send only some values. compose: chains and error feedback. text: codecs by name. Each
other file is one registered codec, or a few. docs/codecs.md: how to write one.
"""

from plesio.codecs.base import Codec, Stage
from plesio.codecs.compose import Chain, ErrorFeedback, with_feedback, without_feedback
from plesio.codecs.packets import Packet, dtype_of
from plesio.codecs.reading import accumulate, decode, is_finite
from plesio.codecs.text import parse

__all__ = [
    "Chain",
    "Codec",
    "ErrorFeedback",
    "Packet",
    "Stage",
    "accumulate",
    "decode",
    "dtype_of",
    "is_finite",
    "parse",
    "with_feedback",
    "without_feedback",
]

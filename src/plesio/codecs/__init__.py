"""Tensors to bytes and back: the one room below the runtime that knows torch.

base: packets, the contract, the receiver. cast, int8: registered codecs. compose: chains and error feedback.
text: codecs by name.
"""

from plesio.codecs.base import Codec, Packet, accumulate, decode, dtype_of, is_finite
from plesio.codecs.compose import Chain, ErrorFeedback, with_feedback
from plesio.codecs.text import parse

__all__ = [
    "Chain",
    "Codec",
    "ErrorFeedback",
    "Packet",
    "accumulate",
    "decode",
    "dtype_of",
    "is_finite",
    "parse",
    "with_feedback",
]

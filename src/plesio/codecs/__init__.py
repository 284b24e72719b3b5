"""Tensors to bytes and back: the one room below the runtime that knows torch.

packets: what travels. base: the contract. reading: the receiver. blocks: what quantisers share, kernels: their compiled
loops. picks: what those share that send only some values. compose: chains and error feedback. stochastic: rounding by
chance; noise, chance and noisekernels: how. states: what feedback keeps, as named tensors. text: codecs by name. Each other
file is one registered codec, or a few. docs/codecs.md: how to write one.
"""

from plesio.codecs.base import Codec, Stage
from plesio.codecs.compose import Chain, ErrorFeedback, under_feedback, with_feedback
from plesio.codecs.packets import Packet, dtype_of
from plesio.codecs.reading import accumulate, decode, is_finite
from plesio.codecs.states import load_state, save_state
from plesio.codecs.stochastic import Stochastic
from plesio.codecs.text import parse

__all__ = [
    "Chain",
    "Codec",
    "ErrorFeedback",
    "Packet",
    "Stage",
    "Stochastic",
    "accumulate",
    "decode",
    "dtype_of",
    "is_finite",
    "load_state",
    "parse",
    "save_state",
    "under_feedback",
    "with_feedback",
]

"""Tensors to bytes and back: the one room below the runtime that knows torch.

packets: what travels. base: the contract. reading: the receiver; merging: of several packets at once. blocks: what
quantisers share. kernels: compiled loops. picks: what those share that send only some values. compose:
chains and error feedback. stochastic: rounding by chance; noise and chance: how. states: what feedback keeps,
as named tensors. pieces: packets of packets. lossless: zstd. roles: a codec for each kind of parameter. adaptive: by the
link. text: codecs by name. Each other file is one registered codec, or a few. docs/codecs.md: how to write one.
"""

from plesio.codecs.adaptive import Adaptive, Link, told
from plesio.codecs.base import Codec, Stage
from plesio.codecs.compose import Chain, ErrorFeedback, lost, with_feedback, without_feedback
from plesio.codecs.lossless import Zstd
from plesio.codecs.merging import merged
from plesio.codecs.packets import Packet, dtype_of
from plesio.codecs.reading import accumulate, decode, is_finite
from plesio.codecs.roles import ByRole, bound, for_parameter
from plesio.codecs.states import load_state, save_state
from plesio.codecs.stochastic import Stochastic
from plesio.codecs.text import parse

__all__ = [
    "Adaptive",
    "ByRole",
    "Chain",
    "Codec",
    "ErrorFeedback",
    "Link",
    "Packet",
    "Stage",
    "Stochastic",
    "Zstd",
    "accumulate",
    "bound",
    "decode",
    "dtype_of",
    "for_parameter",
    "is_finite",
    "load_state",
    "lost",
    "merged",
    "parse",
    "save_state",
    "told",
    "with_feedback",
    "without_feedback",
]

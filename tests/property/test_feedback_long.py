"""I5 in the long run: after 1,000 steps, sent and residual are what came in, to 1e-6; the residual stays small."""

from __future__ import annotations

import pytest
import torch

from plesio import registry
from plesio.codecs import ErrorFeedback, decode, parse

STEPS = 1000
CHAINS = [
    "topk(1/64)+int2", "topk(1/16)+sr(int4)", "randomk(1/8)+int8", "powersgd(2)+int8", "sr(int2)",
    "sr(codebook)", "sr(sign)", "adaptive", "byrole(rest=powersgd(2)+int8)", "sign+zstd",
]  # fmt: skip
LOSSY = [name for name in sorted(registry.CODECS) if parse(name).needs_feedback]
TEXTS = [*(f"ef({text})" for text in (*LOSSY, *CHAINS)), "ef(int4, 0.9)", "ef(sr(sign), 0.5)"]
pytestmark = pytest.mark.slow  # a minute


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_lost_in_a_thousand_steps(text: str) -> None:
    codec = parse(text)
    assert isinstance(codec, ErrorFeedback)
    draw, shape = torch.Generator().manual_seed(5), (20, 30)
    state = codec.init(torch.zeros(shape))
    came = torch.zeros(shape, dtype=torch.float64)
    went, most = came.clone(), 0.0
    for _ in range(STEPS):
        tensor = torch.randn(shape, generator=draw)
        packet, state = codec.encode(tensor, state)
        came = codec.decay * came + tensor.double()
        went = codec.decay * went + decode(packet).double()
        most = max(most, float(state.residual.norm()))
    assert float((went + state.residual.double() - came).norm()) <= 1e-6 * float(came.norm())
    assert 0 < most < 30 * 600**0.5, "else this says nothing, or feedback does not keep up with what comes"

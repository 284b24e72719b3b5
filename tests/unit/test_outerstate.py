"""What the server sends with a codec that loses something: the difference to what learners have stays small."""

from __future__ import annotations

import pytest
import torch

from plesio import codecs
from plesio.codecs.packets import Packet
from plesio.runtime.fragments import Layout, pack_state
from plesio.runtime.outerstate import OuterState


@pytest.mark.parametrize("downlink", ["int4", "sign", "sr(int4)", "sr(sign)"])
def test_learners_keep_up_with_the_server_s_model(downlink: str) -> None:
    draw = torch.Generator().manual_seed(1)
    state = OuterState(downlink)
    state.load(pack_state(Layout(["w"], [(3000,)], torch.float32), torch.zeros(3000), {}))
    learner = torch.zeros(3000)
    for _ in range(60):
        state.theta += torch.randn(3000, generator=draw)
        kind, data = state._send_change()
        assert kind == "delta"
        codecs.accumulate(Packet.from_bytes(data), learner, 1.0)
        assert torch.equal(learner, state.shadow)
    assert float((state.theta - learner).norm()) < 3 * 3000**0.5, "some steps' worth"

"""A round in the synchronizer: what becomes of parameters, momentum and the shadow, and in how much memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plesio.codecs import Packet, accumulate, decode, parse
from plesio.core.effects import CloseRound
from plesio.records import Version
from plesio.runtime.fragments import Layout, pack_state, unpack_state
from plesio.runtime.outerstate import OuterState
from plesio.strategies.base import Strategy
from plesio.strategies.presets import DiLoCo, Sync

VALUES = 600_001  # more than a piece
FACTORS = (0.5, 0.3, 0.2)
ORDER = CloseRound(Version(1, 1), (), FACTORS, 3, False, "", "")


def outer_of(downlink: str, dtype: torch.dtype = torch.float32) -> OuterState:
    state = OuterState(downlink)
    state.load(pack_state(Layout(["w"], [(VALUES,)], dtype), normal(0, dtype), {}))
    return state


def normal(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(VALUES, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pushes(text: str, dtype: torch.dtype = torch.float32) -> list[Packet]:
    return [parse(text).encode(normal(seed, dtype), parse(text).init(normal(seed, dtype)))[0] for seed in (1, 2, 3)]


def merged(state: OuterState, packets: list[Packet], strategy: Strategy) -> tuple[str, Tensor]:
    kind, data = state.merge(ORDER, packets, [b""] * 3, strategy)
    return kind, decode(Packet.from_bytes(data))


def mean(packets: list[Packet]) -> Tensor:
    return sum(f * decode(p).double() for f, p in zip(FACTORS, packets, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("text", ["int8", "topk(1/64)+int2", "randomk(1/8)", "none"])
def test_a_round_is_nesterov_with_the_weighted_mean(text: str) -> None:
    strategy, state, packets = DiLoCo(every=4), outer_of("none"), pushes(text)
    rate, momentum = strategy.outer.rate(3), strategy.outer.momentum
    theta, moved, delta = normal(0).double(), torch.zeros(VALUES, dtype=torch.float64), mean(packets)
    for _ in range(2):
        moved = momentum * moved + delta
        theta = theta - rate * (delta + momentum * moved)
        kind, sent = merged(state, packets, strategy)
        assert kind == "params"
        torch.testing.assert_close(state.theta.double(), theta, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state.momentum.double(), moved, rtol=1e-5, atol=1e-5)
        assert torch.equal(sent, state.theta)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_model_of_another_dtype_is_summed_in_no_fewer_bits_than_float32(dtype: torch.dtype) -> None:
    state, packets = outer_of("none", dtype), pushes("none", dtype)
    kind, sent = merged(state, packets, Sync())
    assert (kind, sent.dtype) == ("gradient", dtype)
    expected = torch.zeros(VALUES, dtype=torch.promote_types(dtype, torch.float32))
    for factor, packet in zip(FACTORS, packets, strict=True):
        expected.add_(decode(packet), alpha=factor)
    assert torch.equal(sent, expected.to(dtype))


def test_where_nothing_is_lost_on_the_way_down_the_model_is_held_once() -> None:
    state = outer_of("none")
    merged(state, pushes("int8"), DiLoCo(every=4))
    held = {each.data_ptr() for each in (state.theta, state.shadow, state.momentum, state._mean) if each.numel()}
    assert len(held) == 2, "parameters, which are the shadow, and momentum"
    assert torch.equal(unpack_state(state.dense())[1], state.theta)


def test_the_mean_of_gradients_is_let_go_when_local_steps_begin() -> None:
    state = outer_of("none")
    merged(state, pushes("int8"), Sync())
    assert state._mean.numel() == VALUES
    merged(state, pushes("int8"), DiLoCo(every=4))
    assert not state._mean.numel()


def test_a_shadow_of_what_was_lost_on_the_way_down_is_what_learners_have() -> None:
    state, theirs = outer_of("int8"), normal(0)
    for _ in range(3):
        kind, change = merged(state, pushes("int8"), DiLoCo(every=4))
        theirs += change
        assert kind == "delta"
        torch.testing.assert_close(unpack_state(state.dense())[1], theirs)
    assert not torch.equal(state.theta, theirs)


def test_a_resumed_run_gives_what_learners_had_until_its_next_round() -> None:
    """Its downlink lost something, and loses nothing now."""
    before = outer_of("int8")
    merged(before, pushes("int8"), DiLoCo(every=4))
    after = OuterState("none")
    after.load(before.dump())
    assert torch.equal(unpack_state(after.dense())[1], before.shadow)
    _, sent = merged(after, pushes("int8"), DiLoCo(every=4))
    assert torch.equal(unpack_state(after.dense())[1], sent)


@pytest.mark.parametrize("downlink", ["int4", "sign", "sr(int4)", "sr(sign)", "randomk(1/4)", "int4+zstd"])
def test_learners_keep_up_with_the_server_s_model(downlink: str) -> None:
    draw = torch.Generator().manual_seed(1)
    state = OuterState(downlink)
    state.load(pack_state(Layout(["w"], [(3000,)], torch.float32), torch.zeros(3000), {}))
    learner = torch.zeros(3000)
    for _ in range(60):
        state.theta += torch.randn(3000, generator=draw)
        kind, data = state._send_change()
        assert kind == "delta"
        accumulate(Packet.from_bytes(data), learner, 1.0)
        assert torch.equal(learner, state.shadow)
    assert float((state.theta - learner).norm()) < 3 * 3000**0.5, "some steps' worth"

"""Stochastic rounding: unbiased for every quantiser, and the same bytes wherever and however it is done."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plesio.codecs import Stochastic, decode, kernels, parse, stochastic
from plesio.codecs.int4 import Int4
from plesio.codecs.nf4 import NF4
from plesio.errors import CodecError, UserError

QUANTISERS = ["int8", "int8(48)", "int4", "int4(32)", "int2", "int2(32)", "nf4", "codebook", "sign", "sign(64)"]
CASTS = ["bf16", "fp16"]
DRAWS = 200
# A mean of DRAWS values that are at most one step apart is, but once in 10^9 times, so near to what is expected (Hoeffding):
NEAR = (np.log(2e9) / (2 * DRAWS)) ** 0.5


def mean_and_loss(text: str, tensor: Tensor, draws: int = DRAWS) -> tuple[Tensor, float]:
    """(the mean of so many packets in a row, the mean squared error of one), in float64."""
    codec = parse(text)
    state, total, lost = codec.init(tensor), torch.zeros(tensor.shape, dtype=torch.float64), 0.0
    for _ in range(draws):
        packet, state = codec.encode(tensor, state)
        back = decode(packet).double()
        total += back
        lost += float((back - tensor.double()).square().sum()) / draws
    return total / draws, lost


def bias(text: str, tensor: Tensor) -> float:
    """How far the mean is off, in units of what chance explains: near 1 without bias; of one that always rounds alike 14."""
    mean, lost = mean_and_loss(text, tensor)
    return float((mean - tensor.double()).norm() * (DRAWS / lost) ** 0.5)


def values(kind: str) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    normal = torch.randn(2001, generator=draw)
    others = {"heavy": normal**5, "tiny": normal * 1e-35, "positive": normal.abs() + 3, "half": normal.half()}
    return {"normal": normal, **others}[kind]


@pytest.mark.parametrize("kind", ["normal", "heavy", "tiny", "positive", "half"])
@pytest.mark.parametrize("inner", ["int8", "int4(32)", "int2", "nf4", "codebook", "sign(64)"])
def test_no_quantiser_is_biased(inner: str, kind: str) -> None:
    assert bias(f"sr({inner})", values(kind)) < 1.2


@pytest.mark.parametrize("inner", CASTS)
def test_no_cast_is_biased(inner: str) -> None:
    normal, denormal = values("normal"), values("normal") * 2.0**-20
    for tensor in (normal, denormal, normal.double()):
        assert bias(f"sr({inner})", tensor) < 1.2


@pytest.mark.parametrize("inner", [*QUANTISERS, *CASTS])
def test_rounding_to_the_nearest_would_be_told_from_it(inner: str) -> None:
    assert bias(inner, values("normal")) > 12


def widest_step(inner: str, tensor: Tensor) -> float:
    """Between neighbouring levels, relative to a block's largest magnitude."""
    if inner.startswith("codebook"):
        codec = parse(f"sr({inner})")
        head = codec.encode(tensor, codec.init(tensor))[0].payload[:64]
        return float(np.diff(np.frombuffer(head, np.float32)).max())
    return {"int8": 1 / 127, "int4": 1 / 7, "nf4": 0.31, "int2": 1.0, "sign": 2.0}[inner.split("(")[0]]


@pytest.mark.slow  # a minute
@settings(max_examples=40)
@given(
    st.sampled_from(["int8(8)", "int4(8)", "int2(8)", "nf4(8)", "codebook(16, 8)", "sign(8)"]),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=19),
)
def test_every_single_value_comes_back_in_the_mean(inner: str, row: list[float]) -> None:
    tensor = torch.tensor(row)
    mean, _ = mean_and_loss(f"sr({inner})", tensor)
    blocks_of = torch.nn.functional.pad(tensor, (0, -len(row) % 8)).view(-1, 8)
    tops = blocks_of.abs().max(1).values.double().repeat_interleave(8)[: len(row)]
    step = widest_step(inner, tensor) * tops * (1 + 2**-7)
    assert bool(((mean - tensor.double()).abs() <= NEAR * step + 1e-37).all())


@pytest.mark.parametrize("inner", QUANTISERS)
def test_blocks_of_zeros_stay_zeros(inner: str) -> None:
    tensor = torch.cat([torch.zeros(5 * 1024), torch.ones(1024), torch.zeros(7)])
    mean, _ = mean_and_loss(f"sr({inner})", tensor, 3)
    assert not bool(mean[: 5 * 1024].any()) and not bool(mean[6 * 1024 :].any())


@pytest.mark.parametrize("inner", ["int8", "int4", "nf4"])
def test_a_zero_among_others_stays_zero_where_that_is_a_level(inner: str) -> None:
    tensor = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    tensor[::3] = 0
    mean, _ = mean_and_loss(f"sr({inner})", tensor, 20)
    assert not bool(mean[::3].any())


@pytest.mark.parametrize(("inner", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_cast_keeps_what_it_can_hold_and_goes_to_a_neighbour_of_the_rest(inner: str, dtype: torch.dtype) -> None:
    exact = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    finite = exact[exact.isfinite()].float()
    assert torch.equal(decode(packets(f"sr({inner})", finite, 1)[0]), finite)
    special = decode(packets(f"sr({inner})", torch.tensor([torch.inf, -torch.inf, torch.nan]), 1)[0])
    assert special[:2].tolist() == [torch.inf, -torch.inf] and bool(special[2].isnan())
    ordered = finite.unique()
    between = ordered[:-1] + (ordered[1:] - ordered[:-1]) / 4
    low = torch.stack([decode(packet) for packet in packets(f"sr({inner})", between, 20)])
    assert bool(((low == ordered[:-1]) | (low == ordered[1:])).all())
    assert 0.74 < float((low == ordered[:-1]).double().mean()) < 0.76
    with pytest.raises(CodecError, match="beyond"):
        packets(f"sr({inner})", torch.tensor([3.4e38]), 1)


@pytest.mark.parametrize(("inner", "levels"), [("int8", 127), ("int4", 7)])
def test_what_is_on_a_level_stays_there(inner: str, levels: int) -> None:
    tensor = (torch.arange(256 * 20) % (2 * levels + 1) - levels).float() * 2
    for packet in packets(f"sr({inner})", tensor, 5):
        assert torch.equal(decode(packet), tensor)


def packets(text: str, tensor: Tensor, count: int) -> list:  # type: ignore[type-arg]
    codec, found = parse(text), []
    state = codec.init(tensor)
    for _ in range(count):
        packet, state = codec.encode(tensor, state)
        found.append(packet)
    return found


def sent(text: str, tensor: Tensor, count: int = 3) -> list[bytes]:
    return [packet.to_bytes() for packet in packets(text, tensor, count)]


DIGESTS = {
    "int8": "d185903b06c0679f",
    "int4": "ab28b409f13803f6",
    "int2": "cf31297cf6dfc6e5",
    "nf4": "2030cc0e1496bfb0",
    "sign": "9600bfd4124147b6",
}


@pytest.mark.parametrize("inner", DIGESTS)
def test_bytes_are_the_same_on_every_machine(inner: str) -> None:
    tensor = (torch.arange(10_001).float() - 3000) / 8192
    assert hashlib.sha256(b"".join(sent(f"sr({inner}, 5)", tensor))).hexdigest()[:16] == DIGESTS[inner]


@pytest.mark.parametrize("inner", [*QUANTISERS, *CASTS])
def test_each_tensor_and_each_seed_has_noise_of_its_own(inner: str) -> None:
    tensor = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    found = sent(f"sr({inner})", tensor) + sent(f"sr({inner}, 1)", tensor)
    assert len(set(found)) == 6
    assert sent(f"sr({inner}, 1)", tensor) == found[3:]


@pytest.mark.parametrize("inner", [*QUANTISERS, *CASTS])
def test_chunks_and_threads_do_not_show(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(700_001, generator=torch.Generator().manual_seed(1))
    text, threads = f"sr({inner})", torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = sent(text, tensor, 1)
        torch.set_num_threads(3)
        assert sent(text, tensor, 1) == alone
    finally:
        torch.set_num_threads(threads)
    few = tensor[:30_001]
    whole = sent(text, few, 1)
    monkeypatch.setattr(stochastic, "CHUNK", 1 << 12)
    assert sent(text, few, 1) == whole
    monkeypatch.setattr(kernels, "on_cpu", lambda name: None)
    assert sent(text, few, 1) == whole


def test_other_values_have_other_noise_at_the_same_place() -> None:
    halves = torch.full((5000,), 0.5)
    halves[::256] = 127
    up = [decode(packets("sr(int8)", halves + shift, 1)[0]) - (halves + shift) > 0 for shift in (0, -2)]
    same = (up[0] == up[1]).float().mean()
    assert 0.4 < float(same) < 0.6, "learners that have the same seed would all round the same places up"


@pytest.mark.parametrize("inner", ["int8", "int4", "int2", "nf4", "sign"])
def test_the_largest_of_a_block_is_reached(inner: str) -> None:
    tensor = torch.randn(4096, generator=torch.Generator().manual_seed(1)).cumsum(0)
    codec = parse(f"sr({inner})")
    back = torch.stack([decode(packet) for packet in packets(f"sr({inner})", tensor, 20)])
    assert float(back.abs().max()) >= float(tensor.abs().max())
    assert codec.needs_feedback, "one packet alone loses something"


def test_under_feedback_sign_keeps_its_own_scale() -> None:
    tensor = torch.randn(4096, generator=torch.Generator().manual_seed(1))
    expected = decode(packets("sign", tensor, 1)[0]).abs()
    assert torch.equal(decode(packets("ef(sr(sign))", tensor, 1)[0]).abs(), expected)
    assert torch.equal(decode(packets("ef(topk(1)+sr(sign))", tensor, 1)[0]).abs(), expected)
    assert bool((decode(packets("sr(sign)", tensor, 1)[0]).abs() > expected).all())


def test_text_names_it() -> None:
    assert parse("sr( int4 , 7)") == Stochastic(Int4(), 7) != parse("sr(int4)")
    for text in ("sr(int4)", "sr(int4(32), 7)", "ef(topk(1/64)+sr(codebook(16, 32), 3), 0.9)", "ef(sr(sign))"):
        assert repr(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["sr", "sr()", "sr(topk)", "sr(none)", "sr(powersgd)", "sr(randomk)", "sr(sr(int4))", "sr(ef(int4))",
     "sr(int8+int4)", "sr(int4, -1)", "sr(int4, 0.5)", "sr(int4, x)", "sr(int4, 1, 2)", f"sr(int4, {1 << 63})"],
)  # fmt: skip
def test_what_is_no_quantiser_or_no_seed_is_the_users_mistake(text: str) -> None:
    with pytest.raises(UserError):
        parse(text)


def test_nan_is_refused_by_name() -> None:
    with pytest.raises(CodecError, match=r"sr\(int4\).*NaN"):
        packets("sr(int4)", torch.tensor([1.0, float("nan")]), 1)


@dataclass(frozen=True, repr=False)
class Backwards(NF4):
    """A quantiser of somebody else: from +6 down to -9, by code."""

    def levels(self, head: Any) -> Tensor:
        return torch.arange(6, -10, -1, dtype=torch.float32)


@dataclass(frozen=True, repr=False)
class OneSided(NF4):
    def levels(self, head: Any) -> Tensor:
        return torch.arange(16, dtype=torch.float32)


def test_levels_may_be_in_any_order_and_lie_on_both_sides_of_0(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    codec = Stochastic(Backwards())
    data = codec.encode(tensor)[0].payload
    found = torch.stack([torch.zeros_like(tensor) for _ in range(DRAWS)])
    state = codec.init(tensor)
    for at in range(DRAWS):
        packet, state = codec.encode(tensor, state)
        Backwards().read_into(packet.payload, found[at])
    lost = float((found - tensor).double().square().mean(0).sum())
    assert float((found.double().mean(0) - tensor).norm()) < 1.2 * (lost / DRAWS) ** 0.5
    monkeypatch.setattr(kernels, "on_cpu", lambda name: None)
    assert bytes(codec.encode(tensor)[0].payload) == bytes(data)
    with pytest.raises(CodecError, match="both sides of 0"):
        Stochastic(OneSided()).encode(tensor)

"""Packets merged by pieces are packets added one after the other, and a step by pieces is a step, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plesio import codecs
from plesio.codecs import Packet, kernels, merging, parse
from plesio.codecs.merging import merged, sums_dtype
from plesio.errors import CodecError
from plesio.strategies import outer
from plesio.strategies.base import Outer

TEXTS = [
    "none", "bf16", "fp16", "int8", "int8(3)", "int8(64)", "bf16+int8", "int4", "int4(8)", "int2(8)", "nf4", "codebook",
    "sign", "sign(8)", "topk", "topk(1/3)", "topk(1/64)+int2", "topk(3/4096)+int8(5)", "randomk(1/8)", "powersgd(1)",
]  # fmt: skip
SMALL = 1 << 14  # values a piece, in place of 2^19: many pieces of few values
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
shapes = st.one_of(
    st.integers(0, 70_000).map(lambda n: (n,)),
    st.sampled_from([(), (0,), (1,), (4096,), (SMALL,), (SMALL + 1,), (3 * SMALL,), (130, 70), (7, 0, 3), (40, 33, 30)]),
)
weights = st.lists(st.sampled_from([1.0, 0.125, 1 / 3, 0.7, 0.0, -0.5, 1e-20]), min_size=1, max_size=9)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def packets_of(texts: list[str], shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> list[Packet]:
    draw, found = torch.Generator().manual_seed(seed), []
    for text in texts:
        codec, tensor = parse(text), torch.randn(shape, generator=draw).to(dtype)
        found.append(codec.encode(tensor, codec.init(tensor))[0])
    return found


def added(packets: list[Packet], factors: list[float]) -> Tensor:
    """(numel,): the reference."""
    total = torch.zeros(packets[0].shape, dtype=sums_dtype(packets))
    for packet, factor in zip(packets, factors, strict=True):
        codecs.accumulate(packet, total, factor)
    return total.view(-1)


def gathered(packets: list[Packet], factors: list[float]) -> tuple[Tensor, int]:
    """(the sums, of how many pieces)."""
    pieces = [(start, sums.clone()) for start, sums in merged(packets, factors)]
    ends = [start + len(sums) for start, sums in pieces]
    assert [start for start, _ in pieces] == [0, *ends[:-1]][: len(pieces)], "pieces follow one another"
    return torch.cat([torch.empty(0, dtype=sums_dtype(packets)), *(sums for _, sums in pieces)]), len(pieces)


@settings(max_examples=250)
@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS), shapes, st.sampled_from(DTYPES), weights, st.integers(0, 99))
def test_pieces_are_the_sum_in_the_order_of_the_packets(
    text: str, other: str, shape: tuple[int, ...], dtype: torch.dtype, factors: list[float], seed: int
) -> None:
    packets = packets_of([*[text] * (len(factors) - 1), other], shape, dtype, seed)
    expected = added(packets, factors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "PIECE", SMALL)
        found, _ = gathered(packets, factors)
        assert torch.equal(found, expected)
        whole = torch.full_like(expected, torch.nan)
        for start, sums in merged(packets, factors, whole):
            assert not sums.numel() or sums.data_ptr() == whole[start:].data_ptr()
        assert torch.equal(whole, expected)


@pytest.mark.parametrize("text", TEXTS)
def test_what_can_be_read_by_pieces_is_and_what_cannot_is_not_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "PIECE", SMALL)
    adds: list[Any] = []
    monkeypatch.setattr(merging, "accumulate", lambda *one: (adds.append(one), codecs.accumulate(*one)))
    packets = packets_of([text] * 3, (SMALL * 2 + 5,), torch.float32, 0)
    found, pieces = gathered(packets, [0.5, 0.25, 0.25])
    assert torch.equal(found, added(packets, [0.5, 0.25, 0.25]))
    assert pieces == 3
    assert len(adds) == (3 if text.startswith(("randomk", "powersgd")) else 0), "as a whole"


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("text", ["int8", "int8(48)", "int4", "topk(1/2)+int8"])
def test_compiled_sums_are_those_of_torch(text: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.on_cpu("blocks") is not None, "numba is installed"
    packets, factors = packets_of([text] * count, (70_001,), torch.float32, 1), [0.3 / (n + 1) for n in range(count)]
    found, _ = gathered(packets, factors)
    monkeypatch.setattr(kernels, "on_cpu", lambda name: None)
    torch.testing.assert_close(found, gathered(packets, factors)[0], rtol=1e-6, atol=1e-6)


def test_a_code_that_is_never_written_is_read_alike() -> None:
    """-128 of a stranger's int8."""
    (packet,) = packets_of(["int8"], (8192,), torch.float32, 2)
    data = bytearray(packet.to_bytes())
    data[-8192:] = b"\x80" * 8192
    strange = [Packet.from_bytes(bytes(data))] * 4
    assert torch.equal(gathered(strange, [0.25] * 4)[0], added(strange, [0.25] * 4))


def test_two_threads_make_the_same_sums() -> None:
    packets, factors = packets_of(["int8"] * 5, ((1 << 21) + 77,), torch.float32, 3), [0.2] * 5
    expected, many = gathered(packets, factors)
    torch.set_num_threads(2)
    try:
        found, fewer = gathered(packets, factors)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found, expected)
    assert fewer < many


def test_packets_of_two_shapes_are_refused_before_anything_is_added() -> None:
    packets = [*packets_of(["none"], (4,), torch.float32, 0), *packets_of(["none"], (5,), torch.float32, 0)]
    total = torch.full((4,), 7.0)
    with pytest.raises(CodecError, match="cannot be merged"):
        next(merged(packets, [0.5, 0.5], total))
    assert total.tolist() == [7.0] * 4


@settings(max_examples=100)
@given(
    st.integers(0, 3000),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([None, 0.7, 1.0]),
)
def test_a_step_is_its_formula_and_a_step_by_pieces_the_same_step(
    numel: int, blocks_of: int, dtype: torch.dtype, momentum: float, rate: float | None
) -> None:
    draw, rule = torch.Generator().manual_seed(numel), Outer(lr=rate, momentum=momentum)
    theta, moved = (torch.randn(numel, generator=draw).to(dtype) for _ in range(2))
    delta = torch.randn(numel, generator=draw).to(torch.promote_types(dtype, torch.float32))
    lr = rule.rate(3)
    next_moved = momentum * moved.double() + delta.double() if momentum else moved.double()
    step = delta.double() + momentum * next_moved if momentum else delta.double()
    in_one, in_pieces = ([theta.clone(), moved.clone()] for _ in range(2))
    outer.step(rule, *in_one, delta, 3)
    for start in range(0, numel, size := merging.ALIGNED * blocks_of):
        outer.step(rule, *(each[start : start + size] for each in in_pieces), delta[start : start + size], 3)
    assert all(torch.equal(one, other) for one, other in zip(in_one, in_pieces, strict=True))
    exact = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 0.06, torch.float16: 0.008}[dtype]
    torch.testing.assert_close(in_one[0].double(), theta.double() - lr * step, rtol=exact, atol=exact)
    torch.testing.assert_close(in_one[1].double(), next_moved, rtol=exact, atol=exact)

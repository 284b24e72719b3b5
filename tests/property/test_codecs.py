"""Feedback telescopes on any inputs, and no bytes do worse than a CodecError."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plesio.codecs import Packet, decode, is_finite, parse
from plesio.errors import CodecError

values = st.floats(-1e4, 1e4, width=32)
runs = st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(values, min_size=n, max_size=n), min_size=1, max_size=8))
# the residual is float32 even for bfloat16 inputs, so what bfloat16 rounds away is kept too
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-2, torch.bfloat16: 1e-2}
whole = st.sampled_from(
    ["none", "bf16", "fp16", "int8(4)", "bf16+int8(4)", "int4(8)", "int2(8)", "nf4(8)", "codebook(16, 8)", "sign(8)",
     "topk(1/2)", "topk(1/4)+int2(8)", "randomk(1/2)", "randomk(1/3)+int8(4)", "powersgd(1)"]
)  # fmt: skip


@settings(max_examples=150)
@given(runs, whole, st.sampled_from([1.0, 0.9, 0.5]), st.sampled_from(list(TOLERANCES)))
def test_what_was_sent_and_the_residual_are_what_came_in(
    inputs: list[list[float]], inner: str, decay: float, dtype: torch.dtype
) -> None:
    codec = parse(f"ef({inner}, {decay})")
    state = codec.init(torch.zeros(len(inputs[0]), dtype=dtype))
    came = torch.zeros(len(inputs[0]), dtype=torch.float64)
    went = came.clone()
    for row in inputs:
        tensor = torch.tensor(row, dtype=dtype)
        packet, state = codec.encode(tensor, state)
        came = decay * came + tensor.double()
        went = decay * went + decode(packet).double()
    torch.testing.assert_close(went + state.residual.double(), came, rtol=0, atol=TOLERANCES[dtype])


def test_feedback_keeps_what_one_step_is_too_coarse_to_send() -> None:
    codec = parse("ef(int8)")
    tensor = torch.tensor([127.0, 0.1])
    state, total = codec.init(tensor), torch.zeros(2)
    for _ in range(100):
        packet, state = codec.encode(tensor, state)
        total += decode(packet)
    assert abs(total[1].item() - 10.0) <= 0.6


def packet_bytes(text: str, tensor: Tensor) -> bytes:
    codec = parse(text)
    return codec.encode(tensor, codec.init(tensor))[0].to_bytes()


samples = [
    packet_bytes(text, torch.arange(12, dtype=dtype).view(3, 4) - 5)
    for text in (
        "none", "bf16", "fp16", "int8(4)", "bf16+int8", "int4(8)", "int2(8)", "nf4(8)", "codebook(16, 8)", "sign(8)",
        "topk(1/4)", "topk(1/2)+int4(8)", "randomk(1/2)", "powersgd(1)", "powersgd(1)+int8(4)",
    )
    for dtype in (torch.float32, torch.float16)
]  # fmt: skip


def decode_or_refuse(data: bytes) -> None:
    try:
        packet = Packet.from_bytes(data)
    except CodecError:
        return
    back = decode(packet)
    assert tuple(back.shape) == packet.shape
    assert is_finite(packet) == bool(back.isfinite().all())


@settings(max_examples=600)
@given(
    st.sampled_from(samples),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(0, 200),
    st.binary(max_size=4),
)
def test_mutated_bytes_decode_or_are_refused(
    data: bytes, changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    mutated = bytearray(data)
    for at, byte in changes:
        mutated[at % len(mutated)] = byte
    decode_or_refuse(bytes(mutated[: max(cut, 0)] if cut % 3 == 0 else mutated) + tail)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    decode_or_refuse(data)


@pytest.mark.parametrize("at", range(len(samples)))
def test_every_single_byte_flip_decodes_or_is_refused(at: int) -> None:
    for index in range(len(samples[at])):
        for flip in (0x01, 0x80, 0xFF):
            mutated = bytearray(samples[at])
            mutated[index] ^= flip
            decode_or_refuse(bytes(mutated))

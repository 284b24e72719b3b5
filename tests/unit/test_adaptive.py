"""As many bits as the link has time for, and no fewer than the error budget asks for."""

from __future__ import annotations

import queue
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plesio.codecs import Link, Packet, bound, decode, parse, told, with_feedback
from plesio.codecs.adaptive import CLIMB, FIRST, LADDER, SHARE, Choice, fitting
from plesio.records import Contribution, Version
from plesio.runtime.coding import Coding
from plesio.runtime.fragments import Layout

NORMAL = torch.randn(1 << 16, generator=torch.Generator().manual_seed(1))
BITS = [8 * codec.wire_bytes(NORMAL.shape, NORMAL.dtype) / len(NORMAL) for codec in LADDER]


def sent_by(text: str, bytes_per_s: float, window_s: float = 1.0, tensor: torch.Tensor = NORMAL) -> Packet:
    codec = parse(text)
    state = told(codec, codec.init(tensor), Link(bytes_per_s, window_s))
    return codec.encode(tensor, state)[0]


def rung_of(packet: Packet) -> str:
    return "+".join(name for name, _ in packet.stages)


def test_the_ladder_goes_from_fine_to_coarse() -> None:
    assert sorted(BITS, reverse=True) == BITS and BITS[0] > 15 and BITS[-1] < 0.3


def test_a_fast_link_gets_fine_packets_and_a_slow_one_coarse_ones() -> None:
    size = len(NORMAL) * 4
    assert rung_of(sent_by("adaptive", 10 * size)) == "bf16"
    assert rung_of(sent_by("adaptive", size * 0.6)) == "int8"
    assert rung_of(sent_by("adaptive", size * 0.6, window_s=0.5)) == "int4"
    assert rung_of(sent_by("adaptive", size * 0.08)) == "sign"
    assert rung_of(sent_by("adaptive(1)", size * 0.02)) == "topk+int2"
    codec = parse("adaptive")
    assert rung_of(codec.encode(NORMAL, codec.init(NORMAL))[0]) == "int8", "of a link that nobody has measured"


def test_the_error_budget_is_kept_whatever_the_link() -> None:
    for budget, rung in (
        (1.0, "topk+int2"),
        (0.4, "sign"),
        (0.2, "int2"),
        (0.05, "int4"),
        (0.001, "int8"),
        (1e-6, "bf16"),
    ):
        packet = sent_by(f"adaptive({budget})", 1.0)
        assert rung_of(packet) == rung
        lost = (decode(packet) - NORMAL).square().sum() / NORMAL.square().sum()
        assert lost <= 1.05 * budget or rung == "bf16"


def test_what_decides_is_the_tensor_not_the_codec() -> None:
    few = torch.zeros(1 << 16)
    few[::1024] = 1.0
    assert rung_of(sent_by("adaptive(0.01)", 1.0, tensor=few)) == "topk+int2"


@given(st.floats(1, 1e9), st.floats(1e-3, 1e3), st.integers(0, len(LADDER) - 1))
def test_what_is_taken_fits_or_is_the_coarsest_and_stays_while_the_link_does(
    rate: float, window_s: float, last: int
) -> None:
    sizes = [int(bits * 1e4) for bits in BITS]
    rung = fitting(sizes, Choice(rate, window_s, last))
    room = rate * window_s * SHARE
    assert sizes[rung] <= room or rung == len(sizes) - 1
    assert rung >= last or sizes[rung] <= CLIMB * room
    assert fitting(sizes, Choice(rate, window_s, rung)) == rung
    assert fitting(sizes, Choice(rung=last)) == last


@pytest.mark.parametrize("text", ["ef(adaptive, 0.5)", "adaptive+zstd", "byrole(norms=none, rest=adaptive)"])
def test_wrapped_ones_are_told_too(text: str) -> None:
    whole = with_feedback(bound(parse(text), ["a"], [(256, 256)]))
    slow = told(whole, whole.init(NORMAL), Link(1.0, 1.0))
    coarse = whole.encode(NORMAL, slow)[0].to_bytes()
    fine = whole.encode(NORMAL, whole.init(NORMAL))[0].to_bytes()
    assert len(coarse) < len(fine) / 4
    other = parse("ef(int8)")
    state = other.init(NORMAL)
    assert told(other, state, Link(1.0, 1.0)).inner is None


class SlowLink:
    """A link that carries a byte a second, as is known before the first push: a state went over it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def bytes_per_s(self) -> float:
        return 1.0

    def push(self, message: Any, data: bytes) -> None:
        self.sizes.append(message.contribution.size_bytes)


def test_a_learner_tells_its_codec_what_its_link_does() -> None:
    link: Any = SlowLink()
    coding = Coding(link, queue.SimpleQueue())
    coding.use("adaptive", True, Layout(["w"], [(256, 256)], torch.float32))
    for seq in range(2):
        push = Contribution("run", "a", 1, seq, (Version(1, 0),), 1, 1)
        coding.push(push, NORMAL.clone(), b"", b"")
        coding.wait()
    coding.stop()
    assert FIRST == 1 and link.sizes[0] > 6 * link.sizes[1], "int8, then signs"

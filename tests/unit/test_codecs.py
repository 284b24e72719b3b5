"""Codec text, packets and state, case by case."""

from __future__ import annotations

import struct

import msgspec
import pytest
import torch

from plesio.codecs import Adaptive, ByRole, Chain, ErrorFeedback, Packet, Zstd, decode, parse, with_feedback
from plesio.codecs.cast import Bf16, Identity
from plesio.codecs.int4 import Int4
from plesio.codecs.int8 import Int8
from plesio.codecs.topk import TopK
from plesio.errors import CodecError, UnknownName, UserError


def test_text_names_codecs() -> None:
    assert parse("int8") == Int8(256)
    assert parse(" bf16 + int8( 128 ) ") == Chain(Bf16(), Int8(128))
    assert parse("ef(bf16+int8(128), 0.9)") == ErrorFeedback(Chain(Bf16(), Int8(128)), 0.9)
    assert parse("topk(1/64)+int4+zstd(3)") == Zstd(Chain(TopK(1 / 64), Int4()), 3)
    assert parse("ef(byrole(norms = none, rest=topk(1/64)+int4), 0.9)") == ErrorFeedback(
        ByRole(norms="none", rest=Chain(TopK(1 / 64), Int4())), 0.9
    )
    assert parse("adaptive") == Adaptive() != parse("adaptive(0.1)") == Adaptive(0.1)


@pytest.mark.parametrize(
    "text",
    ["int8+zstd", "none+zstd(19)", "ef(byrole(embeddings=powersgd(2)+int8, rest=int4(32)), 0.9)", "byrole()",
     "adaptive(0.05)", "byrole(rest=adaptive+zstd)"],
)  # fmt: skip
def test_text_is_what_repr_gives_back(text: str) -> None:
    assert repr(parse(text)) == text


def test_an_unknown_codec_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownName, match="codec 'int9' is unknown; did you mean 'int8'?"):
        parse("int9")


@pytest.mark.parametrize(
    "text",
    ["", "a(", "int8(0)", "int8(x)", "int8(1,2)", "int8(1000000)", "bf16(3)", "none+", "ef()", "ef",
     "ef(int8,2)", "ef(int8,nan)", "ef(int8,1,1)", "int8+ef(int8)", "ef(int8)+none(3)", "int8)",
     "ef(int8)+int8", "zstd+int8", "ef(int8)+zstd", "int8+zstd(0)", "int8+zstd(1,2)", "pieces", "byrole(int8)",
     "byrole(rest=)", "byrole(heads=int8)", "byrole(rest=ef(int8))",
     "byrole(rest=int8, rest=int8)", "adaptive(0)", "adaptive(x)", "adaptive(1, 2)", "adaptive+int8",
     "topk(1/4)+byrole()"],
)  # fmt: skip
def test_text_that_names_no_codec_is_the_users_mistake(text: str) -> None:
    with pytest.raises(UserError):
        parse(text)


def test_feedback_is_added_once_and_only_to_what_loses() -> None:
    assert with_feedback(Identity()) == Identity()
    assert with_feedback(Int8()) == ErrorFeedback(Int8())
    assert with_feedback(ErrorFeedback(Int8())) == ErrorFeedback(Int8())


def test_an_old_state_encodes_the_same_packet_again() -> None:
    codec = parse("ef(int8)")
    tensor = torch.linspace(-1, 1, 300)
    _, state = codec.encode(tensor, codec.init(tensor))
    first, _ = codec.encode(tensor, state)
    again, _ = codec.encode(tensor, state)
    assert first.to_bytes() == again.to_bytes()


def test_feedback_refuses_another_shape_than_its_residual() -> None:
    codec = parse("ef(int8)")
    with pytest.raises(CodecError, match="residual of shape"):
        codec.encode(torch.ones(1), codec.init(torch.ones(3)))


def test_a_chain_names_all_its_stages() -> None:
    codec = Chain(Bf16(), Int8(4))
    tensor = torch.randn(9)
    packet, state = codec.encode(tensor, codec.init(tensor))
    assert packet.stages == (("bf16", ()), ("int8", (4,)))
    assert state == (None, None)


def test_a_parameter_can_be_encoded() -> None:
    packet, _ = Int8().encode(torch.nn.Parameter(torch.full((3,), 127.0)))
    assert decode(packet).tolist() == [127.0, 127.0, 127.0]


def test_an_unaligned_buffer_decodes() -> None:
    packet, _ = Identity().encode(torch.arange(5.0))
    data = memoryview(b"x" + packet.to_bytes())[1:]
    assert decode(Packet.from_bytes(data)).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def packet(header: object, payload: bytes = b"") -> bytes:
    body = msgspec.msgpack.encode(header)
    return struct.pack("<I", len(body)) + body + payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff\xff",
        packet([2, [["none", []]], "float32", [1]], b"1234"),
        packet([1, [], "float32", [1]], b"1234"),
        packet([1, [["none", []]] * 9, "float32", [1]], b"1234"),
        packet([1, [["none", [1]]], "float32", [1]], b"1234"),
        packet([1, [["pickle", []]], "float32", [1]], b"1234"),
        packet([1, [["none", []]], "int32", [1]], b"1234"),
        packet([1, [["none", []]], "float32", [-1]], b"1234"),
        packet([1, [["none", []]], "float32", [1 << 40, 1 << 40, 0]]),
        packet([1, [["none", []]], "float32", [1 << 40]]),
        packet([1, [["none", []]], "float32", [2]], b"1234"),
        packet([1, [["none", []]], "float32", [1], 5], b"1234"),
        packet([1, [["int8", [1 << 62]]], "float32", [1]], b"12345"),
        packet([1, [["topk", []], ["none", []]], "float32", [1]], b"1234"),
        packet([1, [["randomk", [1, 2]], ["none", []]], "float32", [1]], b"1234"),
        packet([1, [["int8", [4]]], "float32", [1]], struct.pack("<fb", float("nan"), 1)),
        packet([1, [["int8", [4]]], "float32", [1]], struct.pack("<fb", -1.0, 1)),
        packet([1, [["int8", [4]]], "float32", [1]], struct.pack("<fb", 3e38, 1)),
        packet([1, [["int8", [4]]], "float16", [1]], struct.pack("<fb", 600.0, 1)),
    ],
)
def test_hostile_packets_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        Packet.from_bytes(data)

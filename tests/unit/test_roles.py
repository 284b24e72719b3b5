"""Codecs for the vector of all parameters: each part by a codec of its own, in one packet."""

from __future__ import annotations

import pytest
import torch

from plesio.codecs import ByRole, Packet, accumulate, bound, decode, for_parameter, is_finite, parse, with_feedback
from plesio.errors import CodecError

NAMES = ["wte.weight", "h.0.norm.weight", "h.0.norm.bias", "h.0.attention.weight", "h.0.attention.bias", "head.weight"]
SHAPES = [(50, 16), (16,), (16,), (16, 48), (48,), (50, 16)]
NUMEL = sum(torch.Size(shape).numel() for shape in SHAPES)


def vector() -> torch.Tensor:
    return torch.randn(NUMEL, generator=torch.Generator().manual_seed(1))


def parts(flat: torch.Tensor) -> list[torch.Tensor]:
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(torch.split(flat, sizes), SHAPES, strict=True)]


def test_names_and_shapes_tell_roles() -> None:
    codec = ByRole(norms="bf16", embeddings="int8", rest="int4")
    told = [repr(for_parameter(codec, name, shape)) for name, shape in zip(NAMES, SHAPES, strict=True)]
    assert told == ["int8", "bf16", "bf16", "int4", "bf16", "int4"]
    for name in ("tok_embeddings.weight", "transformer.wpe.weight", "model.embed_tokens.weight", "Embedding_0"):
        assert repr(for_parameter(codec, name, (4, 4))) == "int8", name
    for name in ("member.weight", "rest.weight", "wtest.weight"):
        assert repr(for_parameter(parse("ef(byrole(), 0.5)"), name, (4, 4))) in ("ef(int4, 0.5)", "ef(int8, 0.5)"), name


@pytest.mark.parametrize("text", ["byrole()", "byrole(norms=none, rest=powersgd(2)+int8)", "powersgd(2)", "int8+zstd"])
def test_each_part_is_what_its_own_codec_makes_of_it(text: str) -> None:
    flat, codec = vector(), parse(text)
    whole = bound(codec, NAMES, SHAPES)
    packet, _ = whole.encode(flat, whole.init(flat))
    data = packet.to_bytes()
    told = whole.wire_bytes(flat.shape, flat.dtype)
    assert len(data) == told or (whole.varies and len(data) < told)
    back = decode(Packet.from_bytes(data))
    if codec.by_shape:
        for name, shape, part, sent in zip(NAMES, SHAPES, parts(flat), parts(back), strict=True):
            own = for_parameter(codec, name, shape)
            assert torch.equal(decode(own.encode(part, own.init(part))[0]), sent), name
    total = torch.ones(NUMEL)
    accumulate(Packet.from_bytes(data), total, 0.5)
    torch.testing.assert_close(total, 1 + 0.5 * back)
    assert is_finite(packet) and repr(whole) == text


def test_neighbours_with_one_codec_are_one_piece_and_compressed_pieces_are_counted_once() -> None:
    whole = bound(parse("byrole(norms=int4, embeddings=int4)"), NAMES, SHAPES)
    flat = vector()
    alone = parse("int4").encode(flat)[0].payload
    packet, _ = whole.encode(flat, whole.init(flat))
    assert len(packet.payload) < len(alone) + 80
    plain, small = (bound(parse(text), NAMES, SHAPES) for text in ("byrole()", "byrole(rest=int4+zstd)+zstd"))
    values = [decode(codec.encode(flat, codec.init(flat))[0]) for codec in (plain, small)]
    assert torch.equal(*values)


def test_feedback_goes_around_all_parts_and_power_iterations_go_on_in_each() -> None:
    whole = with_feedback(bound(parse("powersgd(1)"), NAMES, SHAPES))
    flat = vector()
    state, came, went = whole.init(flat), torch.zeros(NUMEL), torch.zeros(NUMEL)
    for _ in range(10):
        packet, state = whole.encode(flat, state)
        came, went = came + flat, went + decode(packet)
    torch.testing.assert_close(went + state.residual, came, rtol=1e-4, atol=1e-4)
    assert (went - came).norm() < 8 * flat.norm(), "what one step cannot carry, later ones do"


def test_another_vector_is_refused() -> None:
    whole = bound(parse("byrole()"), NAMES, SHAPES)
    with pytest.raises(CodecError, match=f"vector of {NUMEL}"):
        whole.encode(torch.zeros(NUMEL - 1), whole.init(vector()))
    bad = vector()
    bad[-1] = float("nan")
    with pytest.raises(CodecError, match="NaN"):
        whole.encode(bad, whole.init(bad))

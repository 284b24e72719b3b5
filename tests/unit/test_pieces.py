"""Packets of packets: smaller where that pays, and nothing that a stranger sends takes more memory than it may."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
import zstandard

from plesio.codecs import Packet, decode, parse
from plesio.codecs.packets import header
from plesio.codecs.pieces import Piece, joined
from plesio.errors import CodecError

ZEROS = torch.zeros(1000)


def bytes_of(text: str, tensor: torch.Tensor) -> bytes:
    codec = parse(text)
    return codec.encode(tensor, codec.init(tensor))[0].to_bytes()


def pieces(*found: Piece, shape: tuple[int, ...] = (1000,), dtype: str = "float32") -> bytes:
    return header((("pieces", ()),), dtype, shape) + joined(found)


def compressed(data: bytes) -> Piece:
    return Piece(zstandard.ZstdCompressor().compress(data), len(data))


def test_what_gets_no_smaller_is_sent_as_it_is() -> None:
    noise = torch.randint(-(1 << 30), 1 << 30, (5000,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    noise = noise.view(torch.float32).nan_to_num(0.0)
    assert bytes_of("none+zstd", noise) == bytes_of("none", noise)
    normal = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    assert len(bytes_of("int8+zstd", normal)) < 0.97 * len(bytes_of("int8", normal))
    assert len(bytes_of("none+zstd", ZEROS)) < 200


def test_pieces_make_up_the_tensor() -> None:
    one, other = torch.arange(600.0), torch.arange(400.0)
    packet = Packet.from_bytes(pieces(compressed(bytes_of("none", one)), Piece(bytes_of("int8", other))))
    assert torch.equal(decode(packet)[:600], one)
    torch.testing.assert_close(decode(packet)[600:], other, rtol=0.01, atol=1.0)
    assert torch.equal(decode(Packet.from_bytes(packet.to_bytes())), decode(packet))


SOUND = bytes_of("none", ZEROS)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pieces(), "do not make up shape"),
        (pieces(Piece(SOUND), shape=(999,)), "do not make up shape"),
        (pieces(Piece(SOUND), dtype="float64"), "another dtype"),
        (pieces(Piece(SOUND[:-1])), "needs 4000 bytes"),
        (pieces(Piece(pieces(Piece(SOUND)))), "has pieces"),
        (pieces(compressed(pieces(Piece(SOUND)))), "has pieces"),
        (pieces(Piece(SOUND, 5)), "damaged"),
        (pieces(compressed(SOUND)._replace(before_bytes=len(SOUND) - 1)), "before it was compressed"),
        (pieces(Piece(compressed(SOUND).data[:-3], len(SOUND))), "damaged"),
        (pieces(compressed(bytes(1 << 20))), "too large"),
        (pieces(*[compressed(bytes(8000))] * 1000), "too large"),
        (pieces(Piece(SOUND)) + b"x", "not as long"),
        (header((("pieces", ()),), "float32", (1000,)) + b"\xff\xff\xff\xff", "too short"),
        (header((("pieces", ()),), "float32", (1000,)), "no number of pieces"),
        (header((("pieces", ()), ("none", ())), "float32", (1000,)) + joined([Piece(SOUND)]), "no other stage"),
        (header((("topk", (64,)), ("pieces", ())), "float32", (1000,)) + joined([Piece(SOUND)]), "no other stage"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(CodecError, match=why):
        Packet.from_bytes(data)


def test_pieces_within_pieces_end_at_the_first() -> None:
    data = SOUND
    for _ in range(2000):
        data = pieces(Piece(data))
    with pytest.raises(CodecError, match="has pieces"):
        Packet.from_bytes(data)


def test_few_bytes_that_stand_for_very_many_are_refused_before_they_are_made() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    tracemalloc.start()
    try:
        for told in (1 << 28, 1000):
            with pytest.raises(CodecError):
                Packet.from_bytes(pieces(Piece(bomb, told)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()

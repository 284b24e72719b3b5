"""Garbage for what reads packets: those of every codec, changed at random, and headers that claim anything.

Whatever comes is refused with CodecError, or it decodes to a tensor of the shape that it says; and what is held at a time
is bounded by that shape, which is itself bounded by the length of the bytes.
"""

from __future__ import annotations

import functools
import math
import random

import torch

from plesio import registry
from plesio.codecs import Packet, accumulate, bound, decode, dtype_of, is_finite, packets, parse
from plesio.errors import CodecError
from plesio.testing import fuzz

TEXTS = (
    *sorted(registry.CODECS), "int8(3)", "bf16+int8", "topk(1/4)+int4", "topk(1/16)+int2(8)", "randomk(1/3)+nf4",
    "topk+sign", "powersgd(1)+int8(4)", "powersgd(2)+topk(1/2)+int4", "randomk(1/2)+randomk(1/2)+codebook",
    "codebook+int2+int8", "byrole()", "byrole()+zstd", "int8+zstd", "topk(1/16)+int4+zstd", "none+zstd",
)  # fmt: skip
SHAPES = ((), (0,), (1,), (3, 4), (70,), (9, 33), (2, 3, 40), (4500,), (70, 90))
LARGEST_BYTES = 1 << 14  # of a payload that fits its header
MOST_VALUES = 1 << 22  # of a shape that a payload is made for


@functools.cache
def samples() -> tuple[bytes, ...]:
    """Valid packets; all have been read once, so that what reading needs is loaded."""
    found = []
    draw = torch.Generator().manual_seed(1)
    for text in TEXTS:
        codec = parse(text)
        for shape in SHAPES:
            for dtype in packets.FLOATS.values():
                tensor = torch.randn(shape, generator=draw).to(dtype)
                found.append(codec.encode(tensor, codec.init(tensor))[0].to_bytes())
        whole = bound(parse(text), ("a", "b", "wte"), ((9, 33), (70,), (70, 9)))  # in pieces, where it goes by shape
        tensor = torch.randn(9 * 33 + 70 + 630, generator=draw)
        found.append(whole.encode(tensor, whole.init(tensor))[0].to_bytes())
    assert all(map(read, found)), "each is valid"
    return tuple(found)


def packet(rng: random.Random) -> bytes:
    """Bytes, most often with something wrong."""
    how = rng.random()
    if how < 0.3:
        return claimed(rng)
    data = rng.choice(samples())
    return flipped(rng, data) if how < 0.7 else fuzz.changed(rng, data)


def flipped(rng: random.Random, data: bytes) -> bytes:
    """The same length, of which packets are refused that decode to something else than their shape."""
    out = bytearray(data)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(rng.choice([len(out), min(len(out), 80)]))
        out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256), out[at] ^ 1, out[at] ^ 0x80])
    return bytes(out)


def claimed(rng: random.Random) -> bytes:
    """Any header, and a payload, often as long as that header asks for."""
    stamps = tuple(_stamp(rng) for _ in range(rng.choice([1, 1, 2, 3, 9])))
    dtype = rng.choice([*packets.FLOATS, "int64"]) if rng.random() < 0.1 else rng.choice([*packets.FLOATS])
    shape = _numbers(rng, rng.choice([0, 1, 1, 2, 2, 3, 33]))
    size_bytes = _asked_for(stamps, dtype, shape)
    if size_bytes is None or rng.random() < 0.05:
        size_bytes = rng.randrange(60)
    payload = rng.randbytes(size_bytes) if rng.random() < 0.3 else bytes(size_bytes)
    return packets.header(stamps, dtype, shape) + (flipped(rng, payload) if payload else payload)


def _stamp(rng: random.Random) -> packets.Stamp:
    """Some codec's, most often with as many arguments as it takes."""
    if rng.random() < 0.03:
        return "int9", ()
    name = rng.choice([*registry.CODECS])
    usual: packets.Stamp = registry.load(registry.CODECS, "codec", name)().stamp
    count = len(usual[1]) if rng.random() < 0.9 else rng.randrange(3)
    return usual if rng.random() < 0.3 else (name, _numbers(rng, count))


def _numbers(rng: random.Random, count: int) -> tuple[int, ...]:
    kinds = ((1, 2, 4, 8, 16, 64, 128, 4096, 65536), range(70), range(3000), (*fuzz.NUMBERS, -1))
    return tuple(rng.choice(rng.choices(kinds, (4, 4, 2, 1))[0]) for _ in range(count))


def _asked_for(stamps: tuple[packets.Stamp, ...], dtype: str, shape: packets.Shape) -> int | None:
    """How long a payload these ask for; None where there is none, or it would be long."""
    if dtype not in packets.FLOATS or min(shape, default=0) < 0 or math.prod(shape) > MOST_VALUES:
        return None
    try:
        stages = [packets.stage(*stamp) for stamp in stamps]
        packets.check_order(stages)
        last = packets.layout(stages, shape, packets.FLOATS[dtype])[-1]
    except Exception:  # it is read next, and whatever else than a refusal comes of that is told
        return None
    size_bytes = last.offset + last.size_bytes
    return size_bytes if size_bytes <= LARGEST_BYTES else None


def read(data: bytes) -> bool:
    """Is it a packet? Raises what reading must not raise: for one that was taken, CodecError too."""
    try:
        found = Packet.from_bytes(data)
    except CodecError:
        return False
    back = decode(found)
    assert (tuple(back.shape), back.dtype) == (found.shape, dtype_of(found)), "it is of another shape or dtype"
    assert is_finite(found) == bool(back.isfinite().all()), "is_finite says something else"
    accumulate(found, back, 0.5)
    return True


def try_inputs(first: int, count: int) -> int:
    """See fuzz.try_inputs."""
    samples()
    return fuzz.try_inputs(first, count, lambda seed: read(packet(random.Random(seed))), shown)


def shown(seed: int) -> str:
    """The input of a seed, to look at."""
    return f"packet: {packet(random.Random(seed)).hex()}"


if __name__ == "__main__":
    fuzz.main(try_inputs)

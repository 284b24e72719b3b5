"""Garbage for what reads the network: valid messages, changed at random, and random bytes. Every input has a seed.

Whatever comes, the readers raise WireError or nothing, and never hold more than was announced as allowed.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import sys
import time
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from plesio.core import ledger
from plesio.errors import InternalError, ProtocolRefused, WireError
from plesio.wire import messages as m
from plesio.wire.frames import BEFORE_AUTH, HEADER, INBOX_BYTES, Inbox, Limits, header
from plesio.wire.greeting import PROTOCOL_VERSION, Greeting, read_greeting
from plesio.wire.parts import Assembler

LIMITS = (BEFORE_AUTH, Limits(1 << 12, 1 << 12), Limits(1 << 16, 1 << 20), Limits(1 << 18, 0))
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 65535, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
DIRECTIONS = {"to": get_args(m.ToCoordinator), "from": get_args(m.FromCoordinator), "bulk": get_args(m.Bulk)}
LARGEST_BYTES = 1 << 20
ATTEMPTS = 1000
GROWTH_BYTES = 256 << 20  # of this process, over all inputs


def sample(rng: random.Random, kind: Any) -> Any:
    """Some value of a message's field type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind)
        for _ in range(ATTEMPTS):
            with contextlib.suppress(ValueError):  # some values make no such record
                return kind(**{name: sample(rng, hints[name]) for name in kind.__struct_fields__})
        raise InternalError(f"{ATTEMPTS} samples of {kind.__name__} were all refused")
    if origin in (Union, types.UnionType, Literal):
        chosen = rng.choice(arguments)
        return chosen if origin is Literal else sample(rng, chosen)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(sample(rng, arguments[0]) for _ in range(rng.randrange(4)))
    if origin is tuple:
        return tuple(sample(rng, x) for x in arguments)
    if origin is dict:
        return {sample(rng, arguments[0]): sample(rng, arguments[1]) for _ in range(rng.randrange(3))}
    return _SIMPLE[kind](rng)


_SIMPLE: dict[Any, Callable[[random.Random], Any]] = {
    int: lambda rng: rng.choice(NUMBERS) if rng.random() < 0.3 else rng.randrange(-3, 1000),
    float: lambda rng: rng.choice([0.0, 1.5, -1.0, float("nan"), float("inf"), 1e308]),
    str: lambda rng: rng.choice(["", "learner-0", "int8", "é\n", "x" * 40]),
    bytes: lambda rng: rng.randbytes(rng.randrange(40)),
    bool: lambda rng: rng.random() < 0.5,
    type(None): lambda rng: None,
}


def changed(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few changes: flipped, replaced, cut out, put in, repeated, nested, cut off."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        how = rng.randrange(7)
        if how == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif how == 1 and out:
            out[at % len(out)] = rng.choice([0xC0, 0xC1, 0xC6, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF])
        elif how == 2:
            del out[at : at + rng.randrange(6)]
        elif how == 3:
            out[at:at] = rng.randbytes(rng.randrange(6))
        elif how == 4:
            out[at:at] = out[at : at + rng.randrange(20)]
        elif how == 5:
            out[at:at] = rng.choice([b"\x91", b"\x81\xa0", b"\xdd\xff\xff\xff\xff"]) * rng.choice([1, 3, 3000])
        else:
            del out[at:]
    return bytes(out)


def body(rng: random.Random, what: str) -> bytes:
    """A message of this kind ('greeting' or a direction), most often with something wrong."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    if what == "greeting":
        version = rng.choice([PROTOCOL_VERSION, PROTOCOL_VERSION, rng.choice(NUMBERS)])
        data = msgspec.msgpack.encode(Greeting(version, "a token", "learner", rng.choice(["control", "bulk"])))
    else:
        data = m.encode(sample(rng, rng.choice(DIRECTIONS[what])))
    return changed(rng, data) if rng.random() < 0.9 else data


def read_body(what: str, data: bytes) -> bool:
    """Is it accepted? Raises what a reader must not raise."""
    try:
        message = read_greeting(data) if what == "greeting" else m.decode(what, data)
    except (WireError, ProtocolRefused):
        return False
    if what == "bulk":
        Assembler(LARGEST_BYTES).place(data, len(data))
    if isinstance(message, m.Push):
        ledger.malformed(message.contribution)
    return True


def stream(rng: random.Random) -> bytes:
    """A few frames, of which most are as announced."""
    parts = []
    for _ in range(rng.randrange(1, 5)):
        content = rng.randbytes(rng.choice([0, 1, 30, 300, 5000])), rng.randbytes(rng.choice([0, 0, 1, 200, 5000]))
        announced = header(*map(len, content))
        if rng.random() < 0.2:
            announced = HEADER.pack(rng.choice(NUMBERS[:10]), rng.choice(NUMBERS))
        parts += [announced, *content]
    data = b"".join(parts)
    return changed(rng, data) if rng.random() < 0.3 else data


def read_stream(rng: random.Random, data: bytes) -> bool:
    """Feeds an inbox as a socket would, in pieces of any size. Is all of it accepted? Raises as `read_body`."""
    limits = rng.choice(LIMITS)
    inbox, view = Inbox(limits), memoryview(data)
    try:
        while view:
            space = inbox.space()
            size = min(len(space), len(view), rng.choice([1, 5, 12, 13, 100, 4096, 1 << 20]))
            assert size > 0, "no space for the next bytes"
            space[:size] = view[:size]
            view = view[size:]
            inbox.received(size)
            for got, payload in inbox.frames():
                assert len(got) <= limits.body_bytes and len(payload or b"") <= limits.payload_bytes
            assert len(inbox._buffer) <= max(INBOX_BYTES, HEADER.size + limits.body_bytes)
            assert inbox._payload is None or len(inbox._payload) <= limits.payload_bytes
    except WireError:
        return False
    return True


def try_input(seed: int) -> bool:
    """One input. Was it accepted? Raises what a reader must not raise."""
    rng = random.Random(seed)
    what = rng.choice(["stream", "greeting", *DIRECTIONS])
    return read_stream(rng, stream(rng)) if what == "stream" else read_body(what, body(rng, what))


def shown(seed: int) -> str:
    """The input of a seed, to look at."""
    rng = random.Random(seed)
    what = rng.choice(["stream", "greeting", *DIRECTIONS])
    return f"{what}: {(stream(rng) if what == 'stream' else body(rng, what)).hex()}"


def try_inputs(
    first: int, count: int, try_one: Callable[[int], bool] = try_input, show: Callable[[int], str] = shown
) -> int:
    """How many of these were accepted. Raises AssertionError naming the seed of an input that does harm."""
    accepted, before = 0, _peak_bytes()
    for seed in range(first, first + count):
        try:
            accepted += try_one(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed} raises {error!r}; {show(seed)}") from error
        if _peak_bytes() - before > GROWTH_BYTES:
            raise AssertionError(f"seed {seed} takes too much memory; {show(seed)}")
    return accepted


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(run: Callable[[int, int], int] = try_inputs) -> None:
    """python -m plesio.testing.fuzz --inputs 1000000"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None, help="of the first input; the others follow it")
    options = parser.parse_args()
    first = random.SystemRandom().randrange(1 << 48) if options.seed is None else options.seed
    print(f"inputs {first} to {first + options.inputs - 1}", flush=True)
    began_s = time.monotonic()
    try:
        accepted = run(first, options.inputs)
    except AssertionError as error:
        print(error)
        sys.exit(1)
    rate = options.inputs / (time.monotonic() - began_s)
    print(f"{options.inputs} inputs, {accepted} of them accepted, {rate:.0f} a second")


if __name__ == "__main__":
    main()

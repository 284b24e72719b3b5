"""The parser gives back what was framed, however it was cut, and answers garbage with WireError only."""

from __future__ import annotations

import random

import pytest

from plesio.errors import WireError
from plesio.wire.frames import BEFORE_AUTH, HEADER, INBOX_BYTES, Inbox, Limits, header

SMALL = Limits(body_bytes=1 << 16, payload_bytes=1 << 16)
Frames = list[tuple[bytes, bytes]]


def feed(inbox: Inbox, stream: bytes, cut: random.Random | None = None) -> Frames:
    """Gives the stream to the inbox as a socket would, in pieces of random sizes."""
    view, got = memoryview(stream), Frames()
    while view:
        space = inbox.space()
        assert len(space) > 0
        size = min(len(space), len(view), cut.choice([1, 7, 100, 10_000]) if cut else len(view))
        space[:size] = view[:size]
        view = view[size:]
        inbox.received(size)
        got += [(body, bytes(payload or b"")) for body, payload in inbox.frames()]
    return got


@pytest.mark.parametrize("seed", range(20))
def test_frames_come_back_whole_and_in_order_however_the_stream_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [(rng.choice([0, 1, 50, 9000]), rng.choice([0, 0, 1, 5000])) for _ in range(60)]
    frames = [(rng.randbytes(body), rng.randbytes(payload)) for body, payload in sizes]
    stream = b"".join(header(len(b), len(p)) + b + p for b, p in frames)
    assert feed(Inbox(SMALL), stream, rng) == frames
    assert feed(Inbox(SMALL), stream) == frames


def test_a_body_longer_than_the_inbox_arrives_and_its_room_is_given_back() -> None:
    inbox, body = Inbox(Limits()), random.Random(0).randbytes(5 * INBOX_BYTES + 3)
    assert feed(inbox, header(len(body), 2) + body + b"pp") == [(body, b"pp")]
    assert len(inbox.space()) == INBOX_BYTES


def test_a_large_payload_is_writable_memory_of_its_own() -> None:
    inbox, payload = Inbox(Limits()), random.Random(0).randbytes(3 << 20)
    stream, got = memoryview(header(1, len(payload)) + b"x" + payload), []
    while stream:
        space = inbox.space()
        size = min(len(space), len(stream))
        space[:size], stream = stream[:size], stream[size:]
        inbox.received(size)
        got += list(inbox.frames())
    [(body, view)] = got
    assert view is not None and not view.readonly and bytes(view) == payload


OVER = [(0, 1 << 63), (0, (8 << 30) + 1), ((16 << 20) + 1, 0), (2**32 - 1, 2**64 - 1)]


@pytest.mark.parametrize("lengths", OVER)
def test_lengths_over_the_limit_are_refused_before_anything_is_allocated(lengths: tuple[int, int]) -> None:
    inbox = Inbox(Limits())
    with pytest.raises(WireError):
        feed(inbox, HEADER.pack(*lengths))
    assert inbox._payload is None and len(inbox._buffer) == INBOX_BYTES


def test_a_stranger_gets_4_kib_and_no_payload() -> None:
    inbox = Inbox(BEFORE_AUTH)
    assert len(inbox.space()) == 4096 + HEADER.size
    assert feed(inbox, header(4096, 0) + bytes(4096)) == [(bytes(4096), b"")]
    with pytest.raises(WireError):
        feed(inbox, header(4097, 0))
    with pytest.raises(WireError):
        feed(Inbox(BEFORE_AUTH), header(0, 1))


def test_limits_change_between_two_frames_of_one_read() -> None:
    inbox, stream = Inbox(BEFORE_AUTH), header(1, 0) + b"a" + header(1, 3) + b"bccc"
    inbox.space()[: len(stream)] = stream
    inbox.received(len(stream))
    frames = inbox.frames()
    assert next(frames) == (b"a", None)
    inbox.limits = Limits()
    assert [(body, bytes(payload or b"")) for body, payload in frames] == [(b"b", b"ccc")]


def test_garbage_raises_wire_error_and_nothing_else() -> None:
    refused = 0
    for seed in range(2000):
        rng = random.Random(seed)
        stream = rng.randbytes(rng.randrange(2000))
        if seed % 2:  # headers that pass, then garbage
            stream = header(rng.randrange(300), rng.randrange(300)) + stream
        try:
            feed(Inbox(SMALL), stream, rng)
        except WireError:
            refused += 1
    assert refused > 1500

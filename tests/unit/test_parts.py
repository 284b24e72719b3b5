"""Messages in parts: whole in the end, whatever breaks in between, and nothing that does not follow is taken."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plesio.errors import WireError
from plesio.wire import parts
from plesio.wire.parts import Assembler, Have, Outgoing, Part


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 7)


@given(
    messages=st.lists(st.binary(max_size=60), min_size=1, max_size=5),
    breaks=st.lists(st.integers(1, 6), max_size=30),
)
def test_every_message_arrives_once_and_whole_over_connections_that_break(
    messages: list[bytes], breaks: list[int]
) -> None:
    """A break loses what is under way: the sender goes on with what the receiver says that it has."""
    waiting = [Outgoing(str(i), b"body %d" % i, data) for i, data in enumerate(messages)]
    assembler = Assembler(1000)
    came: list[tuple[bytes, bytes]] = []
    sent_bytes = 0
    while waiting:
        lasts = breaks.pop() if breaks else 1000
        have = assembler.have
        for outgoing in list(waiting):
            whole = None
            for part, piece in outgoing.parts(have):
                lasts -= 1
                if lasts < 0:
                    break
                sent_bytes += len(piece)
                whole = assembler.add(part, piece if len(piece) else None)
            if whole is None:
                break
            came.append((whole[0], bytes(whole[1])))
            waiting.remove(outgoing)
    assert came == [(b"body %d" % i, data) for i, data in enumerate(messages)]
    assert sent_bytes == sum(map(len, messages)), "nothing is sent twice"
    assert assembler.have == Have()


@given(
    messages=st.lists(st.binary(max_size=60), min_size=1, max_size=5),
    cuts=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), max_size=20),
)
def test_pieces_that_are_received_in_place_make_the_same_messages(
    messages: list[bytes], cuts: list[tuple[int, int]]
) -> None:
    """A cut, after so many parts, comes after so many bytes of a piece; what was received of that piece is garbage."""
    assembler = Assembler(1000)
    for number, data in enumerate(messages):
        outgoing, whole = Outgoing(str(number), b"body", data), None
        while whole is None:
            parts_left, garbage = cuts.pop() if cuts else (1000, 0)
            for part, piece in outgoing.parts(assembler.have):
                where = assembler.place(msgspec.msgpack.encode(part), len(piece)) if len(piece) else None
                if where is not None:
                    where[:garbage] = b"?" * len(where[:garbage])
                parts_left -= 1
                if parts_left < 0:
                    break
                if where is not None:
                    where[:] = piece
                whole = assembler.add(part, where)
        assert whole is not None and bytes(whole[1]) == data and whole[0] == b"body"


def test_no_place_for_what_is_no_part_or_does_not_follow() -> None:
    assembler = Assembler(1000)
    for body in (b"", b"\xc1", msgspec.msgpack.encode(Have()), msgspec.msgpack.encode(Part("1", 7, 20))):
        assert assembler.place(body, 7) is None
    first = Part("1", 0, 20, b"body")
    assert assembler.place(msgspec.msgpack.encode(first), 21) is None
    assert assembler.place(msgspec.msgpack.encode(first), 7) is not None
    assembler.add(first, memoryview(b"x" * 7))  # another piece than the one that was placed: it is copied
    assert assembler.have == Have("1", 7)
    assert assembler.place(msgspec.msgpack.encode(Part("1", 7, 20)), 14) is None


def test_another_message_in_between_starts_anew() -> None:
    assembler = Assembler(1000)
    first, second = Outgoing("1", b"a", b"x" * 20), Outgoing("2", b"b", b"y" * 10)
    assembler.add(*next(first.parts(Have())))
    for part, piece in second.parts(assembler.have):
        whole = assembler.add(part, piece)
    assert whole is not None and bytes(whole[1]) == b"y" * 10


@pytest.mark.parametrize(
    "part, size",
    [
        (Part("1", 7, 20), 7),  # nothing came before
        (Part("1", 0, 2000, b""), 7),  # over the limit
        (Part("1", 0, -1, b""), 7),
        (Part("1", 0, 5, b""), 7),  # longer than its message
        (Part("1", 0, 20, b""), 0),  # empty
    ],
)
def test_what_does_not_follow_is_refused(part: Part, size: int) -> None:
    with pytest.raises(WireError):
        Assembler(1000).add(part, memoryview(bytes(size)) if size else None)


def test_a_gap_or_another_total_is_refused() -> None:
    for part in (Part("1", 14, 20), Part("1", 7, 21), Part("2", 7, 20), Part("1", -7, 20)):
        assembler = Assembler(1000)
        assembler.add(Part("1", 0, 20, b""), memoryview(bytes(7)))
        with pytest.raises(WireError):
            assembler.add(part, memoryview(bytes(6)))

"""How records are cut into batches, and put together again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from plesio.batch.spans import BATCH_BYTES, WINDOW, Piece, cut


def chunks(raws: list[bytes], size: int) -> Iterator[list[Any]]:
    return (raws[i : i + size] for i in range(0, len(raws), size))


def echo(piece: Piece, dead: set[bytes]) -> tuple[bytes, list[tuple[int, bytes]]]:
    """What a worker returns whose function returns what it is given; these are dead."""
    out = b"".join(raw for raw in piece.raws if raw not in dead)
    return out, [(at, b"dead " + raw) for at, raw in enumerate(piece.raws) if raw in dead]


def lines(count: int, rng: random.Random) -> list[bytes]:
    return [f"{i}{'x' * rng.randrange(50)}\n".encode() for i in range(count)]


@pytest.mark.parametrize("sort_by_length", [False, True])
@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_halved_and_however_late_it_comes_the_order_is_the_input_s(
    seed: int, together: int, sort_by_length: bool
) -> None:
    rng = random.Random(seed)
    raws = lines(rng.randrange(1, 2 * WINDOW), rng)
    dead = set(rng.sample(raws, len(raws) // 10))
    out, buried, first = b"", b"", 5
    for pieces in cut(chunks(raws, 64), first, lambda index: index, 64, sort_by_length, lambda: together):
        span, todo = pieces[0].span, list(pieces)
        assert span.first == first and (sort_by_length or len(todo) == 1)
        while todo:
            piece = todo.pop(rng.randrange(len(todo)))
            if len(piece.raws) > 1 and rng.random() < 0.3:
                todo += piece.halves()
            else:
                span.done(piece, *echo(piece, dead))
        assert not span.open
        first += span.count
        assert span.after == first
        out, buried = out + span.out, buried + b"".join(span.dead)
    assert first == 5 + len(raws)
    assert out == b"".join(raw for raw in raws if raw not in dead)
    assert buried == b"".join(b"dead " + raw for raw in raws if raw in dead)


@pytest.mark.parametrize("sort_by_length", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_through_two_functions_each_record_is_once_in_its_place_or_dead_of_one_of_them(
    seed: int, sort_by_length: bool
) -> None:
    rng = random.Random(seed)
    raws = lines(rng.randrange(1, 2 * WINDOW), rng)
    gone = [set(rng.sample(raws, len(raws) // share)) for share in (10, 7)]
    gone[0] |= set(raws[64:128])  # a whole batch
    out, buried = b"", b""
    for pieces in cut(chunks(raws, 64), 0, lambda index: index, 64, sort_by_length, lambda: 1):
        span, todo = pieces[0].span, list(pieces)
        while todo:
            piece = todo.pop(rng.randrange(len(todo)))
            places = [raws[index] for index in (span.first + at for at in piece.positions)]
            assert list(piece.raws) == places
            if len(piece.raws) > 1 and rng.random() < 0.3:
                todo += piece.halves()
            elif piece.stage == 1:
                span.done(piece, *echo(piece, gone[1]))
            elif (following := span.went_on(piece, *echo(piece, gone[0]))) is not None:
                todo.append(following)
        assert not span.open
        out, buried = out + span.out, buried + b"".join(span.dead)
    assert out == b"".join(raw for raw in raws if raw not in gone[0] | gone[1])
    assert buried == b"".join(b"dead " + raw for raw in raws if raw in gone[0] | gone[1])


@pytest.mark.parametrize("sort_by_length", [False, True])
def test_each_record_is_named_by_its_place_in_the_input(sort_by_length: bool) -> None:
    raws = lines(200, random.Random(1))
    for pieces in cut(chunks(raws, 10), 0, lambda index: index, 10, sort_by_length):
        for piece in [*pieces[1:], *pieces[0].halves()]:
            index = piece.index()
            places = range(index, index + len(piece.raws)) if isinstance(index, int) else index
            assert [raws[place] for place in places] == piece.raws


def test_sorted_batches_are_of_similar_length_and_the_longest_come_first() -> None:
    raws = lines(1000, random.Random(2))
    [pieces] = cut(chunks(raws, 50), 0, lambda index: index, 50, True)
    sizes = [[len(raw) for raw in piece.raws] for piece in pieces]
    assert len(pieces) == 20 and [x for each in sizes for x in each] == sorted(map(len, raws), reverse=True)


def test_pieces_of_several_batches_are_bounded_in_bytes() -> None:
    raws = [b"x" * (BATCH_BYTES // 10 - 1) + b"\n"] * 20
    counts = [[len(piece.raws) for piece in pieces] for pieces in cut(chunks(raws, 2), 0, int, 2, False, lambda: 9)]
    assert counts == [[6], [6], [6], [2]]


def test_a_batch_of_large_records_is_cut_short() -> None:
    raws = [b"x" * (BATCH_BYTES // 2) + b"\n"] * 5
    [pieces] = cut(chunks(raws, 5), 0, lambda index: index, 5, False)
    assert [len(piece.raws) for piece in pieces] == [2, 2, 1]

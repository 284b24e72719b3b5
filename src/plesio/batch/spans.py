"""Records in the order of the input, cut into batches, and put together again when the batches are done. Pure.

A span is what is written at once: one batch, or a window of records that were sorted by length before they were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from plesio.batch.records import size_bytes

BATCH_BYTES = 1 << 20  # of raw records; a batch is cut there, however many it was to have
WINDOW, WINDOW_BYTES = 4096, 64 << 20  # records that are sorted together
Positions = range | list[int]


class Span:
    """Neighbours in the input. Owns what became of them. after: where the input goes on behind it."""

    def __init__(self, first: int, raws: Sequence[Any], after: Any) -> None:
        self.first = first
        self.count = len(raws)
        self.after = after
        self.open = 0  # pieces that are not done
        self.out = b""  # lines of results
        self.dead: list[bytes] = []  # lines
        self._lines: dict[int, bytes] = {}  # of pieces, by position
        self._dead: dict[int, bytes] = {}

    def went_on(self, piece: Piece, out: bytes, dead: Sequence[tuple[int, bytes]]) -> Piece | None:
        """A piece came back that another function follows: its results, as that one's records. None: all are dead."""
        lines = out.split(b"\n")[:-1]
        if not lines:
            self.done(piece, out, dead)
            return None
        gone = {piece.positions[at]: line for at, line in dead}
        there = [position for position in piece.positions if position not in gone] if gone else piece.positions
        self._dead.update(gone)
        self.open -= 1
        return Piece(self, there, [line + b"\n" for line in lines], piece.stage + 1)

    def done(self, piece: Piece, out: bytes, dead: Sequence[tuple[int, bytes]]) -> None:
        """A piece came back: lines of results, and (position in the piece, line) of those that are dead."""
        self.open -= 1
        if len(piece.raws) == self.count and isinstance(piece.positions, range):
            self.out, self.dead = out, [line for _, line in dead]
            return
        gone = {piece.positions[at]: line for at, line in dead}
        there = [position for position in piece.positions if position not in gone]
        self._dead.update(gone)
        self._lines.update(zip(there, out.split(b"\n")[:-1], strict=True))
        if not self.open:
            self.out = b"".join(self._lines[at] + b"\n" for at in sorted(self._lines))
            self.dead = [self._dead[at] for at in sorted(self._dead)]


class Piece:
    """Records of a span that are computed together. positions: theirs in the span. stage: which function they are for."""

    __slots__ = ("future", "lost", "positions", "raws", "span", "stage")

    def __init__(self, span: Span, positions: Positions, raws: Sequence[Any], stage: int = 0) -> None:
        self.span = span
        self.positions = positions
        self.raws = raws
        self.stage = stage
        self.future: Any = None
        self.lost = False  # once before
        span.open += 1

    def index(self) -> int | list[int]:
        """Of its first record in the input, or of each."""
        if isinstance(self.positions, range):
            return self.span.first + self.positions.start
        return [self.span.first + position for position in self.positions]

    def halves(self) -> list[Piece]:
        """In place of this one."""
        self.span.open -= 1
        middle = len(self.raws) // 2
        return [
            Piece(self.span, self.positions[part], self.raws[part], self.stage)
            for part in (slice(middle), slice(middle, None))
        ]


def cut(
    chunks: Iterable[list[Any]],
    first: int,
    after: Callable[[int], Any],
    batch: int,
    sort_by_length: bool,
    together: Callable[[], int] = lambda: 1,
) -> Iterator[list[Piece]]:
    """The pieces of one span after the other. chunks: of up to `batch` raw records; a span is made of several.

    first: index of the first record; after: where the input is at an index; together: how many batches a piece has now,
    where records are not sorted.
    """
    held: list[Any] = []
    held_bytes = 0
    for chunk in chunks:
        held += chunk
        held_bytes += sum(map(size_bytes, chunk))
        records, most_bytes = (WINDOW, WINDOW_BYTES) if sort_by_length else (batch * together(), BATCH_BYTES // 2)
        if len(held) >= records or held_bytes >= most_bytes:
            yield _pieces(Span(first, held, after(first + len(held))), held, batch, sort_by_length)
            first, held, held_bytes = first + len(held), [], 0
    if held:
        yield _pieces(Span(first, held, after(first + len(held))), held, batch, sort_by_length)


def _pieces(span: Span, raws: list[Any], batch: int, sort_by_length: bool) -> list[Piece]:
    """Sorted: the longest first, so that who runs out of memory does so at once."""
    sizes = list(map(len if type(raws[0]) is bytes else size_bytes, raws))
    if not sort_by_length and sum(sizes) < BATCH_BYTES:
        return [Piece(span, range(len(raws)), raws)]
    order = sorted(range(len(raws)), key=lambda at: -sizes[at]) if sort_by_length else range(len(raws))
    groups: list[list[int]] = [[]]
    left_bytes = BATCH_BYTES
    for at in order:
        if len(groups[-1]) == batch or left_bytes <= 0:
            groups.append([])
            left_bytes = BATCH_BYTES
        groups[-1].append(at)
        left_bytes -= sizes[at]
    return [Piece(span, group, [raws[at] for at in group]) for group in groups]

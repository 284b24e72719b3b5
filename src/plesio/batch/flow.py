"""Spans of records through a pool and back, in order: a bounded number under way, each batch one task.

A batch goes through a list of functions, each a task of its own: what the first returns are the second's records. One under
which a worker's process ends again and again is halved until one record is left: that one is dead.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from plesio.batch import records, work
from plesio.batch.spans import Piece, Span
from plesio.core.pool import outcome
from plesio.errors import TaskCancelled, TaskFailed
from plesio.tasks import Client

LEAST, PER_SLOT = 32, 16  # batches under way
LOOK_S = 0.25  # the longest wait for some of them
COUNT_S = 5.0  # between two looks at how many workers there are
RETRIES = 3  # of a batch that no record of it made fail: a setup on another worker
TASK_S = 0.1  # of a task: batches that take less go several at a time, so that what each costs the pool does not count
KILLS = frozenset({outcome.CRASHED, outcome.MEMORY})
ADRIFT = frozenset({outcome.LOST, outcome.FORGOTTEN})  # perhaps the batch's fault, perhaps the pool's


class Stage(msgspec.Struct, frozen=True):
    """A function of records of this form. requires: tags of the workers that it is for."""

    fn: str
    batched: bool = False
    form: str = "jsonl"
    requires: dict[str, float] = {}


class Call(msgspec.Struct, frozen=True):
    """What is done to each record, one stage after the other. queue: that all its tasks wait in.

    batch: records that a batched function gets at once; most: of a task, of several batches.
    """

    stages: tuple[Stage, ...]
    queue: str
    batch: int
    most: int


class Flow:
    """Owns the tasks of one run that are under way."""

    def __init__(self, client: Client, call: Call) -> None:
        self.client = client
        self.call = call
        self.spans: deque[Span] = deque()  # in order, begun and not given back yet
        self.pieces: list[Piece] = []  # under way
        self.begun = 0  # batches of all spans here
        self._sizes: deque[int] = deque()  # in batches, of each span
        self._slots = 0
        self._counted_s = -COUNT_S
        self._record_s = [0.0] * len(call.stages)  # that one takes, as the last tasks tell; 0: nobody knows yet

    def run(self, todo: Iterator[list[Piece]]) -> Iterator[Span | None]:
        """The spans, done, in order; None now and then while it waits. Raises TaskFailed for what is no record's fault."""
        more = True
        while True:
            while more and self.begun < self._most():
                more = self._begin(next(todo, None))
            self._collect()
            while self.spans and not self.spans[0].open:
                self.begun -= self._sizes.popleft()
                yield self.spans.popleft()
            if not self.spans and not more:
                return
            yield None
            if self.begun >= self._most() or not more:
                self._wait()

    def together(self) -> int:
        """How many batches go as one task, at its slowest stage."""
        records = min(TASK_S / max(self._record_s), self.call.most) if all(self._record_s) else 1
        return max(1, int(records / self.call.batch))

    def _wait(self) -> None:
        """Until about half of what is under way has ended, or for a while: what is done together costs less."""
        came = threading.Event()
        self.pieces[len(self.pieces) // 2].future.add_done_callback(lambda _: came.set())
        came.wait(LOOK_S)

    def _begin(self, pieces: list[Piece] | None) -> bool:
        if pieces is None:
            return False
        self.spans.append(pieces[0].span)
        self._sizes.append(len(pieces))
        self.begun += len(pieces)
        for piece in pieces:
            self._submit(piece)
        return True

    def _most(self) -> int:
        """How many batches are under way at most; a sorted window is followed by another before it ends."""
        now_s = time.monotonic()
        if now_s - self._counted_s > COUNT_S:
            with contextlib.suppress(TimeoutError):  # it is being started again
                self._slots = sum(row["connected"] for row in self.client.ask("workers"))
            self._counted_s = now_s
        return max(LEAST, PER_SLOT * self._slots) + max(self._sizes, default=1) - 1

    def _submit(self, piece: Piece, priority: int = 0) -> None:
        call, stage = self.call, self.call.stages[piece.stage]
        if records.total_bytes(stage.form, piece.raws) > records.MOST_BYTES:
            self._divide(piece, records.TOO_LARGE, f"a record has up to {records.MOST_BYTES >> 20} MiB")
            return
        payload = records.pack(stage.form, piece.raws)
        piece.future = self.client.submit(
            work.APPLY[piece.stage], stage.fn, stage.batched, stage.form, call.batch, payload, piece.index(),
            queue=call.queue, priority=priority, retries=RETRIES, requires=stage.requires,
        )  # fmt: skip
        self.pieces.append(piece)

    def _collect(self) -> None:
        """Takes all that has ended; the futures go, so that the pool forgets the results."""
        ended = [piece for piece in self.pieces if piece.future.done()]
        if not ended:
            return
        self.pieces = [piece for piece in self.pieces if not piece.future.done()]
        for piece in ended:
            error, future, piece.future = piece.future.exception(), piece.future, None
            if error is None:
                self._came(piece, *future.result())
            else:
                self._failed(piece, error)

    def _came(self, piece: Piece, out: Any, dead: list[tuple[int, bytes]], took_s: float) -> None:
        """Results, which are written, or go on to the next function before anything that has not begun."""
        known_s = self._record_s[piece.stage]
        self._record_s[piece.stage] += (took_s / len(piece.raws) - known_s) / (4 if known_s else 1)
        if piece.stage == len(self.call.stages) - 1:
            piece.span.done(piece, out.tobytes(), dead)
        elif (following := piece.span.went_on(piece, out.tobytes(), dead)) is not None:
            self._submit(following, priority=1)

    def _failed(self, piece: Piece, error: Exception) -> None:
        kind = error.kind if isinstance(error, TaskFailed) else ""
        if kind in ADRIFT and not piece.lost:
            piece.lost = True
            self._submit(piece, priority=1)
        elif kind not in KILLS | ADRIFT:
            raise explained(self.call.stages[piece.stage].fn, error)
        else:
            assert isinstance(error, TaskFailed)
            self._divide(piece, kind, error.message)

    def _divide(self, piece: Piece, kind: str, message: str) -> None:
        """Its halves are tried; one record is dead."""
        if len(piece.raws) > 1:
            for half in piece.halves():
                self._submit(half, priority=1)
            return
        index = piece.span.first + piece.positions[0]
        stage = self.call.stages[piece.stage]
        line = records.dead_line(stage.fn, stage.form, piece.raws[0], index, kind, message)
        piece.span.done(piece, b"", [(0, line)])

    def cancel(self) -> None:
        """Whatever is under way is wanted no more."""
        self.client.remove_queue(self.call.queue)


def explained(fn: str, error: Exception) -> Exception:
    """What kept a batch from being computed, in words for who gave the function."""
    if isinstance(error, TaskCancelled):
        return TaskFailed(error.kind, "somebody cancelled the tasks of this run; run the same command again to go on")
    if isinstance(error, TaskFailed):
        return TaskFailed(error.kind, f"{fn!r}: {error.message.rpartition(chr(10))[2]}")
    return error

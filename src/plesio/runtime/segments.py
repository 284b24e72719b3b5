"""The coordinator's side of large values in shared memory: segments live as long as the tasks that name them.

Who cannot read them, on another machine, is sent the bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.book import Book
from plesio.core.pool.recipe import HEAVY, task_id
from plesio.errors import ValueRefused
from plesio.values import Shares, inlined, segments

FOLDER = "segments"  # in the pool's
LIMIT_BYTES = 4 << 30


def shares_in(folder: str | Path) -> Shares:
    """The segments of a pool, by its folder."""
    return Shares(Path(folder) / FOLDER, LIMIT_BYTES)


class Segments:
    """Which task names which segments. Owned by the pool's driver, derived from its facts."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.args: dict[int, tuple[str, ...]] = {}
        self.results: dict[int, tuple[str, ...]] = {}

    def recover(self, book: Book) -> None:
        """Before anything is accepted: what no task names is deleted."""
        for call in book.calls.values():
            self._note(self.args, call.id, call.args)
            self._note(self.results, call.id, call.result)
        names = {name for table in (self.args, self.results) for names in table.values() for name in names}
        if names or self.shares.folder.exists():
            self.shares.sweep(names)

    def follow(self, facts: Sequence[f.AnyFact], stimuli: Sequence[s.Stimulus]) -> None:
        """What the facts, durable by now, say of segments. A result that came too late is of no use."""
        for fact in facts:
            if isinstance(fact, f.TasksSubmitted):
                for n, data in enumerate(fact.args, fact.first):
                    self._note(self.args, task_id(fact.client, n), data)
            elif isinstance(fact, f.TasksDone):
                for id, data in zip(fact.ids, fact.results, strict=True):
                    self._note(self.results, id, data)
                self._drop(self.args, fact.ids)
            elif isinstance(fact, f.TasksCancelled):
                self._drop(self.args, fact.ids)
            elif isinstance(fact, f.TasksForgotten):
                self._drop(self.args, fact.ids)
                self._drop(self.results, fact.ids)
        for stimulus in stimuli:
            if isinstance(stimulus, s.Finished):
                late = [name for data in stimulus.results if data[:1] == HEAVY for name in _names(data)]
                self._delete(name for name in late if not any(name in names for names in self.results.values()))

    def _note(self, table: dict[int, tuple[str, ...]], id: int, data: bytes) -> None:
        if data[:1] == HEAVY and (names := _names(data)):
            table[id] = names

    def _drop(self, table: dict[int, tuple[str, ...]], ids: Iterable[int]) -> None:
        if table:
            for id in ids:
                self._delete(table.pop(id, ()))

    def _delete(self, names: Iterable[str]) -> None:
        with contextlib.suppress(ValueRefused):  # a peer made it up
            self.shares.drop(list(names))

    def for_far(self, effect: e.Effect) -> e.Effect:
        """What is sent to who cannot read segments."""
        if isinstance(effect, e.Run):
            return e.Run(effect.slot, tuple(self._far_order(order) for order in effect.orders))
        if isinstance(effect, e.Tell):
            return e.Tell(effect.session, effect.ids, tuple(self._far(data) for data in effect.results))
        return effect

    def _far_order(self, order: e.Order) -> e.Order:
        inputs = tuple(tuple((id, self._far(data)) for id, data in of) for of in order.inputs)
        return msgspec.structs.replace(order, args=tuple(self._far(data) for data in order.args), inputs=inputs)

    def _far(self, data: bytes) -> bytes:
        if data[:1] != HEAVY or not _names(data):
            return data
        try:
            return inlined(data, self.shares)
        except ValueRefused:
            return data  # who decodes it says what is wrong


def _names(data: bytes) -> tuple[str, ...]:
    try:
        return segments(data)
    except ValueRefused:
        return ()

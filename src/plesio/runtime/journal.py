"""Facts to and from the store: one blob per batch; a snapshot of the state now and then, so that it stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from plesio.core import state as run_state
from plesio.core.facts import AnyFact, Fact
from plesio.core.pool import facts as pool_facts
from plesio.core.pool import state as pool_state
from plesio.errors import UserError
from plesio.stores.base import Store

COMPACT_EVERY = 2000  # batches between two snapshots of a run's state
GENERATIONS = 3  # of batches that stay, for whoever asks what happened
GROWTH_BYTES = 64 << 20  # of batches between two snapshots of a pool's state, which may be large itself

ANOTHER = "its journal was written by another version of plesio, or for something else; name another folder"

F = TypeVar("F")
S = TypeVar("S")

_encode = msgspec.msgpack.Encoder().encode


class Fold(Generic[F, S]):
    """What facts of one kind fold to, and how that state is written down."""

    def __init__(
        self,
        facts: Any,
        empty: Callable[[], S],
        apply: Callable[[S, F], None],
        kept: Any,
        freeze: Callable[[S], Any],
        thaw: Callable[[Any], S],
    ) -> None:
        self.decode_facts = msgspec.msgpack.Decoder(tuple[float, list[facts]]).decode
        self.decode_state = msgspec.msgpack.Decoder(kept).decode
        self.empty = empty
        self.apply = apply
        self.freeze = freeze
        self.thaw = thaw


def _same(state: Any) -> Any:
    return state


RUN: Fold[Fact, run_state.Durable] = Fold(
    AnyFact, run_state.Durable, run_state.apply, run_state.Durable, _same, _same
)  # fmt: skip
POOL: Fold[Any, pool_state.Durable] = Fold(
    pool_facts.AnyFact, pool_state.Durable, pool_state.apply, pool_state.Kept, pool_state.freeze, pool_state.thaw
)  # fmt: skip


class Journal(Generic[F, S]):
    """The journal of one leader. `seq` is the number of its newest blob."""

    def __init__(self, store: Store, epoch: int, fold: Fold[F, S]) -> None:
        self.store = store
        self.epoch = epoch
        self.fold = fold
        self.seq = 0
        self._compacted = 0
        self._generations: list[int] = []  # where those that stay begin
        self._grown_bytes = self._kept_bytes = 0

    async def load(self) -> tuple[S, list[tuple[int, float, list[F]]]]:
        """The fold of everything, and the batches that are still kept: (seq, unix seconds, facts)."""
        kept = await self.store.get_snapshot()
        fold, state = self.fold, self.fold.empty()
        if kept is not None:
            self.seq = self._compacted = kept[0]
            self._kept_bytes = len(kept[1])
            try:
                state = fold.thaw(fold.decode_state(kept[1]))
            except (msgspec.MsgspecError, ValueError, TypeError, LookupError) as error:
                raise UserError(ANOTHER) from error
        batches = await self.since(self.seq)
        for seq, _, facts in batches:
            for fact in facts:
                fold.apply(state, fact)
            self.seq = seq
        return state, batches

    async def since(self, seq: int, most: int = -1) -> list[tuple[int, float, list[F]]]:
        """The batches after this one that are still kept: (seq, unix seconds, facts). most: of them; -1: all."""
        blobs = await self.store.read(seq, most)
        try:
            return [(at, *self.fold.decode_facts(blob)) for at, blob in blobs]
        except msgspec.MsgspecError as error:
            raise UserError(ANOTHER) from error

    async def commit(self, unix_s: float, facts: Sequence[F]) -> None:
        """Makes the facts durable; raises when it cannot: the process must end then."""
        blob = _encode((unix_s, facts))
        self._grown_bytes += len(blob)
        self.seq = await self.store.append(self.epoch, self.seq, blob)

    async def compact(self, state: S, written: int) -> None:
        """Now and then replaces the batches by the state as of `seq`, once all of them are in events.jsonl.

        written: the newest batch that is; a batch that is not there can be told from the journal alone.
        """
        if written == self.seq and self.seq - self._compacted >= COMPACT_EVERY:
            await self.store.put_snapshot(self.epoch, self.seq, _encode(self.fold.freeze(state)))
            self._compacted = self.seq

    async def compact_by_size(self, state: S) -> None:
        """Writes the state once the batches have outgrown it: the cost per byte written stays the same.

        The batches of the last GENERATIONS times stay, to tell what happened.
        """
        if self._grown_bytes > max(GROWTH_BYTES, 2 * self._kept_bytes):
            blob = _encode(self.fold.freeze(state))
            self._generations = [*self._generations, self._compacted + 1][-GENERATIONS:]
            await self.store.put_snapshot(self.epoch, self.seq, blob, self._generations[0])
            self._compacted, self._kept_bytes, self._grown_bytes = self.seq, len(blob), 0

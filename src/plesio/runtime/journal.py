"""Facts to and from the store: one blob per batch; a snapshot of the state now and then, so that it stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from plesio.core.facts import AnyFact, Fact
from plesio.core.state import Durable, apply
from plesio.stores.base import Store

COMPACT_EVERY = 2000  # batches between two snapshots of the state

_encoder = msgspec.msgpack.Encoder()
_facts = msgspec.msgpack.Decoder(tuple[float, list[AnyFact]])
_state = msgspec.msgpack.Decoder(Durable)


class Journal:
    """The journal of one leader. `seq` is the number of its newest blob."""

    def __init__(self, store: Store, epoch: int) -> None:
        self.store = store
        self.epoch = epoch
        self.seq = 0
        self._compacted = 0

    async def load(self) -> tuple[Durable, list[tuple[int, float, list[Fact]]]]:
        """The fold of everything, and the batches that are still kept: (seq, unix seconds, facts)."""
        kept = await self.store.get_snapshot()
        state = Durable()
        if kept is not None:
            self.seq = self._compacted = kept[0]
            state = _state.decode(kept[1])
        batches = await self.since(self.seq)
        for seq, _, facts in batches:
            for fact in facts:
                apply(state, fact)
            self.seq = seq
        return state, batches

    async def since(self, seq: int) -> list[tuple[int, float, list[Fact]]]:
        """The batches after this one that are still kept: (seq, unix seconds, facts)."""
        decoded = ((at, *_facts.decode(blob)) for at, blob in await self.store.read(seq))
        return [(at, unix_s, list(facts)) for at, unix_s, facts in decoded]

    async def commit(self, unix_s: float, facts: Sequence[Fact]) -> None:
        """Makes the facts durable; raises when it cannot: the process must end then."""
        self.seq = await self.store.append(self.epoch, self.seq, _encoder.encode((unix_s, list(facts))))

    async def compact(self, state: Durable, written: int) -> None:
        """Now and then replaces the batches by the state as of `seq`, once all of them are in events.jsonl.

        written: the newest batch that is; a batch that is not there can be told from the journal alone.
        """
        if written == self.seq and self.seq - self._compacted >= COMPACT_EVERY:
            await self.store.put_snapshot(self.epoch, self.seq, _encoder.encode(state))
            self._compacted = self.seq

"""The journal stays bounded, and gives nothing away that is told nowhere else."""

from __future__ import annotations

import asyncio

import pytest

from plesio.core import facts as f
from plesio.core.state import Durable, apply
from plesio.runtime import journal
from plesio.runtime.journal import RUN, Journal
from plesio.stores.memory import MemoryStore


def test_batches_go_once_they_are_many_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMPACT_EVERY", 5)

    async def scenario() -> None:
        store, state = MemoryStore(), Durable()
        one = Journal(store, await store.elect("x", 0.0, 0.0), RUN)
        for epoch in range(1, 8):
            apply(state, f.LeaderElected(epoch))
            await one.commit(1.0, [f.LeaderElected(epoch)])
            await one.compact(state, written=one.seq - 1)
        assert len(await store.read(0)) == 7, "a crash now must still find the batch that is in no events.jsonl"
        await one.compact(state, written=one.seq)
        assert await store.read(0) == []
        again, batches = await Journal(store, one.epoch, RUN).load()
        assert again == state and batches == []

    asyncio.run(scenario())

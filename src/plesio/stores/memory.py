"""A journal in this process's memory: for tests, simulations and runs that need no recovery.

Nothing outlives the process; `clone()` plays what a restarted one would find.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from plesio.stores.head import Head, last_gone


class MemoryStore:
    """Keeps the contract of `plesio.stores.base.Store`, whose docstrings hold here, durability aside."""

    def __init__(self) -> None:
        self._head = Head()
        self._journal: list[tuple[int, bytes]] = []
        self._snapshot: tuple[int, bytes] | None = None

    def clone(self) -> MemoryStore:
        """An independent copy: what a process that restarted now would find."""
        return copy.deepcopy(self)

    async def open(self) -> None:
        """Nothing to connect to."""

    async def elect(self, holder: str, ttl_s: float, now_s: float) -> int:
        self._head = self._head.elected(holder, ttl_s, now_s)
        return self._head.epoch

    async def append(self, epoch: int, expected_seq: int, blob: bytes) -> int:
        self._head.check_append(epoch, expected_seq)
        seq = expected_seq + 1
        self._journal.append((seq, bytes(blob)))
        self._head = replace(self._head, last_seq=seq)
        return seq

    async def read(self, from_seq: int, most: int = -1) -> list[tuple[int, bytes]]:
        found = [(seq, blob) for seq, blob in self._journal if seq > from_seq]
        return found if most < 0 else found[:most]

    async def last_seq(self) -> int:
        return self._head.last_seq

    async def put_snapshot(self, epoch: int, seq: int, blob: bytes, history_from: int | None = None) -> None:
        self._head.check_snapshot(epoch, seq)
        self._snapshot = (seq, bytes(blob))
        self._journal = await self.read(from_seq=last_gone(seq, history_from))
        self._head = replace(self._head, snapshot_seq=seq)

    async def get_snapshot(self) -> tuple[int, bytes] | None:
        return self._snapshot

    async def close(self) -> None:
        """Keeps everything, as a closed file would."""

"""The contract of a store: one journal of numbered blobs, one snapshot, one leader.

What a blob means is the caller's business; no SQL and no schema of facts shows above this line.
`tests/contract/test_store_contract.py` holds every registered store to these docstrings.
"""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Blobs are numbered 1, 2, 3, ... without a gap; number 0 means "before the first".

    One task uses a store at a time, between `open` and `close`. Every method that writes is atomic:
    when it raises, or the process dies in it, the whole call happened or none of it did. Every
    method raises StoreError, naming the place and the mend, when the storage itself fails.
    """

    async def open(self) -> None:
        """Connects, creating an empty journal where there is none. Called once, before the rest.

        Raises UserError for something that is not a journal which this plesio can read, and leaves
        that untouched.
        """

    async def elect(self, holder: str, ttl_s: float, now_s: float) -> int:
        """Takes leadership and returns a new epoch, higher than every earlier one (the first is 1).

        From then on writes of older epochs are refused. The lease runs until `now_s + ttl_s` (seconds
        on one clock that all holders share and that survives a restart); the holder renews it by
        being elected again, which gives a newer epoch too, so it is not idempotent.
        While the lease of another holder runs, raises Fenced and changes nothing, except for `ttl_s=0`,
        which displaces whoever was there and can be displaced at once: the embedded, one-machine use.
        An expired leader that nobody displaced still leads. An epoch is never granted twice, not
        even after a power cut.
        """

    async def append(self, epoch: int, expected_seq: int, blob: bytes) -> int:
        """Writes `blob` as number `expected_seq + 1`, durably, and returns that number.

        Raises Fenced, writing nothing, when `epoch` is not the leading one or when `expected_seq`
        is not the last number. Not idempotent: a repeated call is Fenced, so a blob never lands twice.
        Durable means that it outlives the process; whether also the machine, the store states.
        """

    async def read(self, from_seq: int, most: int = -1) -> list[tuple[int, bytes]]:
        """All blobs with a number above `from_seq`, as (number, blob), in order; needs no leadership.

        most: the first so many of them only; -1: all.

        Blobs that a snapshot replaced are gone: from below `get_snapshot()`'s number, the list starts
        right after the snapshot, or with the history that it left.
        """

    async def last_seq(self) -> int:
        """The number of the last blob ever appended, also when a snapshot replaced it; 0 for none."""

    async def put_snapshot(self, epoch: int, seq: int, blob: bytes, history_from: int | None = None) -> None:
        """Keeps `blob` as the state as of number `seq` and deletes the blobs up to `seq`, in one step.

        history_from: delete only those below this number; the others stay, for whoever reads what happened.
        Replaces the earlier snapshot; idempotent. Raises Fenced, changing nothing, when `epoch` is not
        the leading one, and InternalError when `seq` is before the earlier snapshot or after the last
        blob. Later blobs stay.
        """

    async def get_snapshot(self) -> tuple[int, bytes] | None:
        """The last snapshot as (number that it is as of, blob); None for none. Needs no leadership."""

    async def close(self) -> None:
        """Lets go of the storage; idempotent. What was acknowledged stays, and so does the lease."""

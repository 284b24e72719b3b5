"""Timed spans as they travel: what a thread did, from when, for how long. Not the ledger's `Span`, which names units."""

from __future__ import annotations

import enum

import msgspec

Row = tuple[int, int, int, int]  # (kind, microseconds since the report's unix_s, microseconds long, detail)


class Kind(enum.IntEnum):
    """What a thread did. Numbers are part of the protocol: add at the end. detail: a push's seq or a version's number."""

    COMPUTE = 0  # the user's code had the main thread
    WAIT = 1  # the main thread waited for a message
    APPLY = 2  # a version: the rebase, or the optimizer's step on the mean gradient; detail: version
    EVALUATE = 3  # the user's held-out loss; detail: version
    ENCODE = 4  # detail: push; 0: a whole state
    DECODE = 5  # detail: version
    SEND = 6  # detail: a learner's push (0: a whole state), a synchronizer's version
    MERGE = 7  # detail: version
    SNAPSHOT = 8  # detail: version


class Timings(msgspec.Struct, frozen=True, array_like=True):
    """The spans of one process that ended since its last report, and how many more there was no room for."""

    unix_s: float = 0.0
    rows: tuple[Row, ...] = ()
    dropped: int = 0


NOTHING = Timings()

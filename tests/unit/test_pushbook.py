"""A learner's side of the ledger."""

from __future__ import annotations

from plesio.core.pushbook import PushBook
from plesio.records import Version


def test_a_unit_whose_push_was_refused_is_no_part_of_anything_any_more() -> None:
    book = PushBook(run="r", name="a", generation=1, base=Version(1, 0))
    for _ in range(100):
        book.step(1, (0, 0))
        push = book.cut("none", "", 0, 0.1, last=False)
        assert book.refused(push.seq, "stale") == [push.seq]
        assert not book.parts and not book.torn((push.seq,)), "a later roll-back is no reason to join anew"

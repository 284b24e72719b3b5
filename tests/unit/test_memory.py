"""Memory that is given again only when nobody looks at it any more."""

from __future__ import annotations

import mmap

from plesio.wire.memory import KEPT, MAPPED_BYTES, Recycler

SIZE = MAPPED_BYTES


def block(view: memoryview) -> mmap.mmap:
    assert isinstance(view.obj, mmap.mmap)
    return view.obj


def test_memory_is_given_again_when_no_view_of_it_is_left() -> None:
    recycler = Recycler()
    view = recycler.get(SIZE)
    first = id(block(view))
    part = memoryview(view[10:20]).cast("H")
    del view
    second = recycler.get(SIZE)
    assert id(block(second)) != first, "a part of it is still looked at"
    del part
    assert id(block(recycler.get(SIZE))) == first


def test_it_keeps_little_that_nobody_uses_and_nothing_of_another_size() -> None:
    recycler = Recycler()
    views = [recycler.get(SIZE) for _ in range(KEPT + 5)]
    assert len({id(block(view)) for view in views}) == len(views)
    del views
    here = recycler.get(SIZE)
    assert len(recycler._given) == KEPT + 1
    other = recycler.get(2 * SIZE)
    assert [id(b) for b in recycler._given] == [id(block(here)), id(block(other))]


def test_small_memory_is_always_new() -> None:
    recycler = Recycler()
    view = recycler.get(SIZE - 1)
    assert bytes(view) == bytes(SIZE - 1) and not view.readonly and recycler._given == []

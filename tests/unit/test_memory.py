"""Memory that is given again only when nobody looks at it any more."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(
    "look",
    [
        lambda view: torch.frombuffer(view, dtype=torch.uint8)[5:],
        lambda view: torch.frombuffer(view[8:], dtype=torch.int8).view(torch.float32),
        lambda view: np.frombuffer(view, np.uint8)[5:],
        lambda view: torch.from_numpy(np.frombuffer(view, np.uint8)),
    ],
)
def test_tensors_that_share_the_memory_keep_it(look: Callable[[memoryview], Any]) -> None:
    recycler = Recycler()
    view = recycler.get(SIZE)
    first, tensor = id(block(view)), look(view)
    del view
    assert id(block(recycler.get(SIZE))) != first
    del tensor
    views = [recycler.get(SIZE), recycler.get(SIZE)]
    assert first in [id(block(x)) for x in views]


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

"""The learner's codec thread: what waits for a main thread that is busy does not grow with the versions that come."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from plesio import codecs
from plesio.records import Version
from plesio.runtime.coding import Coding, Newest
from plesio.wire import messages as m

Events = queue.SimpleQueue[tuple[Any, Any]]


@pytest.fixture
def coding() -> Iterator[Coding]:
    link: Any = None
    coding = Coding(link, queue.SimpleQueue())
    yield coding
    coding.stop()


def arrive(coding: Coding, kind: str, lineage: int, number: int, evaluator: str = "") -> None:
    value = torch.tensor([float(number)])
    codec: Any = codecs.parse("none")
    data = codec.encode(value, codec.init(value))[0].to_bytes()
    coding.receive(m.VersionMade(Version(lineage, number), kind, {}, evaluator=evaluator), memoryview(data))
    coding.wait()


def waiting(coding: Coding) -> list[tuple[int, float]]:
    found = []
    while not coding.events.empty():
        message, value = coding.events.get()
        made, value = coding.take(message) if isinstance(message, Newest) else (message, value)
        found.append((made.version.number, value.item()))
    return found


def test_of_parameters_only_the_newest_wait(coding: Coding) -> None:
    for number in range(1, 50):
        arrive(coding, "params", 1, number, evaluator="a" if number == 3 else "")
    assert coding.events.qsize() == 1
    message, _ = coding.events.get()
    made, value = coding.take(message)
    assert (made.version.number, value.item(), made.evaluator) == (49, 49.0, "a")
    arrive(coding, "params", 1, 50)
    assert waiting(coding) == [(50, 50.0)]


def test_changes_wait_one_by_one_and_lineages_apart(coding: Coding) -> None:
    for kind, lineage, number in (
        ("delta", 1, 1),
        ("delta", 1, 2),
        ("params", 1, 3),
        ("params", 2, 2),
        ("params", 2, 3),
    ):
        arrive(coding, kind, lineage, number)
    assert waiting(coding) == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 3.0)]


def test_what_comes_after_a_new_beginning_does_not_pass_what_came_before_it(coding: Coding) -> None:
    """The state that a rejoined learner loads lies between the two."""
    arrive(coding, "params", 1, 5)
    coding.start_anew()
    arrive(coding, "delta", 1, 7)
    arrive(coding, "params", 1, 8)
    assert waiting(coding) == [(5, 5.0), (7, 7.0), (8, 8.0)]

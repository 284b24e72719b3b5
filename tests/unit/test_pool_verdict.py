"""The verdict on a pool's journal finds what must not be."""

from __future__ import annotations

import pytest

from plesio.core.pool import facts as f
from plesio.core.pool.recipe import Recipe, task_id
from plesio.errors import InternalError
from plesio.testing.poolverdict import troubles

JOINED = f.ClientJoined(1, "s")
LOW, HIGH = task_id(1, 1), task_id(1, 2)


def submitted(n: int, priority: int, at_s: float = 0.0) -> f.TasksSubmitted:
    return f.TasksSubmitted(1, n, Recipe("m:f", "q", priority), (b"",), at_s)


def leased(*ids: int) -> list[f.AnyFact]:
    return [f.TasksLeased("a", ids)]


def done(*ids: int) -> list[f.AnyFact]:
    return [f.TasksDone("a", ids, (b"",) * len(ids), 1.0)]


def test_a_task_that_begins_before_one_of_a_higher_priority_is_found() -> None:
    both: list[f.AnyFact] = [JOINED, submitted(1, 0), submitted(2, 5)]
    assert troubles([*both, *leased(HIGH), *leased(LOW), *done(HIGH, LOW)]) == []
    [said] = troubles([*both, *leased(LOW), *leased(HIGH), *done(LOW, HIGH)])
    assert said == f"task {LOW} of priority 0 is leased before {HIGH} of 5"


def test_age_counts_as_priority() -> None:
    both: list[f.AnyFact] = [JOINED, submitted(1, 0), submitted(2, 5, 1000.0)]
    assert troubles([*both, *leased(LOW), *leased(HIGH), *done(LOW, HIGH)]) == []


def test_what_never_ends_is_found_and_what_cannot_be_is_refused() -> None:
    one: list[f.AnyFact] = [JOINED, submitted(1, 0), *leased(LOW)]
    assert troubles(one) == [f"task {LOW} is leased"]
    with pytest.raises(InternalError, match="cannot go from done to leased"):
        troubles([*one, *done(LOW), *leased(LOW)])

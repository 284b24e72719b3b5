"""What holds its slot for long leaves it for what is more urgent, in order, and comes back."""

from __future__ import annotations

import pytest

from plesio.core.pool import effects as e
from plesio.core.pool import outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import task_id
from plesio.core.pool.yielding import AGAIN_S, PATIENCE_S, TENURE_S
from plesio.core.taskbook import TaskState
from plesio.testing.poolbench import Bench, runs, told

LONG = {"fn": "m:learner", "yields_s": 30.0}


def stops(effects: list[e.Effect]) -> list[tuple[str, int, float]]:
    return [(x.slot, x.id & 0xFFFFFFFF, x.grace_s) for x in effects if isinstance(x, e.StopTask)]


def holding(count: int) -> Bench:
    """A pool whose slots are all taken, for a while, by tasks that yield."""
    bench = Bench(*[f"s{i}" for i in range(count)])
    for n in range(1, count + 1):
        bench.submit(n, **LONG)
    bench.now_s += TENURE_S
    for i in range(count):
        bench.give(s.NodeUp(f"node of s{i}", ((f"s{i}", "1"),)))
    return bench


def test_it_leaves_for_a_task_of_a_higher_priority_and_has_a_slot_again() -> None:
    bench = holding(2)
    assert not runs(bench.submit(3, priority=1))
    effects = bench.wait(PATIENCE_S)
    [(slot, n, grace_s)] = stops(effects)
    assert grace_s == 30.0 and bench.call(n).state is TaskState.LEASED
    assert runs(bench.fail(slot, n, outcome.CANCELLED)) == {slot: [3]}
    assert bench.call(n).state is TaskState.READY and not bench.call(n).attempts
    assert runs(bench.finish(slot, 3)) == {slot: [n]}


@pytest.mark.parametrize("priority", [0, -1])
def test_nothing_leaves_for_what_is_not_more_urgent(priority: int) -> None:
    bench = holding(1)
    bench.submit(2, priority=priority)
    assert not stops(bench.wait(PATIENCE_S)) and not stops(bench.wait(1.0))


def test_what_does_not_yield_stays() -> None:
    bench = Bench("s0")
    bench.submit(1)
    bench.submit(2, priority=9)
    assert not stops(bench.wait(1.0))


def test_one_that_has_just_begun_is_let_be() -> None:
    bench = Bench("s0")
    bench.submit(1, **LONG)
    bench.submit(2, priority=1)
    assert not stops(bench.wait(PATIENCE_S + 0.1))


def test_as_many_leave_as_are_needed_the_least_urgent_first() -> None:
    bench = Bench("s0", "s1", "s2")
    for n, priority in enumerate((2, 0, 1), 1):
        bench.submit(n, priority=priority, **LONG)
    bench.now_s += TENURE_S
    for i in range(3):
        bench.give(s.NodeUp(f"node of s{i}", ((f"s{i}", "1"),)))
    bench.submit(4, 2, priority=5)
    left = stops(bench.wait(PATIENCE_S))
    assert sorted(n for _, n, _ in left) == [2, 3]
    assert not stops(bench.wait(0.2))  # those are leaving
    assert stops(bench.wait(AGAIN_S)) and len(bench.state.volatile.yielding) == 2


def test_many_short_tasks_do_not_need_all_slots() -> None:
    bench = Bench("s0")
    bench.submit(1, priority=5)
    bench.finish("s0", 1, busy_s=1e-3)
    for i in (1, 2):
        bench.slot_up(f"s{i}")
    for n in (2, 3, 4):
        bench.submit(n, **LONG)
    bench.now_s += TENURE_S
    for i in range(3):
        bench.give(s.NodeUp(f"node of s{i}", ((f"s{i}", "1"),)))
    bench.submit(5, 100, priority=5)
    assert len(stops(bench.wait(PATIENCE_S))) == 1


def test_only_a_slot_that_fits_is_left() -> None:
    bench = Bench()
    bench.slot_up("plain")
    bench.slot_up("with", gpu=1.0)
    bench.submit(1, **LONG)
    bench.submit(2, **LONG)
    bench.now_s += TENURE_S
    for slot in ("plain", "with"):
        bench.give(s.NodeUp(f"node of {slot}", ((slot, "1"),)))
    bench.submit(3, priority=1, requires=(("gpu", 1.0),))
    assert [slot for slot, _, _ in stops(bench.wait(PATIENCE_S))] == ["with"]


def test_who_came_back_does_not_overtake_what_it_left_for_however_old_it_is() -> None:
    bench = holding(1)
    bench.now_s += 1e6
    bench.give(s.NodeUp("node of s0", (("s0", "1"),)))
    bench.submit(2, 3, priority=1, fn="m:other")
    [(slot, n, _)] = stops(bench.wait(PATIENCE_S))
    assert runs(bench.fail(slot, n, outcome.CANCELLED)) == {slot: [2]}
    assert runs(bench.finish(slot, 2, busy_s=1.0)) == {slot: [3]}


@pytest.mark.parametrize("kind", [outcome.CANCELLED, outcome.CRASHED, outcome.LOST])
def test_that_its_slot_ends_under_it_is_never_its_fault(kind: str) -> None:
    bench = Bench("s0")
    bench.submit(1, **LONG)
    for life in range(1, 30):
        bench.give(s.SlotExited("s0", str(life), task_id(1, 1), kind, "killed"))
        assert runs(bench.slot_up("s0", incarnation=str(life + 1))) == {"s0": [1]}
    assert told(bench.finish("s0", 1, incarnation="30")) == [1]


def test_what_it_raises_is_its_fault() -> None:
    bench = Bench("s0")
    bench.submit(1, **LONG)
    bench.fail("s0", 1)
    assert bench.call(1).state is TaskState.DEAD


def test_no_second_copy_of_it_runs_and_nothing_waits_behind_it() -> None:
    bench = Bench("s0")
    bench.submit(1)
    bench.finish("s0", 1, busy_s=1e-4)
    bench.submit(2, **LONG)
    assert not runs(bench.submit(3))
    bench.slot_up("s1")
    bench.finish("s1", 3)
    for _ in range(100):
        bench.give(s.NodeUp("node of s0", (("s0", "1"),)), s.NodeUp("node of s1", (("s1", "1"),)))
        assert not runs(bench.wait(1.0))


def test_a_cancelled_one_has_its_time_to_leave() -> None:
    bench = Bench("s0")
    bench.submit(1, **LONG)
    assert stops(bench.give(s.Cancel((task_id(1, 1),)))) == [("s0", 1, 30.0)]


def test_a_slot_with_a_tag_of_the_pools_own_is_only_for_those_that_require_it() -> None:
    bench = Bench()
    bench.slot_up("own", **{"@host": 1.0, "gpu": 1.0})
    assert not runs(bench.submit(1)) and not runs(bench.submit(2, requires=(("gpu", 1.0),)))
    assert runs(bench.submit(3, requires=(("@host", 1.0),))) == {"own": [3]}


def test_the_fold_of_the_journal_knows_who_left() -> None:
    bench = holding(1)
    bench.submit(2, priority=1)
    [(slot, n, _)] = stops(bench.wait(PATIENCE_S))
    bench.fail(slot, n, outcome.CANCELLED)
    bench.restart()
    assert bench.call(1).state is TaskState.READY and bench.call(1).tries == 1 and bench.call(1).at_s > 1.0

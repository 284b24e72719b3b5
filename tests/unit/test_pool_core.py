"""What a pool's decisions promise in rare moments: one test each, on the pure core."""

from __future__ import annotations

import pytest

from plesio.core.pool import clients as clients_of
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import outcome, retention
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import MESSAGE, QueueChange, Recipe, task_id
from plesio.core.pool.state import freeze
from plesio.core.taskbook import TaskState
from plesio.testing.poolbench import ANN, FN, Bench, encode, runs, told

BEN = "b" * 16


# -- clients


def test_one_that_missed_the_outcome_hears_it_when_it_submits_again() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.give(s.ClientLost(ANN))
    pool.finish("x", 1)
    pool.give(s.ClientUp(ANN))
    effects = pool.submit(1)
    assert any(isinstance(x, e.Accept) for x in effects) and told(effects) == [1]


def test_a_group_that_overlaps_known_tasks_is_refused_and_harms_nobody() -> None:
    pool = Bench()
    pool.submit(5, count=3)
    (answer,) = pool.submit(3, count=5)
    assert isinstance(answer, e.Decline) and not answer.retry_s
    assert len(pool.state.durable.book.calls) == 3 and pool.state.durable.book.queues["default"].waiting == 3


def test_what_needs_a_task_that_is_put_off_is_put_off_too() -> None:
    pool = Bench()
    pool.give(s.SetQueue("small", QueueChange(capacity=1)))
    pool.submit(1, queue="small")
    (answer,) = pool.submit(2, queue="small")
    assert answer.retry_s > 0
    (answer,) = pool.submit(3, needs=(task_id(1, 2),))
    assert isinstance(answer, e.Decline) and answer.retry_s > 0
    pool.slot_up("x")
    assert isinstance(pool.submit(2, queue="small")[0], e.Accept)
    assert isinstance(pool.submit(3, needs=(task_id(1, 2),))[0], e.Accept)
    (answer,) = pool.submit(4, needs=(task_id(1, 9),))
    assert isinstance(answer, e.Decline) and not answer.retry_s, "that one never was"


def test_a_client_that_is_connected_is_not_forgotten_for_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_of, "CLIENTS_KEPT", 3)
    pool = Bench()
    for i in range(10):
        pool.give(s.ClientUp(f"{i:016}"))
        pool.give(s.ClientLost(f"{i:016}"))
    assert len(pool.state.durable.clients) == 3
    assert isinstance(pool.submit(1)[0], e.Accept)
    assert encode(freeze(pool.fold())) == encode(freeze(pool.state.durable))


def test_a_result_is_kept_until_its_own_client_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "KEPT", 0)
    monkeypatch.setattr(retention, "BATCH", 1)
    pool = Bench("x")
    pool.submit(1)
    pool.finish("x", 1)
    pool.give(s.ClientUp(BEN), s.Taken(BEN, (task_id(1, 1),)))
    assert pool.call(1).state is TaskState.DONE
    pool.give(s.Taken(ANN, (task_id(1, 1),)))
    assert not pool.state.durable.book.calls


def test_many_large_results_are_told_in_messages_of_bounded_size() -> None:
    pool = Bench("x")
    pool.submit(1, count=6)
    pool.give(s.ClientLost(ANN))
    ids = tuple(task_id(1, n) for n in range(1, 7))
    pool.give(s.Finished("x", "1", ids, (bytes(10 << 20),) * 6, 1.0))
    pool.give(s.ClientUp(ANN))
    tells = [x for x in pool.give(s.Await(ANN, ids)) if isinstance(x, e.Tell)]
    assert told(tells) == [1, 2, 3, 4, 5, 6]
    assert all(sum(map(len, x.results)) <= 32 << 20 for x in tells)


# -- queues


@pytest.mark.parametrize("rate", [float("inf"), float("nan"), -1.0, 1e300])
def test_a_rate_is_a_number_one_can_count_with(rate: float) -> None:
    pool = Bench("x")
    pool.give(s.SetQueue("default", QueueChange(rate_per_s=rate)))
    assert runs(pool.submit(1)) == {"x": [1]}


def test_a_queue_with_a_rate_goes_on_after_the_clock_went_back() -> None:
    pool = Bench("x")
    pool.now_s = 1000.0
    pool.give(s.SetQueue("default", QueueChange(rate_per_s=10.0)))
    pool.submit(1, count=5)
    pool.now_s = pool.state.durable.latest_s = 500.0
    pool.finish("x", 1)
    seen: list[int] = []
    for _ in range(10):
        pool.give(s.NodeUp("node of x", (("x", "1"),)))
        seen += runs(pool.wait(0.2)).get("x", [])
        pool.finish("x", *seen)
    assert len(seen) >= 4


def test_two_lanes_share_their_queues_rate_and_nothing_empty_is_told() -> None:
    pool = Bench("x", "y")
    pool.give(s.SetQueue("default", QueueChange(rate_per_s=1.0)))
    effects = pool.give(s.Submit(ANN, 1, Recipe(FN), (b"",)), s.Submit(ANN, 2, Recipe(FN, priority=1), (b"",)))
    assert sum(map(len, runs(effects).values())) == 1
    assert all(fact.ids for fact in pool.journal if isinstance(fact, f.TasksLeased))
    assert all(x.orders for x in effects if isinstance(x, e.Run))


def test_a_dead_letter_of_a_removed_queue_may_live_again() -> None:
    pool = Bench("x")
    pool.submit(1, queue="q")
    pool.fail("x", 1)
    pool.give(s.RemoveQueue("q"))
    assert runs(pool.give(s.Revive(task_id(1, 1)))) == {"x": [1]}


def test_one_that_needs_an_idle_slot_is_not_starved_by_short_ones() -> None:
    pool = Bench("x")
    pool.submit(1, count=1, fn="m:short")
    pool.finish("x", 1)
    pool.submit(2, count=200, fn="m:short")
    pool.submit(500, fn="m:long", queue="other")
    running, n = [2], 1000
    for n in range(1000, 1400):
        pool.now_s += 0.001
        effects = pool.submit(n, fn="m:short")
        held = [id & 0xFFFFFFFF for id in pool.state.durable.book.leases.get("x", {})]
        if 500 in held:
            return
        effects = pool.finish("x", held[0])
        running = runs(effects).get("x", running)
    raise AssertionError("it waits while later ones run")


@pytest.mark.parametrize(("busy_s", "measured", "held"), [(0.015, 8, 2), (0.015, 7, 1), (0.025, 20, 1), (0.001, 1, 4)])
def test_a_slot_has_a_next_task_when_such_ones_are_well_known_to_be_short(
    busy_s: float, measured: int, held: int
) -> None:
    pool = Bench("x")
    for n in range(1, measured + 1):
        pool.submit(n)
        pool.finish("x", n, busy_s=busy_s)
    pool.submit(1000, count=40)
    assert len(pool.state.durable.book.leases["x"]) == held


# -- dependencies, keys, revival


def test_a_long_chain_of_dependents_fails_as_a_whole() -> None:
    pool = Bench("x")
    pool.submit(1)
    for n in range(2, 3001):
        pool.submit(n, needs=(task_id(1, n - 1),))
    pool.fail("x", 1)
    assert all(pool.call(n).state is TaskState.DEAD for n in range(1, 3001))


def test_a_revived_task_keeps_what_it_needs() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.finish("x", 1)
    pool.submit(2, needs=(task_id(1, 1),))
    pool.fail("x", 2)
    pool.give(s.Revive(task_id(1, 2)))
    assert task_id(1, 1) in pool.state.durable.book.pins
    pool.finish("x", 2)
    assert pool.call(2).state is TaskState.DONE and not pool.state.durable.book.pins


def test_what_needs_a_dead_task_is_not_revived_before_it() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.submit(2, needs=(task_id(1, 1),))
    pool.fail("x", 1)
    pool.give(s.Revive(task_id(1, 2)))
    assert pool.call(2).state is TaskState.DEAD
    pool.give(s.Revive(task_id(1, 1)))
    pool.finish("x", 1)
    assert runs(pool.give(s.Revive(task_id(1, 2)))) == {"x": [2]}


def test_a_dead_letter_is_not_revived_beside_the_task_that_took_its_key() -> None:
    pool = Bench("x")
    pool.submit(1, key="k")
    pool.fail("x", 1)
    pool.submit(2, key="k")
    pool.give(s.Revive(task_id(1, 1)))
    assert pool.call(1).state is TaskState.DEAD


def test_a_key_means_the_same_after_a_snapshot() -> None:
    pool = Bench("x")
    pool.submit(1, key="k")
    pool.fail("x", 1)
    pool.submit(2, key="k")
    pool.fail("x", 2)
    pool.give(s.Revive(task_id(1, 1)))
    assert pool.thawed().book.keys == pool.state.durable.book.keys == {("default", "k"): task_id(1, 1)}


# -- slots


def test_results_of_a_restarted_pool_are_dealt_once_whatever_was_returned_before() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.finish("x", 1)
    pool.submit(2, count=40)
    pool.give(s.SlotLost("x", "1"), s.SlotExited("x", "1", 0, outcome.CRASHED, ""))
    pool.restart()
    pool.slot_up("y")
    pool.finish("y", 2)
    leased = [id for fact in pool.journal if isinstance(fact, f.TasksLeased) and fact.slot == "y" for id in fact.ids]
    assert len(leased) == len(set(leased)) > 2


def test_a_restarted_pool_tries_a_task_again_no_earlier_than_it_said() -> None:
    pool = Bench("x")
    pool.submit(1, retries=1)
    pool.fail("x", 1)
    pool.restart()
    pool.slot_up("x")
    assert pool.call(1).state is TaskState.READY
    assert runs(pool.wait(0.3)) == {"x": [1]}


def test_a_slot_that_was_silent_for_a_while_is_asked_to_come_again() -> None:
    pool = Bench("x")
    pool.submit(1)
    effects = pool.wait(60.0)
    assert "x" not in pool.state.durable.slots
    assert e.Disconnect("x") in effects


def test_a_failure_that_is_said_again_counts_once() -> None:
    pool = Bench("x")
    pool.submit(1, retries=1)
    pool.fail("x", 1)
    assert runs(pool.wait(1.0)) == {"x": [1]}, "it is tried again"
    pool.give(s.SlotLost("x", "1"))
    pool.slot_up("x", task_id(1, 1))
    effects = pool.fail("x", 1)
    assert pool.call(1).state is TaskState.LEASED and pool.call(1).attempts == 1
    assert runs(effects) == {"x": [1]}, "it may not have got it"
    pool.fail("x", 1, attempt=1)
    assert pool.call(1).state is TaskState.DEAD


@pytest.mark.parametrize("attempts", [100, 5000])
def test_a_task_may_be_tried_for_ever(attempts: int) -> None:
    pool = Bench("x")
    pool.submit(1, retries=1 << 40)
    for attempt in range(attempts):
        pool.fail("x", 1, attempt=attempt)
        pool.now_s += 100.0
        assert runs(pool.give(s.NodeUp("node of x", (("x", "1"),)))) == {"x": [1]}
    assert pool.call(1).attempts == attempts


def test_a_worker_that_was_lost_is_nobodys_fault_also_when_its_node_says_so() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.give(s.SlotExited("x", "1", task_id(1, 1), outcome.LOST, "its worker left"))
    assert pool.call(1).state is TaskState.READY and pool.call(1).losses == 1


def test_the_last_results_of_a_slot_count_also_when_its_node_is_heard_before_them() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.give(s.SlotExited("x", "1", 0, outcome.CRASHED, ""))
    assert runs(pool.submit(2)) == {}, "it gets nothing more"
    pool.finish("x", 1)
    assert pool.call(1).state is TaskState.DONE and pool.call(1).losses == 0
    pool.give(s.SlotLost("x", "1"))
    assert not pool.state.durable.slots


def test_what_a_slot_had_waits_again_when_its_process_and_its_connection_are_gone() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.give(s.SlotExited("x", "1", 0, outcome.CRASHED, ""))
    assert pool.call(1).owner == "x"
    pool.give(s.SlotLost("x", "1"))
    assert pool.call(1).state is TaskState.READY and not pool.state.durable.slots


def test_a_function_that_no_able_node_has_is_not_waited_for() -> None:
    pool = Bench("y")
    pool.slot_up("x", gpu=1.0)
    pool.submit(1, requires=(("gpu", 1.0),))
    pool.fail("x", 1, outcome.NOT_FOUND)
    assert pool.call(1).state is TaskState.DEAD


def test_a_function_is_looked_for_anew_once_who_had_it_is_gone() -> None:
    pool = Bench("x", "y")
    pool.submit(1)
    first = pool.call(1).owner
    other = "y" if first == "x" else "x"
    pool.fail(first, 1, outcome.NOT_FOUND)
    assert pool.call(1).owner == other
    pool.give(s.SlotLost(other, "1"), s.SlotExited(other, "1", 0, outcome.CRASHED, ""))
    assert pool.call(1).owner == first, "it may have been installed; else it fails"
    pool.fail(first, 1, outcome.NOT_FOUND)
    assert pool.call(1).state is TaskState.DEAD


def test_what_ended_within_the_turn_is_not_sent_any_more() -> None:
    pool = Bench("x")
    pool.submit(1)
    effects = pool.give(s.SlotUp("x", "node of x", "1"), s.Cancel((task_id(1, 1),)))
    assert runs(effects) == {}


def test_what_changed_hands_within_the_turn_is_sent_once() -> None:
    pool = Bench("x")
    pool.submit(1)
    effects = pool.give(s.SlotUp("x", "node of x", "1"), s.SlotUp("x", "node of x", "2"))
    assert runs(effects) == {"x": [1]}


def test_a_task_that_should_have_stopped_is_told_so_again() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.give(s.Cancel((task_id(1, 1),)))
    effects = pool.give(s.NodeUp("node of x", (("x", "1"),), (task_id(1, 1),)))
    assert e.StopTask("node of x", "x", "1", task_id(1, 1)) in effects
    pool.submit(2)
    assert pool.give(s.NodeUp("node of x", (("x", "1"),), (task_id(1, 2),))) == []


def test_a_second_copy_that_went_with_its_connection_makes_room_for_another() -> None:
    pool = Bench("x", "y", *"abcdefghij")
    for n in range(1, 30):
        pool.submit(n)
        pool.finish(pool.call(n).owner, n)
    pool.submit(30)
    for _ in range(8):
        for slot in list(pool.state.durable.slots.values()):
            pool.give(s.NodeUp(slot.node, ((slot.name, slot.incarnation),)))
        pool.wait(0.2)
    ((id, slot),) = pool.state.volatile.copies.items()
    pool.slot_up(slot)
    assert id not in pool.state.volatile.copies


# -- snapshots and the journal


def test_the_order_of_leases_survives_a_snapshot() -> None:
    pool = Bench("x")
    pool.submit(1)
    pool.finish("x", 1)
    pool.submit(2)
    pool.submit(3, count=2, priority=0)
    pool.submit(9, priority=5)
    leases = [list(book.leases.get("x", {})) for book in (pool.state.durable.book, pool.thawed().book)]
    pool.give(s.GaveBack("x", "1", (task_id(1, 2),)))
    leases += [list(book.leases.get("x", {})) for book in (pool.state.durable.book, pool.thawed().book)]
    assert leases[0] == leases[1] and leases[2] == leases[3] and len(leases[2]) > 1


def test_a_delayed_task_that_began_is_the_same_in_the_fold() -> None:
    pool = Bench("x")
    pool.submit(1, delay_s=1.0)
    pool.submit(2, delay_s=1.0)
    assert runs(pool.wait(1.5)) == {"x": [1]}
    assert encode(freeze(pool.fold())) == encode(freeze(pool.state.durable))


def test_lanes_that_are_empty_are_let_go() -> None:
    pool = Bench("x")
    for n in range(1, 20):
        pool.submit(n, requires=(("cpu", -float(n)),))
        pool.finish("x", n)
    assert len(pool.state.durable.book.lanes) <= 2


def test_messages_that_never_arrived_are_given_again() -> None:
    pool = Bench()
    pool.submit(1, 3, fn=MESSAGE, queue="work")

    def take(number: int, count: int) -> tuple[int, ...]:
        [given] = [x for x in pool.give(s.Take(ANN, number, "work", count)) if isinstance(x, e.Give)]
        return given.ids

    first, second = take(1, 2)
    pool.give(s.ClientLost(ANN))
    pool.give(s.ClientUp(ANN, False, (first,)))  # the connection broke on the way
    assert take(2, 3) == (second, second + 1)
    pool.give(s.Settle(ANN, 1, (first, second, second + 1), True))
    assert not pool.state.durable.book.leases.get("@1") and not pool.fold().book.leases.get("@1")


def test_messages_that_are_done_are_forgotten_though_no_client_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "KEPT", 5)
    monkeypatch.setattr(retention, "BATCH", 3)
    pool = Bench()
    for number in range(1, 30):
        pool.submit(number, fn=MESSAGE, queue="work")
        pool.give(s.Take(ANN, number, "work", 1))
        pool.give(s.Settle(ANN, number, (task_id(1, number),), True))
    assert len(pool.state.durable.book.calls) <= 5 + 3


def test_no_slot_has_a_clients_name() -> None:
    pool = Bench()
    pool.submit(1, fn=MESSAGE, queue="work")
    pool.give(s.Take(ANN, 1, "work", 1))
    effects = pool.slot_up("@1")
    assert not runs(effects) and "@1" not in pool.state.volatile.seats


def test_what_is_not_said_of_a_queue_stays_as_it_is() -> None:
    pool = Bench()
    pool.give(s.SetQueue("q", QueueChange(capacity=3, paused=True)))
    pool.give(s.SetQueue("q", QueueChange(rate_per_s=5.0)))
    settings = pool.state.durable.book.queues["q"].settings
    assert (settings.capacity, settings.rate_per_s, settings.paused) == (3, 5.0, True)

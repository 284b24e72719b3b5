"""What every scheduling policy promises, whichever it is, and what some promise beyond that."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from typing import Any

import pytest

from plesio import registry
from plesio.core.pool import coordinator as core
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import Recipe, task_id
from plesio.core.pool.turn import Policies, State
from plesio.errors import UnknownName
from plesio.policies.aging import Aging
from plesio.policies.fifo import Fifo
from plesio.policies.least_loaded import LeastLoaded
from plesio.policies.power_of_two import PowerOfTwo, draw
from plesio.policies.priority import Priority
from plesio.policies.rate_aware import RateAware

ORDERS = sorted(registry.ORDERS)
PLACEMENTS = sorted(registry.PLACEMENTS)


@dataclasses.dataclass
class Seat:
    backlog_s: float = 0.0
    speed: float = 1.0


def order(name: str) -> Any:
    return registry.load(registry.ORDERS, "order", name)()


def placement(name: str) -> Any:
    return registry.load(registry.PLACEMENTS, "placement", name)()


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_keeps_tasks_of_a_priority_as_they_came(name: str) -> None:
    rng = random.Random(1)
    times = sorted(rng.uniform(0, 1e6) for _ in range(200))
    for priority in (-1000, -1, 0, 7, 1000):
        ranks = [order(name).rank(priority, at_s) for at_s in times]
        assert ranks == sorted(ranks) and all(math.isfinite(rank) for rank in ranks)


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_never_puts_a_higher_priority_behind_a_lower_one_of_the_same_moment(name: str) -> None:
    assert order(name).rank(5, 100.0) <= order(name).rank(4, 100.0)
    assert order(name).rank(5, 100.0) == order(name).rank(5, 100.0)


def test_each_order_weighs_priorities_in_its_own_way() -> None:
    assert Fifo().rank(1000, 2.0) > Fifo().rank(-1000, 1.0)
    assert Priority().rank(1, 1e9) < Priority().rank(0, 0.0)


@pytest.mark.parametrize("step_s", [0.5, 10.0])
@pytest.mark.parametrize("levels", [1, 3, 2000])
def test_aging_lets_a_task_be_overtaken_for_a_step_per_level_and_no_longer(step_s: float, levels: int) -> None:
    aging, low, bound_s = Aging(step_s), -levels // 2, levels * step_s
    mine = aging.rank(low, 1000.0)
    assert aging.rank(low + levels, 1000.0 + 0.99 * bound_s) < mine
    assert aging.rank(low + levels, 1000.0 + 1.01 * bound_s) > mine


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("place", PLACEMENTS)
def test_a_pool_deals_by_any_order_and_placement(name: str, place: str) -> None:
    state, rng = State(policies=Policies(order(name), placement(place))), random.Random(3)
    session, now_s = "s" * 16, 0.0
    core.handle(state, now_s, [s.ClientUp(session), *(s.SlotUp(f"x{i}", "n", "1") for i in range(3))])
    submitted: dict[int, tuple[int, float]] = {}
    began: list[int] = []
    for n in range(1, 120):
        now_s += 0.5
        recipe = Recipe("m:f", priority=rng.randint(-2, 2))
        facts, _ = core.handle(state, now_s, [s.NodeUp("n", tuple((f"x{i}", "1") for i in range(3)))])
        facts2, _ = core.handle(state, now_s, [s.Submit(session, n, recipe, (b"",))])
        facts3: list[Any] = []
        if n % 3 == 0:
            owners = [slot for slot, held in state.durable.book.leases.items() if held]
            slot = rng.choice(owners)
            id = next(iter(state.durable.book.leases[slot]))
            facts3, _ = core.handle(state, now_s, [s.Finished(slot, "1", (id,), (b"",), 1.0)])
        for fact in (*facts, *facts2, *facts3):
            if isinstance(fact, f.TasksSubmitted):
                submitted[task_id(fact.client, fact.first)] = (fact.recipe.priority, fact.at_s)
            if isinstance(fact, f.TasksLeased):
                for id in fact.ids:
                    mine = order(name).rank(*submitted[id])
                    left = [order(name).rank(*submitted[x]) for x in submitted if x not in began and x != id]
                    assert mine <= min(left, default=math.inf)
                    began.append(id)
    assert len(began) == len(set(began)) > 30


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_placement_chooses_one_of_those_that_it_is_given_and_always_the_same(name: str) -> None:
    rng = random.Random(2)
    for turn in range(300):
        seats = [Seat(rng.choice((0.0, rng.random())), rng.uniform(0.1, 10.0)) for _ in range(rng.randint(1, 9))]
        before = [dataclasses.replace(seat) for seat in seats]
        cost_s = rng.choice((0.0, 0.001, 5.0))
        choice = placement(name).choose(seats, cost_s, turn)
        assert 0 <= choice < len(seats) and seats == before
        assert placement(name).choose(seats, cost_s, turn) == choice


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_placement_prefers_the_idle_one_of_two_alike(name: str) -> None:
    for turn in range(50):
        assert placement(name).choose([Seat(1.0), Seat(0.0)], 0.01, turn) == 1
        assert placement(name).choose([Seat(0.0), Seat(1.0)], 0.01, turn) == 0


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_placement_spreads_equal_work_over_equal_slots(name: str) -> None:
    seats, policy = [Seat() for _ in range(8)], placement(name)
    for turn in range(4000):
        seats[policy.choose(seats, 1.0, turn)].backlog_s += 1.0
    loads = [seat.backlog_s for seat in seats]
    assert max(loads) - min(loads) <= 8, loads


def test_least_loaded_takes_the_first_of_the_least() -> None:
    assert LeastLoaded().choose([Seat(2.0), Seat(1.0), Seat(1.0)], 9.0, 0) == 1


def test_power_of_two_draws_by_its_seed_and_the_turn_alone_and_draws_evenly() -> None:
    seats = [Seat() for _ in range(10)]
    first = [PowerOfTwo(7).choose(seats, 1.0, turn) for turn in range(5000)]
    assert first == [PowerOfTwo(7).choose(seats, 1.0, turn) for turn in range(5000)]
    assert first != [PowerOfTwo(8).choose(seats, 1.0, turn) for turn in range(5000)]
    counts = Counter(first)
    assert len(counts) == 10 and all(400 <= count <= 600 for count in counts.values()), counts
    assert all(0 <= draw(seed, turn) < 1 << 64 for seed in (0, 1, 1 << 63) for turn in range(100))


def test_power_of_two_never_takes_the_most_loaded_of_several() -> None:
    seats = [Seat(float(i)) for i in range(5)]
    assert {PowerOfTwo().choose(seats, 1.0, turn) for turn in range(500)} == {0, 1, 2, 3}


def test_rate_aware_prefers_the_slot_that_ends_first() -> None:
    policy = RateAware()
    assert policy.choose([Seat(0.0, 1.0), Seat(0.0, 4.0)], 1.0, 0) == 1
    assert policy.choose([Seat(0.0, 1.0), Seat(8.0, 4.0)], 1.0, 0) == 0, "a fast one that is full ends later"
    assert policy.choose([Seat(0.0, 1.0), Seat(2.0, 4.0)], 1.0, 0) == 1, "a busy fast one may still be first"
    assert policy.choose([Seat(0.0, 1.0), Seat(0.0, 2.0)], 0.0, 0) == 1, "among equals the faster"
    assert policy.choose([Seat(), Seat()], 1.0, 5) == 0


def test_rate_aware_shares_work_by_speed() -> None:
    seats = [Seat(speed=speed) for speed in (1.0, 2.0, 5.0)]
    given = Counter(0 for _ in ())
    for turn in range(800):
        at = RateAware().choose(seats, 1.0, turn)
        seats[at].backlog_s += 1.0
        given[at] += 1
    assert [round(given[i] / 100) for i in range(3)] == [1, 2, 5]


def test_an_unknown_policy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="aging"):
        registry.load(registry.ORDERS, "order", "ageing")

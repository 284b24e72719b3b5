"""The check of histories: what cannot have happened is told from what can."""

from __future__ import annotations

import itertools
import random

import pytest

from plesio.testing.linear import NEVER_S, Count, Op, Places, is_linearizable


def test_calls_one_after_the_other_must_be_right() -> None:
    history = [Op(0, 1, "add", 2, 2), Op(2, 3, "get", None, 2), Op(4, 5, "swap", (2, 7), True), Op(6, 7, "add", 1, 8)]
    assert is_linearizable(history, Count())
    for i, wrong in enumerate((3, 0, False, 9)):
        assert not is_linearizable(
            [op._replace(result=wrong) if i == j else op for j, op in enumerate(history)], Count()
        )


def test_calls_at_one_time_may_have_been_in_any_order_but_must_have_been_in_one() -> None:
    both = [Op(0, 9, "add", 1, 1), Op(1, 8, "add", 1, 2)]
    assert is_linearizable(both, Count()) and is_linearizable(
        [op._replace(result=3 - op.result) for op in both], Count()
    )
    assert not is_linearizable([op._replace(result=1) for op in both], Count())


def test_a_value_read_is_not_older_than_one_read_before() -> None:
    add = Op(0, 9, "add", 1, 1)
    assert is_linearizable([add, Op(1, 2, "get", None, 0), Op(3, 4, "get", None, 1)], Count())
    assert not is_linearizable([add, Op(1, 2, "get", None, 1), Op(3, 4, "get", None, 0)], Count())


def test_what_never_returned_may_have_been_done_or_not() -> None:
    add = Op(0, NEVER_S, "add", 5)
    for value in (0, 5):
        assert is_linearizable([add, Op(1, 2, "get", None, value)], Count())
    assert not is_linearizable([add, Op(1, 2, "get", None, 10)], Count())


def test_two_do_not_hold_a_lock_and_tokens_grow() -> None:
    first, second = Op(0, 1, "acquire", "x", 1), Op(2, 3, "acquire", "y", 2)
    assert not is_linearizable([first, second], Places(1)) and is_linearizable([first, second], Places(2))
    release = Op(1.2, 1.8, "release", 1, "done")
    assert is_linearizable([first, release, second], Places(1))
    assert not is_linearizable([first, release, second._replace(result=1)], Places(1))
    assert not is_linearizable([first, release, Op(1.9, 2, "check", 1, "done"), second], Places(1))


def test_what_was_lost_was_not_held_any_more() -> None:
    first, second, lose = Op(0, 1, "acquire", "x", 1), Op(3, 4, "acquire", "y", 2), Op(2, NEVER_S, "lose", 1)
    assert is_linearizable([first, lose, second, Op(5, 6, "release", 1, "lost")], Places(1))
    assert not is_linearizable([first, lose, second, Op(5, 6, "release", 1, "done")], Places(1))
    assert not is_linearizable([first, Op(5, 6, "release", 1, "lost")], Places(1))
    unknown = Op(0, NEVER_S, "acquire", "x")
    assert is_linearizable([unknown, Op(1, NEVER_S, "lose", "x"), second], Places(1)) and is_linearizable(
        [second], Places(1)
    )


@pytest.mark.parametrize("seed", range(30))
def test_it_says_what_trying_all_orders_says(seed: int) -> None:
    rng = random.Random(seed)
    history = []
    for _ in range(5):
        called_s = rng.uniform(0, 4)
        returned_s = NEVER_S if rng.random() < 0.2 else called_s + rng.uniform(0, 3)
        name = rng.choice(("add", "get"))
        result = None if returned_s == NEVER_S else rng.randint(0, 2)
        history.append(Op(called_s, returned_s, name, 1, result))
    assert is_linearizable(history, Count()) == any(map(explains, orders(history)))


def orders(history: list[Op]) -> list[tuple[Op, ...]]:
    returned = [op for op in history if op.returned_s < NEVER_S]
    others = [op for op in history if op.returned_s == NEVER_S]
    some = (chosen for count in range(len(others) + 1) for chosen in itertools.combinations(others, count))
    return [order for chosen in some for order in itertools.permutations((*returned, *chosen))]


def explains(order: tuple[Op, ...]) -> bool:
    if any(later.returned_s < op.called_s for i, op in enumerate(order) for later in order[i + 1 :]):
        return False
    value = 0
    for op in order:
        value += op.argument if op.name == "add" else 0
        if op.result not in (None, value):
            return False
    return True

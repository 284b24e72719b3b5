"""The check of histories: what cannot have happened is told from what can."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from plesio.testing.linear import NEVER_S, Count, Flag, Meeting, Op, Places, is_linearizable
from plesio.testing.lockwork import Notes, histories


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


def test_readers_share_and_a_writer_is_alone() -> None:
    both = Places(1000)
    reads = [Op(0, 1, "read", "x", 1), Op(2, 3, "read", "y", 2)]
    gone = [Op(4, 5, "release", token, "done") for token in (1, 2)]
    write = Op(6, 7, "write", "z", 3)
    assert is_linearizable([*reads, *gone, write], both)
    assert not is_linearizable([*reads, gone[0], write], both), "a reader beside a writer"
    assert not is_linearizable([write, Op(8, 9, "read", "x", 4)], both), "a writer beside a reader"
    assert not is_linearizable([write, Op(8, 9, "write", "x", 4)], both), "two writers"
    assert not is_linearizable([*reads, *gone, write._replace(result=2)], both), "a token that goes back"
    assert not is_linearizable([reads[0], reads[1]._replace(result=1)], both), "readers with one token"


def test_a_reader_that_was_killed_keeps_a_writer_out_until_it_is_lost() -> None:
    read, write = Op(0, NEVER_S, "read", "x"), Op(3, 4, "write", "y", 2)
    check = Op(1, 2, "check", "x", "done")  # it was granted, then
    assert not is_linearizable([read, check, write], Places(1000))
    assert is_linearizable([read, check, Op(2.5, NEVER_S, "lose", "x"), write], Places(1000))


def test_an_event_is_what_it_was_set_to() -> None:
    put, clear = Op(0, 1, "set", None), Op(4, 5, "clear", None)
    for name, argument in (("get", None), ("wait", 0), ("wait", 1.0)):
        during, after = Op(2, 3, name, argument, True), Op(6, 7, name, argument, True)
        assert is_linearizable([put, during, clear, after._replace(result=False)], Flag())
        assert not is_linearizable([put, during, clear, after], Flag()), "it was cleared all the time"
        assert is_linearizable([put, during._replace(result=False), clear], Flag()) == (argument == 1.0)
    assert is_linearizable([put, Op(2, 9, "wait", 1.0, True), clear], Flag())
    assert not is_linearizable([Op(2, 9, "wait", 1.0, True), clear], Flag())
    unknown = put._replace(returned_s=NEVER_S)
    assert all(is_linearizable([unknown, Op(2, 3, "get", None, result)], Flag()) for result in (True, False))


def waits(*times: tuple[float, float, int | None]) -> list[Op]:
    """At a barrier: when it was called, when it returned, and what."""
    return [
        Op(called_s, returned_s, name, None, result)
        for called_s, returned_s, result in times
        for name in (("come", "go") if result is not None else ("come",))
    ]


def test_all_parties_of_a_barrier_have_one_moment_in_common() -> None:
    first = [(0, 10, 0), (1, 4, 0), (3, 5, 0)]
    second = [(6, 20, 1), (7, 20, 1), (11, 20, 1)]
    assert is_linearizable(waits(*first, *second), Meeting(3))
    assert not is_linearizable(waits(*first[:2]), Meeting(3)), "one that comes too early lets them go"
    assert not is_linearizable(waits((0, 10, 0), (1, 2, 0), (3, 5, 0)), Meeting(3)), "one left before all had come"
    assert not is_linearizable(waits(*first, (0, 10, 0)), Meeting(3)), "four were let go"
    assert not is_linearizable(waits((0, 1, 0), (2, 3, 0), (0, 3, 0)), Meeting(3)), "one came twice"
    assert not is_linearizable(waits(*second), Meeting(3)), "a number was left out"
    assert not is_linearizable(waits(*((c, r, 1 - n) for c, r, n in (*first, *second))), Meeting(3)), "they go back"


def test_a_party_that_was_killed_counted_once_or_not() -> None:
    two = [(0, 4, 0), (1, 4, 0)]
    killed = (2, NEVER_S, None)
    for came in ([killed], [killed, (2, 3, 0)]):
        assert is_linearizable(waits(*two, *came), Meeting(3))
    assert not is_linearizable(waits(*two, (5, NEVER_S, None)), Meeting(3)), "it came after they had left"
    assert not is_linearizable(waits(*two, killed, (5, 9, 1), (6, 9, 1)), Meeting(3)), "it counted twice"


def test_a_party_that_gave_up_is_none(tmp_path: Path) -> None:
    for i, result in enumerate((0, 0, "late")):
        notes = Notes(tmp_path / f"w{i}")
        notes.call("barrier", "wait", 1.0, lambda result=result: result)  # type: ignore[misc]
    Notes(tmp_path / "w3").call("event", "set", None, lambda: None)
    found = histories(sorted(tmp_path.glob("w*")), {})
    assert [op.name for op in found["barrier"]] == ["come", "go"] * 2 and [op.name for op in found["event"]] == ["set"]
    assert not is_linearizable(found["barrier"], Meeting(3))


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

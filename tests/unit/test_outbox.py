"""A client's outbox and mailbox: nothing that was submitted is lost or sent in another order, whatever the pool says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from plesio.core.pool.effects import Give, Settled
from plesio.core.pool.mailbox import Mailbox
from plesio.core.pool.outbox import GROUP, Group, Outbox, is_message
from plesio.core.pool.recipe import MESSAGE, TOPIC, Recipe, task_id
from plesio.core.pool.stimuli import Publish, Settle, Submit, Take

PLAIN, OTHER = Recipe("m:f"), Recipe("m:g")


def numbers(groups: list[Group]) -> list[int]:
    return [group.first + i for group in groups for i in range(len(group.args))]


def test_neighbours_of_one_recipe_are_one_group() -> None:
    box = Outbox("s")
    box.number = 7
    ids = [box.add(PLAIN, b"a"), box.add(PLAIN, b"b"), box.add(OTHER, b"c"), box.add(OTHER, b"d", key="k")]
    assert ids == [task_id(7, n) for n in (1, 2, 3, 4)]
    assert box.cut() == [
        Submit("s", 1, PLAIN, (b"a", b"b")),
        Submit("s", 3, OTHER, (b"c",)),
        Submit("s", 4, OTHER, (b"d",), key="k"),
    ]
    assert box.unconfirmed == 4 and box.cut() == []


def test_a_group_does_not_grow_without_bound() -> None:
    box = Outbox("s")
    for _ in range(2 * GROUP + 1):
        box.add(PLAIN, b"")
    assert [len(group.args) for group in box.cut()] == [GROUP, GROUP, 1]


def test_a_topic_is_published_and_done_once_it_is_durable() -> None:
    box = Outbox("s")
    box.add(Recipe(TOPIC, "news", 3), b"x")
    box.add(Recipe(MESSAGE, "q"), b"y")
    box.add(PLAIN, b"z")
    topic, message, task = box.cut()
    assert topic == Publish("s", 1, "news", (b"x",), 3)
    assert [is_message(group) for group in (topic, message, task)] == [True, True, False]


def test_a_part_may_be_confirmed_and_the_rest_is_sent_again() -> None:
    box = Outbox("s")
    for args in (b"a", b"b", b"c"):
        box.add(PLAIN, args)
    box.cut()
    assert box.confirmed(1, 1) == Submit("s", 1, PLAIN, (b"a",)) and box.confirmed(1, 1) is None
    assert box.resend() == [Submit("s", 2, PLAIN, (b"b", b"c"))] and list(box.here()) == [2, 3]


def test_what_was_put_off_is_due_in_time_or_when_there_is_room() -> None:
    box = Outbox("s")
    box.add(PLAIN, b"a")
    box.add(OTHER, b"b")
    box.cut()
    box.put_off(1, 5.0)
    box.put_off(2, 9.0)
    assert box.puts_off and box.due_s() == 5.0 and box.due(4.9) == []
    box.again(2)
    assert numbers(box.due(4.9)) == [2] and numbers(box.due(5.0)) == [1] and not box.puts_off


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([PLAIN, OTHER]), st.booleans()),
        st.tuples(st.just("send"), st.none(), st.none()),
        st.tuples(st.just("confirm"), st.integers(0, 30), st.integers(1, 4)),
        st.tuples(st.just("put off"), st.integers(0, 30), st.integers(0, 3)),
        st.tuples(st.just("time"), st.none(), st.none()),
        st.tuples(st.just("connect"), st.none(), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(steps)
def test_each_task_is_sent_once_in_order_and_stays_until_it_is_confirmed(steps: list[tuple[str, object, object]]) -> None:
    box, now_s = Outbox("s"), 0.0
    added, sent, confirmed = 0, [], set()
    for what, first, second in steps:
        if what == "add":
            added += 1
            box.add(first, b"", key="k" if second else "")
        elif what == "send":
            sent += numbers(box.cut())
        elif what == "confirm":
            group = box.confirmed(first, second)
            if group is not None:
                assert len(group.args) <= second
                assert not confirmed & set(numbers([group]))
                confirmed |= set(numbers([group]))
        elif what == "put off":
            box.put_off(first, now_s + second)
        elif what == "time":
            now_s += 1.0
            assert not set(numbers(box.due(now_s))) & confirmed
        else:
            assert numbers(box.resend()) == [n for n in sent if n not in confirmed]
        assert box.unconfirmed == len(sent) - len(confirmed)
        assert sorted(box.here()) == [n for n in range(1, added + 1) if n not in confirmed]
    assert sent + numbers(box.cut()) == list(range(1, added + 1))


def test_messages_are_held_until_it_is_durable_that_they_are_settled() -> None:
    box = Mailbox("s")
    wish = box.wish("q", 2)
    assert wish == Take("s", 1, "q", 2) and not box.arrived(1) and box.resend() == [wish]
    given = Give("s", 1, (5, 6), (b"a", b"b"), (0, 0))
    assert box.receive(given) is None and box.arrived(1)
    assert box.end_wish(1) == (given, None) and set(box.holds()) == {5, 6}
    said = box.settle([5], True)
    assert box.settling(said.number) and box.resend() == [said]
    box.settled(Settled("s", said.number))
    assert not box.settling() and box.holds() == (6,)


def test_messages_that_nobody_waits_for_any_more_are_given_back() -> None:
    box = Mailbox("s")
    wish = box.wish("q", 2)
    assert box.end_wish(wish.number) == (None, Take("s", 1, "q", 0))
    back = box.receive(Give("s", 1, (5,), (b"a",), (0,)))
    assert back == Settle("s", 2, (5,), False) and box.holds() == (5,) and not box.arrived(1)
    box.settled(Settled("s", 2))
    assert box.holds() == ()

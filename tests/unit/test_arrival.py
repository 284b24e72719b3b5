"""What a learner does with what it is told of the lineage: every decision by itself, and that none forgets a push."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plesio.core import effects as e
from plesio.core.arrival import Advance, Arrivals, Drop, JoinAnew, Load, Nothing, Order
from plesio.core.pushbook import PushBook
from plesio.core.spec import RunSpec
from plesio.records import Version
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule
from plesio.strategies.text import parse
from plesio.wire import messages as m

DELTAS = Schedule.of(Decoupled(every=1))
GRADIENTS = Schedule.of(Sync())
PHASES = parse("sync until rounds=3; decoupled(every=1) until rounds=6; async until rounds=9; sync", every=1)
MISSED = JoinAnew("it missed versions")
MISSED_PHASE = JoinAnew("it missed the end of a phase")
LOST = JoinAnew("work under way was lost with the synchronizer")


def spec(schedule: Schedule) -> RunSpec:
    return RunSpec(run="r", learners=1, schedule=schedule)


def ends_at(number: int) -> tuple[int, ...]:
    """Of PHASES."""
    return tuple(end for end in (3, 6, 9) if end <= number)


def made(kind: str, lineage: int, number: int, merged: int = 0, generation: int = 1, **more: Any) -> m.VersionMade:
    return m.VersionMade(Version(lineage, number), kind, {"a": (generation, merged)}, **more)


def learner(schedule: Schedule, number: int = 5, ends: tuple[int, ...] = ()) -> Arrivals:
    """Of version `number` of lineage 1."""
    arrivals = Arrivals(PushBook(run="", name="a"))
    assert arrivals.welcomed(e.Welcome("a", 1, spec(schedule), 1))
    assert arrivals.take(made("state", 1, number, ends=ends), b"") == Load(joining=True)
    return arrivals


def push(arrivals: Arrivals, unit: tuple[int, int] | None = None, ends: bool = True) -> int:
    arrivals.book.step(1, unit, ends)
    return arrivals.book.cut("none", "", 0, 0.1, last=False).seq


def told(lineage: int, voided: tuple[int, ...] = (), settled: int = 0, number: int = 5) -> e.RollBack:
    return e.RollBack("a", 1, lineage, Version(lineage, number), voided, settled)


# -- changes


@pytest.mark.parametrize(
    ("kind", "lineage", "number", "order"),
    [
        ("delta", 1, 6, Advance([])),
        ("delta", 1, 5, Nothing()),
        ("delta", 1, 4, Nothing()),
        ("delta", 1, 7, MISSED),
        ("params", 1, 6, Advance([])),
        ("params", 1, 9, Advance([])),
        ("params", 1, 5, Nothing()),
        ("gap", 1, 6, MISSED),
        ("gap", 1, 9, MISSED),
        ("gap", 1, 5, Nothing()),
        ("delta", 2, 6, Nothing()),
        ("gap", 2, 9, Nothing()),
    ],
)
def test_only_what_follows_the_base_is_applied(kind: str, lineage: int, number: int, order: Order) -> None:
    arrivals = learner(DELTAS)
    assert arrivals.take(made(kind, lineage, number), b"") == order
    assert arrivals.book.base == Version(1, number if isinstance(order, Advance) else 5)


def test_a_version_settles_the_pushes_of_this_generation_that_it_holds() -> None:
    arrivals = learner(DELTAS)
    seqs = [push(arrivals), push(arrivals)]
    assert arrivals.take(made("delta", 1, 6, merged=2, generation=0), b"") == Advance([])
    assert arrivals.take(made("delta", 1, 7, merged=1), b"") == Advance(seqs[:1])
    assert arrivals.take(made("state", 1, 9, merged=2), b"") == Load(keep=True, settled=seqs[1:])


def test_after_the_last_version_of_a_phase_it_joins_anew_unless_it_holds_the_state_or_the_run_is_over() -> None:
    assert learner(PHASES, 2).take(made("gradient", 1, 3, donor="a", ends=(3,)), b"") == Advance([], donate=True)
    assert learner(PHASES, 5, (3,)).take(made("delta", 1, 6, ends=(3, 6)), b"") == Advance([], reload=True)
    over = learner(PHASES, 5, (3,))
    assert over.take(made("delta", 1, 6, ends=(3, 6), final=True), b"") == Advance([])
    assert over.final


def test_parameters_of_a_later_phase_are_no_way_there() -> None:
    assert learner(PHASES, 4, (3,)).take(made("params", 1, 8, ends=(3, 6)), b"") == MISSED_PHASE
    assert learner(PHASES, 4, (3,)).take(made("params", 1, 6, ends=(3, 6)), b"") == Advance([], reload=True)


# -- states


@pytest.mark.parametrize(
    ("settled", "voided", "order"),
    [
        (0, (), LOST),
        (1, (), Load(keep=True, settled=[1], rolled_back=True)),
        (0, (1,), Load(keep=True, settled=[1], rolled_back=True)),
    ],
    ids=["nobody saw it", "merged for good", "merged in what is gone"],
)
def test_a_gradient_that_came_too_late_for_its_phase_is_no_change_that_could_be_unsent_again(
    settled: int, voided: tuple[int, ...], order: Order
) -> None:
    arrivals = learner(PHASES, 2)
    push(arrivals)
    assert arrivals.take(made("gradient", 1, 3, ends=(3,)), b"") == Advance([])
    assert arrivals.rolled_back(told(2, voided, settled, number=3)) == []
    assert arrivals.take(made("state", 2, 3, ends=(3,)), b"") == order


def test_a_change_of_the_phase_after_gradients_is_unsent_again() -> None:
    arrivals = learner(PHASES, 2)
    push(arrivals)
    assert arrivals.take(made("gradient", 1, 3, merged=1, ends=(3,)), b"") == Advance([1])
    push(arrivals)
    assert arrivals.rolled_back(told(2, number=3)) == []
    assert arrivals.take(made("state", 2, 3, ends=(3,)), b"") == Load(keep=True, back=[2], rolled_back=True)


def test_a_state_of_the_same_lineage_keeps_what_is_not_merged_only_where_work_is_local() -> None:
    for schedule, keep in ((DELTAS, True), (GRADIENTS, False)):
        arrivals = learner(schedule)
        push(arrivals)
        assert arrivals.take(made("state", 1, 5), b"") == Nothing()
        assert arrivals.take(made("state", 1, 7, final=True), b"") == Load(keep=keep)
        assert list(arrivals.book.in_flight) == [1] and not arrivals.final
    assert learner(PHASES, 5, (3,)).take(made("state", 1, 7, ends=(3, 6)), b"") == MISSED_PHASE


@pytest.mark.parametrize("state_first", [True, False])
def test_a_state_of_a_new_lineage_waits_for_the_roll_back_and_what_follows_it_too(state_first: bool) -> None:
    arrivals = learner(DELTAS)
    kept, voided, settled = push(arrivals), push(arrivals), 0
    state, change = made("state", 2, 5), made("delta", 2, 6)
    put_aside: list[tuple[Any, Any]] = []
    if state_first:
        assert arrivals.take(state, b"state") == arrivals.take(change, b"change") == Nothing()
        assert arrivals.book.base == Version(1, 5)
        put_aside = arrivals.rolled_back(told(2, (voided,), settled))
        assert put_aside == [(state, b"state"), (change, b"change")] and not arrivals.stashed
    else:
        assert arrivals.rolled_back(told(2, (voided,), settled)) == []
    assert arrivals.take(state, b"state") == Load(keep=True, back=[kept], settled=[voided], rolled_back=True)
    assert arrivals.take(change, b"change") == Advance([])
    assert arrivals.book.unsent.steps == 1 and not arrivals.book.in_flight
    assert arrivals.book.base == Version(2, 6)


def test_a_newer_state_takes_the_place_of_what_was_put_aside() -> None:
    arrivals = learner(DELTAS)
    for message in (made("state", 2, 5), made("delta", 2, 6), made("state", 3, 5), made("delta", 2, 7)):
        assert arrivals.take(message, b"") == Nothing()
    assert arrivals.rolled_back(told(2)) == [(made("state", 3, 5), b"")]
    assert arrivals.take(made("state", 3, 5), b"") == Nothing(), "of that lineage it was not told"


def test_a_roll_back_is_for_this_generation_and_no_older_than_the_base() -> None:
    arrivals = learner(DELTAS)
    arrivals.take(made("state", 2, 5), b"")
    assert arrivals.rolled_back(e.RollBack("a", 7, 2, Version(2, 5), (), 0)) == arrivals.rolled_back(told(1)) == []
    assert arrivals.rollback is None and arrivals.stashed


@pytest.mark.parametrize(("voided", "settled", "lost"), [((), 0, True), ((1,), 0, False), ((), 1, False)])
def test_a_gradient_under_way_is_lost_with_its_version_unless_it_is_known_what_became_of_it(
    voided: tuple[int, ...], settled: int, lost: bool
) -> None:
    arrivals = learner(GRADIENTS)
    push(arrivals, (0, 0))
    arrivals.rolled_back(told(2, voided, settled))
    assert arrivals.take(made("state", 2, 5), b"") == (LOST if lost else Load(settled=[1], rolled_back=True))


def test_a_gradient_that_did_not_leave_yet_is_lost_too() -> None:
    arrivals = learner(GRADIENTS)
    arrivals.book.step(1, (0, 0), ends=True)
    arrivals.rolled_back(told(2))
    assert arrivals.take(made("state", 2, 5), b"") == LOST


@pytest.mark.parametrize("schedule", [DELTAS, GRADIENTS], ids=["deltas", "gradients"])
def test_a_unit_that_lost_a_part_is_given_up(schedule: Schedule) -> None:
    arrivals = learner(schedule)
    seq = push(arrivals, (0, 0), ends=False)
    arrivals.rolled_back(told(2, (seq,)))
    assert arrivals.take(made("state", 2, 5), b"") == LOST


def test_once_the_run_is_over_nobody_waits_for_a_roll_back() -> None:
    arrivals = learner(DELTAS)
    push(arrivals)
    assert arrivals.take(made("state", 2, 5), b"final") == Nothing()
    assert arrivals.ended() == [(made("state", 2, 5), b"final")]
    assert arrivals.take(made("state", 2, 5), b"final") == Load(keep=True)


# -- generations, refusals, donations


def test_between_two_generations_nothing_counts() -> None:
    arrivals = learner(DELTAS)
    arrivals.take(made("state", 2, 5), b"")
    arrivals.rejoin()
    assert not arrivals.stashed
    for kind in ("state", "delta", "params", "gap"):
        assert arrivals.take(made(kind, 2, 9), b"") == Nothing() and arrivals.book.base is None
    assert arrivals.welcomed(e.Welcome("a", 2, spec(DELTAS), 3))
    assert not arrivals.welcomed(e.Welcome("a", 2, spec(DELTAS), 3))
    assert arrivals.take(made("params", 3, 9), b"") == Nothing(), "there is nothing that it could go on from"
    assert arrivals.take(made("state", 3, 9), b"") == Load(joining=True)


@pytest.mark.parametrize(
    ("reason", "order"),
    [
        ("stale", Drop([1], frozenset({(0, 0)}))),
        ("lineage", Drop([], frozenset())),  # a roll-back follows, and says what becomes of it
        ("generation", Drop([], frozenset())),
        ("lease", JoinAnew("push 1 was refused (lease)")),
        ("future", JoinAnew("push 1 was refused (future)")),
        ("run", JoinAnew("push 1 was refused (run)")),
    ],
)
def test_a_unit_is_given_up_only_with_the_push_that_held_a_part_of_it(reason: str, order: Order) -> None:
    arrivals = learner(DELTAS)
    push(arrivals, (0, 0), ends=False)
    assert arrivals.answered(e.AnswerPush("a", 7, 1, reason)) == Nothing()
    assert arrivals.answered(e.AnswerPush("a", 1, 9, "stale")) == Drop([], frozenset())
    assert arrivals.answered(e.AnswerPush("a", 1, 1, reason)) == order
    assert bool(arrivals.book.in_flight) == (reason != "stale")


def test_it_gives_what_it_has_and_its_own_model_only_where_there_is_none() -> None:
    arrivals = learner(DELTAS)
    assert arrivals.donated(e.DonateState("a", 1, False)) == Version(1, 5)
    assert arrivals.donated(e.DonateState("a", 1, True)) == Version(1, 5)
    assert arrivals.donated(e.DonateState("a", 2, False)) is None
    arrivals.rejoin()
    arrivals.welcomed(e.Welcome("a", 2, spec(DELTAS), 4))
    assert arrivals.donated(e.DonateState("a", 2, False)) is None
    assert arrivals.donated(e.DonateState("a", 2, True)) == Version(4, 0)


# -- any order of events

small = st.integers(0, 2)
events = st.one_of(
    st.tuples(st.just("work"), st.booleans()),
    st.tuples(st.just("version"), st.sampled_from(["delta", "params", "state", "gap"]), small, small, st.integers(0, 5)),
    st.tuples(st.just("roll back"), small, st.sets(st.integers(1, 5)), st.integers(0, 5)),
    st.tuples(st.just("refusal"), st.integers(1, 5), st.sampled_from(["stale", "lineage", "lease"])),
    st.tuples(st.just("end")),
)


class Watched:
    """A learner, and what each order may have changed in its book."""

    def __init__(self) -> None:
        self.arrivals = learner(PHASES, 2)
        self.generation = 1

    def give(self, event: tuple[Any, ...]) -> None:
        arrivals, book = self.arrivals, self.arrivals.book
        kind, *rest = event
        if kind == "work":
            if book.base is not None and not book.full():
                push(arrivals, (0, book.seq), rest[0])
        elif kind == "version" and book.base is not None:
            what, lineages, numbers, merged = rest
            at = Version(book.base.lineage + lineages, book.base.number + numbers)
            self.take(made(what, at.lineage, at.number, merged, self.generation, ends=ends_at(at.number)), b"")
        elif kind == "roll back" and book.base is not None:
            lineage = book.base.lineage + rest[0]
            order = e.RollBack("a", self.generation, lineage, Version(lineage, 0), tuple(rest[1]), rest[2])
            self.take_all(arrivals.rolled_back(order))
        elif kind == "refusal":
            before = set(book.in_flight)
            order = arrivals.answered(e.AnswerPush("a", self.generation, *rest))
            if isinstance(order, JoinAnew):
                self.join_anew()
            else:
                assert isinstance(order, Drop) and before - set(book.in_flight) == set(order.pushes)
                assert order.pushes or not order.units
        elif kind == "end":
            self.take_all(arrivals.ended())

    def take_all(self, put_aside: list[tuple[Any, Any]]) -> None:
        for message, payload in put_aside:
            self.take(message, payload)

    def take(self, message: Any, payload: Any) -> None:
        book = self.arrivals.book
        base, unsent = book.base, book.unsent.steps
        under_way = {seq: work.steps for seq, work in book.in_flight.items()}
        order = self.arrivals.take(message, payload)
        gone = set(under_way) - set(book.in_flight)
        if isinstance(order, (Nothing, JoinAnew)):
            assert not gone and book.base == base and book.unsent.steps == unsent
            if isinstance(order, JoinAnew):
                self.join_anew()
            return
        assert isinstance(order, (Advance, Load))
        assert book.base == message.version and (base is None or base < message.version), "it never goes back"
        back = order.back if isinstance(order, Load) else []
        assert sorted([*back, *order.settled]) == sorted(gone), "what leaves the book is named, once"
        assert book.unsent.steps == unsent + sum(under_way[seq] for seq in back), "no step is lost or done twice"
        assert self.arrivals.lineage == message.version.lineage
        if isinstance(order, Load):
            assert not (back and not order.keep), "work comes back only onto a model that has it"
            assert not (order.rolled_back and book.in_flight)

    def join_anew(self) -> None:
        self.arrivals.rejoin()
        self.generation += 1
        assert self.arrivals.welcomed(e.Welcome("a", self.generation, spec(PHASES), self.arrivals.lineage))
        self.take(made("state", self.arrivals.lineage, 4, ends=ends_at(4)), b"")


@settings(max_examples=300)
@given(st.lists(events, max_size=40))
def test_no_order_of_events_makes_it_forget_a_push_or_go_back(told: list[tuple[Any, ...]]) -> None:
    watched = Watched()
    for event in told:
        watched.give(event)

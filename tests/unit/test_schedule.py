"""A schedule as text, and which strategy makes which version."""

from __future__ import annotations

import pytest

from plesio.errors import UserError
from plesio.strategies.schedule import Timeline
from plesio.strategies.text import parse


def names(text: str, **settings: int) -> list[tuple[str, int, int | None, int | None]]:
    phases = parse(text, **settings).phases
    return [(p.strategy.name, p.strategy.every, p.until_rounds, p.until_tokens) for p in phases]


def test_phases_settings_and_suffixes_are_read() -> None:
    assert names("sync until tokens=200k; decoupled") == [("sync", 1, None, 200_000), ("decoupled", 32, None, None)]
    assert names("sync until rounds=5;localsgd(every=4) until tokens=1.5M; async", every=9) == [
        ("sync", 1, 5, None), ("localsgd", 4, None, 1_500_000), ("async", 1, None, None)
    ]  # fmt: skip
    assert parse("diloco(every = 8, lr=0.5, momentum=0)").phases[0].strategy.outer.lr == 0.5


def test_one_strategy_has_the_start_that_it_wants_unless_told_otherwise() -> None:
    assert names("decoupled") == [("sync", 1, 60, None), ("decoupled", 32, None, None)]
    assert names("decoupled", start_rounds=0, every=4) == [("decoupled", 4, None, None)]
    assert names("localsgd", start_rounds=7) == [("sync", 1, 7, None), ("localsgd", 32, None, None)]
    assert names("sync", start_rounds=7) == [("sync", 1, None, None)]
    assert names("async") == [("async", 1, None, None)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("asinc", "did you mean 'async'"),
        ("", "cannot read ''"),
        ("sync until tokens=5", "the last one has no end"),
        ("sync; decoupled", "say until when"),
        ("decoupled(H=3)", "no setting 'H'; it has every"),
        ("sync(every=3)", "no setting 'every'; it has none"),
        ("decoupled(every=0)", "at least 1"),
        ("decoupled(every=2.5)", "not a whole number"),
        ("decoupled(k=-1)", "how many"),
        ("decoupled(overlap=-1)", "at least 0"),
        ("diloco(momentum=1)", "momentum < 1"),
        ("diloco(lr=-1)", "lr >= 0"),
        ("async(overlap=-1)", "at least 0 and at most 1"),
        ("async(overlap=2)", "at least 0 and at most 1"),
        ("sync until tokens=1.5; async", "not a whole number"),
        ("decoupled(every=nan)", "not a number"),
        ("sync until rounds=0; async", "at least 1"),
        ("sync until tokens=lots; async", "'lots' is not a number"),
        ("sync until steps=4; async", "cannot read"),
    ],
)
def test_a_mistake_is_named_with_its_mend(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        parse(text)


def test_start_rounds_and_phases_do_not_mix() -> None:
    with pytest.raises(UserError, match="sync until rounds=4"):
        parse("sync until rounds=2; async", start_rounds=4)


def test_where_a_phase_ends_is_a_fact_that_a_roll_back_takes_back() -> None:
    timeline = Timeline(parse("sync until tokens=10; async until rounds=5; localsgd"))
    seen = []
    for number in range(1, 8):
        seen.append(timeline.at(number).name)
        timeline = timeline.closed(number, tokens=4 * number)
    assert seen == ["sync", "sync", "sync", "async", "async", "localsgd", "localsgd"]
    assert timeline.ends == (3, 5) and timeline.back_to(4).ends == (3,) and timeline.back_to(3).ends == (3,)
    assert [n for n in range(8) if timeline.changes_at(n)] == [3, 5]
    assert [n for n in range(8) if timeline.reloads_at(n)] == [5], "after synchronous rounds learners hold it all"


def test_a_phase_that_is_over_before_it_begins_is_left_out() -> None:
    timeline = Timeline(parse("sync until tokens=10; async until tokens=9; localsgd")).closed(1, tokens=12)
    assert timeline.ends == (1, 1) and timeline.at(2).name == "localsgd"

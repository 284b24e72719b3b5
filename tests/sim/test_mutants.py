"""Mutants of coordinator and learner, each of which the invariants must catch: a check that finds nothing proves nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from plesio.core import coordinator as core
from plesio.core import ledger
from plesio.core import stimuli as s
from plesio.core.arrival import Arrivals, Made
from plesio.core.pushbook import PushBook
from plesio.core.taskbook import TaskBook, TaskState
from plesio.core.turn import Turn
from plesio.errors import InternalError
from plesio.sim.cluster import Cluster
from plesio.sim.coordinator import SimCoordinator
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule

SEEDS = range(60)


def first_caught(steps: int = 1) -> int | None:
    """The first seed whose run, with units of so many steps, breaks an invariant, or stops."""
    for seed in SEEDS:
        schedule = Schedule.of(Sync()) if seed % 2 else Schedule.of(Decoupled(every=4), Sync(), 5)
        try:
            Cluster(seed, schedule, learners=2 + seed % 3, units=60, steps=steps, faults=60, rate=0.05).run(400.0)
        except (AssertionError, KeyError, InternalError):
            return seed
    return None


@functools.cache
def shipped_passes() -> bool:
    return first_caught() is first_caught(steps=3) is None


@pytest.fixture
def mutant(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    assert shipped_passes(), "the shipped core must pass before a mutant of it can fail"
    yield monkeypatch


def test_effects_before_the_journal_are_caught(mutant: pytest.MonkeyPatch) -> None:
    """The journal lags twenty stimuli behind the effects: harmless until a crash falls in between."""

    def journal_later(self: SimCoordinator, stimulus: s.Stimulus) -> None:
        facts, effects = core.handle(self.state, self.world.now_s, stimulus)
        self.carry_out(effects)
        owed = self.__dict__.setdefault("owed", [])
        owed.append(facts)
        if len(owed) > 20 and (oldest := owed.pop(0)):
            self.journal.commit(oldest)
        self.point(self, "before commit")

    mutant.setattr(SimCoordinator, "handle", journal_later)
    Cluster(1, Schedule.of(Sync()), learners=3, units=60, faults=0).run(400.0)
    assert first_caught() is not None


def test_forgotten_fencing_is_caught(mutant: pytest.MonkeyPatch) -> None:
    """Whoever speaks under an old generation is taken for the new one."""

    def anyone(self: Turn, name: str, generation: int) -> object:
        member = self.durable.members.get(name)
        if member is not None:
            self.pulse(name).beat(self.now_s)
        return member

    mutant.setattr(Turn, "current", anyone)
    mutant.setattr(ledger, "lacks_leases", lambda state, push: False)
    assert first_caught() is not None


def test_a_unit_counted_twice_is_caught(mutant: pytest.MonkeyPatch) -> None:
    """A unit that is applied goes back to the pool as well."""
    move = TaskBook.move

    def keep(self: TaskBook, task: object, to: TaskState) -> None:
        move(self, task, to)  # type: ignore[arg-type]
        if to is TaskState.DONE and len(self.tasks) % 7 == 0:
            again = type(task)(task.id)  # type: ignore[attr-defined, call-arg]
            self.tasks[again.id] = again

    mutant.setattr(TaskBook, "move", keep)
    assert first_caught() is not None


def test_a_learner_that_goes_on_with_a_torn_unit_is_caught(mutant: pytest.MonkeyPatch) -> None:
    """A roll-back took a part of it; the rest is sent as if it were all."""
    mutant.setattr(PushBook, "torn", lambda self, voided: False)
    assert first_caught(steps=3) is not None


def test_a_learner_that_forgets_gradients_under_way_is_caught(mutant: pytest.MonkeyPatch) -> None:
    """After a roll-back it takes what nobody has seen for settled: their units are leased for ever."""
    shipped = Arrivals._return_unmerged

    def forget(self: Arrivals, made: Made, told: Any, keep: bool) -> object:
        settled = told.settled if keep else max(self.book.in_flight, default=0)
        return shipped(self, made, msgspec.structs.replace(told, settled=settled), keep)

    mutant.setattr(Arrivals, "_return_unmerged", forget)
    assert first_caught() is not None


def test_a_learner_that_sends_gradients_of_a_lost_version_again_is_caught(mutant: pytest.MonkeyPatch) -> None:
    """It treats them as changes, which are worth something on any base."""
    shipped = Arrivals._return_unmerged
    mutant.setattr(Arrivals, "_return_unmerged", lambda self, made, told, keep: shipped(self, made, told, True))
    assert first_caught() is not None


def test_a_learner_that_takes_all_it_sent_for_merged_is_caught(mutant: pytest.MonkeyPatch) -> None:
    """Any version settles its pushes; after a roll-back those that were not in it are gone."""
    mutant.setattr(Arrivals, "_merged_seq", lambda self, made: max(self.book.in_flight, default=0))
    assert first_caught(steps=3) is not None

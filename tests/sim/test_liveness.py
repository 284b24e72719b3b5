"""I6 in virtual time: how long a dead, stopped or slow learner can hold the others up."""

from __future__ import annotations

import pytest

from plesio.core import facts as f
from plesio.core.membership import SUSPICION_FLOOR_S
from plesio.sim.cluster import Cluster
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule

STEP_S = 0.1
LONGEST_STEP_S = 1.2 * STEP_S  # the simulated learner's steps vary by a fifth
SLACK_S = 0.3  # messages, and the coordinator's own ticks
EVERY = 4
AT_S = 8.0  # when the victim goes


class Closings:
    """Notes when rounds close, over a run of three learners."""

    def __init__(self, seed: int, schedule: Schedule, speeds: tuple[float, ...] = (STEP_S,) * 3) -> None:
        self.cluster = Cluster(seed, schedule, learners=3, units=700, speeds=speeds)
        self.times_s: list[float] = []
        self.of: list[f.RoundClosed] = []
        commit = self.cluster.journal.on_commit

        def noted(facts: list[f.Fact]) -> None:
            commit(facts)
            closed = [x for x in facts if isinstance(x, f.RoundClosed)]
            self.of += closed
            self.times_s += [self.cluster.world.now_s] * len(closed)

        self.cluster.journal.on_commit = noted

    def run_with(self, fate: str) -> None:
        """To the end; at AT_S one learner is killed, or stopped for a minute."""
        cluster = self.cluster

        def strike() -> None:
            victim = cluster.learners[f"learner-{cluster.world.seed % 3}"]
            if fate == "stopped":
                victim.paused = True
                cluster.world.at(60.0, victim.resume)
            else:
                cluster.kill(victim)

        cluster.world.at(AT_S, strike)
        cluster.run()

    def longest_gap_s(self, after_s: float) -> float:
        """Between two closings, the first of which lies after `after_s`; the wait after the last one is none."""
        times_s = [t for t in self.times_s if t > after_s]
        assert len(times_s) > 10, "too few rounds to say anything"
        before_s = max((t for t in self.times_s if t <= after_s), default=after_s)
        return max(b - a for a, b in zip([before_s, *times_s], times_s, strict=False))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("fate", ["stopped", "killed"])
def test_one_that_is_gone_delays_a_quorum_by_at_most_the_grace(seed: int, fate: str) -> None:
    main = Decoupled(every=EVERY)
    seen = Closings(seed, Schedule.of(main))
    seen.run_with(fate)
    cycle_s = EVERY * LONGEST_STEP_S  # in which each of the others pushes once
    grace_s = main.overlap * LONGEST_STEP_S
    assert seen.longest_gap_s(AT_S) <= cycle_s + grace_s + SLACK_S


@pytest.mark.parametrize("seed", range(12))
def test_one_that_stops_delays_all_by_at_most_the_suspicion_deadline(seed: int) -> None:
    seen = Closings(seed, Schedule.of(Sync()))
    seen.run_with("stopped")
    assert seen.longest_gap_s(AT_S) <= SUSPICION_FLOOR_S + LONGEST_STEP_S + SLACK_S
    stopped = [closed for closed, at_s in zip(seen.of, seen.times_s, strict=True) if AT_S + 5.0 < at_s < AT_S + 50.0]
    assert max(closed.contributors for closed in stopped) == 2, "who is suspected is not waited for"


@pytest.mark.parametrize("seed", range(12))
def test_a_slow_one_delays_a_quorum_by_at_most_the_grace(seed: int) -> None:
    main = Decoupled(every=EVERY)
    seen = Closings(seed, Schedule.of(main), speeds=(STEP_S, STEP_S, 20 * STEP_S))
    seen.cluster.run()
    cycle_s, grace_s = EVERY * LONGEST_STEP_S, main.overlap * LONGEST_STEP_S
    busy_s = seen.cluster.world.now_s - 3 * EVERY * 20 * LONGEST_STEP_S  # at the end only its last push is awaited
    gaps_s = [b - a for a, b in zip(seen.times_s, seen.times_s[1:], strict=False) if 1.0 < b < busy_s]
    assert len(gaps_s) > 10 and max(gaps_s) <= cycle_s + grace_s + SLACK_S
    assert {closed.contributors for closed in seen.of} >= {2, 3}, "its pushes count when they come"

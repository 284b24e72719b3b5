"""What is remembered of a learner's silences."""

from __future__ import annotations

import pytest

from plesio.core.membership import SUSPICION_FLOOR_S, Pulse


def test_the_longest_silence_and_missed_deadlines_are_counted() -> None:
    pulse, now_s = Pulse(0.0), 0.0
    for gap_s in (0.25, 0.5, SUSPICION_FLOOR_S, 0.25):
        now_s += gap_s
        pulse.beat(now_s)
    assert pulse.longest_s == SUSPICION_FLOOR_S and pulse.missed == 1


def test_a_silence_just_under_the_deadline_is_not_missed() -> None:
    pulse = Pulse(0.0)
    pulse.beat(0.99 * SUSPICION_FLOOR_S)
    assert pulse.longest_s == pytest.approx(0.99 * SUSPICION_FLOOR_S) and pulse.missed == 0

"""A coordinator that stood still has heard nobody; that is nobody's silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plesio.clock import VirtualClock
from plesio.core.membership import Pulse
from plesio.core.spec import RunSpec
from plesio.runtime.coordinator import Coordinator
from plesio.runtime.pool import Pool
from plesio.strategies.presets import Sync
from plesio.strategies.schedule import Schedule


def of_a_run(folder: Path, clock: VirtualClock) -> Coordinator:
    return Coordinator(folder, RunSpec(run="r", learners=1, schedule=Schedule.of(Sync())), "", clock)


def of_a_pool(folder: Path, clock: VirtualClock) -> Pool:
    return Pool(folder, "", clock, None, "normal", embedded=False)


OF = pytest.mark.parametrize("made", [of_a_run, of_a_pool])


def after(coordinator: Coordinator | Pool, clock: VirtualClock, *steps_s: float) -> bool:
    """Is one suspected of whom nothing was heard, when the coordinator's event loop ran after each of these?"""
    coordinator._awake()
    pulse = coordinator.state.volatile.pulses["x"] = Pulse(clock.now_s())
    for step_s in steps_s:
        clock.advance(step_s)
        coordinator._awake()
    return pulse.suspected(clock.now_s())


@OF
def test_one_who_is_silent_is_suspected(made: Callable[..., Any], tmp_path: Path) -> None:
    for steps, suspected in ((7, False), (9, True)):
        clock = VirtualClock(100.0)
        assert after(made(tmp_path, clock), clock, *[0.25] * steps) is suspected


@OF
def test_nobody_is_suspected_for_the_time_in_which_nobody_listened(made: Callable[..., Any], tmp_path: Path) -> None:
    for steps_s, suspected in (((0.25, 60.0), False), ((60.0, *[0.25] * 7), False), ((60.0, *[0.25] * 9), True)):
        clock = VirtualClock(100.0)
        assert after(made(tmp_path, clock), clock, *steps_s) is suspected


@OF
def test_one_who_is_silent_is_suspected_also_when_nothing_but_standing_still_is_seen(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    """Each turn of a busy coordinator may take so long."""
    for turns, suspected in ((9, False), (11, True)):
        clock = VirtualClock(100.0)
        assert after(made(tmp_path, clock), clock, *[1.5] * turns) is suspected

"""A coordinator that stood still has heard nobody; that is nobody's silence."""

from __future__ import annotations

from pathlib import Path

from plesio.clock import VirtualClock
from plesio.core.membership import Pulse
from plesio.core.spec import RunSpec
from plesio.runtime.coordinator import Coordinator
from plesio.strategies.presets import Sync
from plesio.strategies.schedule import Schedule


def after(tmp_path: Path, *steps_s: float) -> bool:
    """Is a learner suspected of which nothing was heard, when the coordinator's event loop ran after each of these?"""
    clock = VirtualClock(100.0)
    spec = RunSpec(run="r", learners=1, schedule=Schedule.of(Sync()))
    coordinator = Coordinator(tmp_path, spec, "", clock)
    coordinator._awake()
    pulse = coordinator.state.volatile.pulses["learner-0"] = Pulse(clock.now_s())
    for step_s in steps_s:
        clock.advance(step_s)
        coordinator._awake()
    return pulse.suspected(clock.now_s())


def test_a_learner_that_is_silent_is_suspected(tmp_path: Path) -> None:
    assert not after(tmp_path, *[0.25] * 7) and after(tmp_path, *[0.25] * 9)


def test_nobody_is_suspected_for_the_time_in_which_nobody_listened(tmp_path: Path) -> None:
    assert not after(tmp_path, 0.25, 60.0) and not after(tmp_path, 60.0, *[0.25] * 7)
    assert after(tmp_path, 60.0, *[0.25] * 9)

"""summary.json, from events and metrics."""

from __future__ import annotations

from typing import Any

from plesio.reporting.summary import summarise


def joined(generation: int, incarnation: str) -> dict[str, Any]:
    at = float(generation)
    return {"type": "MemberJoined", "unix_s": at, "name": "a", "generation": generation, "incarnation": incarnation}


def sample(generation: int, busy_s: float) -> dict[str, Any]:
    return {"unix_s": 10.0 + busy_s, "learners": {"a": {"generation": generation, "busy_s": busy_s, "wait_s": 0.0}}}


def test_a_learner_that_joins_anew_in_its_process_counts_on() -> None:
    events = [joined(1, "x"), joined(2, "x.1"), joined(3, "y")]
    metrics = [sample(1, 5.0), sample(2, 9.0), sample(3, 2.0)]
    [learner] = summarise(events, metrics)["learners"]
    assert learner["busy_s"] == 11.0 and learner["restarts"] == 2

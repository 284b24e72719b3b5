"""summary.json: the run in numbers, recounted from its events and metrics. The keys are frozen (DESIGN section 10)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plesio.reporting.counters import final, learner_curve, wire_curve
from plesio.reporting.events import Event, read_events, read_metrics
from plesio.reporting.files import replace
from plesio.reporting.story import Story, tell


def summarise(events: Sequence[Event], metrics: Sequence[Event]) -> dict[str, Any]:
    """The summary of these events (lines of events.jsonl) and metrics (lines of metrics.jsonl). Pure."""
    return summarise_story(tell(events), list(metrics))


def summarise_story(story: Story, metrics: list[Event]) -> dict[str, Any]:
    """The same, of events that are folded already."""
    tokens = story.course.tokens
    losses = [e.loss for e in story.evaluations]
    effective, staleness = story.course.effective, story.staleness
    return {
        "run": story.spec.get("run", ""),
        "strategy": story.spec.get("strategy", ""),
        "codec": story.spec.get("uplink", ""),
        "learners": [_learner(story, metrics, name) for name in sorted(story.joins)],
        "tokens": tokens,
        "wall_s": round(story.wall_s, 3),
        "tokens_per_s": round(tokens / story.wall_s, 3) if story.wall_s else 0.0,
        "wire_bytes": {key: int(final(wire_curve(metrics, key))) for key in ("up", "down", "control")},
        "rounds": story.course.rounds,
        "effective_participants": {"min": effective.least, "mean": round(effective.mean, 4)},
        "val_loss": losses[-1] if losses else None,
        "val_loss_start": losses[0] if losses else None,
        "units": story.units.counts(story.finished),
        "faults": story.faults_seen,
        "recovery_s": [round(f.recovered_s, 3) for f in story.faults if f.recovered_s is not None],
        "staleness": {"max": staleness.most, "mean": round(staleness.mean, 4)},
        "coordinator_restarts": max(0, story.coordinator_starts - 1),
        "finished": story.finished,
        "committed_version": story.committed,
        "events_left_out": story.left_out,
    }


def _learner(story: Story, metrics: list[Event], name: str) -> dict[str, Any]:
    spent = {key: final(learner_curve(metrics, story.processes, name, key)) for key in ("busy_s", "wait_s")}
    return {
        "id": name,
        "tokens": story.tokens.get(name, 0),
        "steps": story.steps.get(name, 0),
        "busy_s": round(spent["busy_s"], 3),
        "wait_s": round(spent["wait_s"], 3),
        "restarts": story.joins[name] - 1,
    }


def summary_of(run_dir: Path) -> dict[str, Any]:
    """What the files of a run's folder tell."""
    return summarise(read_events(run_dir), read_metrics(run_dir))


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Writes summary.json, whole or not at all."""
    replace(run_dir / "summary.json", json.dumps(summary, indent=2, allow_nan=False).encode() + b"\n")

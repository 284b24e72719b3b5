"""summary.json: the run in numbers, recounted from its events and metrics. The keys are frozen (DESIGN section 10)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from plesio.reporting.counters import final, learner_curve, wire_curve
from plesio.reporting.events import Event, read_events, read_metrics
from plesio.reporting.story import Story, tell


def summarise(events: Sequence[Event], metrics: Sequence[Event]) -> dict[str, Any]:
    """The summary of these events (lines of events.jsonl) and metrics (lines of metrics.jsonl). Pure."""
    return summarise_story(tell(events), list(metrics))


def summarise_story(story: Story, metrics: list[Event]) -> dict[str, Any]:
    """The same, of events that are folded already."""
    tokens = sum(r.tokens for r in story.standing)
    losses = [e.loss for e in story.evaluations]
    return {
        "run": story.spec.get("run", ""),
        "strategy": story.spec.get("strategy", ""),
        "codec": story.spec.get("uplink", ""),
        "learners": [_learner(story, metrics, name) for name in sorted(story.joins)],
        "tokens": tokens,
        "wall_s": round(story.wall_s, 3),
        "tokens_per_s": round(tokens / story.wall_s, 3) if story.wall_s else 0.0,
        "wire_bytes": {key: int(final(wire_curve(metrics, key))) for key in ("up", "down", "control")},
        "rounds": len(story.standing),
        "effective_participants": _spread("min", min, [r.effective for r in story.standing]),
        "val_loss": losses[-1] if losses else None,
        "val_loss_start": losses[0] if losses else None,
        "units": story.units.counts(story.finished),
        "faults": len(story.faults),
        "recovery_s": [round(f.recovered_s, 3) for f in story.faults if f.recovered_s is not None],
        "staleness": _spread("max", max, story.staleness),
        "coordinator_restarts": max(0, story.coordinator_starts - 1),
        "finished": story.finished,
        "committed_version": story.committed,
    }


def _learner(story: Story, metrics: list[Event], name: str) -> dict[str, Any]:
    spent = {key: final(learner_curve(metrics, story.processes, name, key)) for key in ("busy_s", "wait_s")}
    return {
        "id": name,
        "tokens": story.tokens[name],
        "steps": story.steps[name],
        "busy_s": round(spent["busy_s"], 3),
        "wait_s": round(spent["wait_s"], 3),
        "restarts": story.joins[name] - 1,
    }


def _spread(name: str, pick: Any, values: list[int]) -> dict[str, float]:
    return {name: pick(values, default=0), "mean": round(fmean(values), 4) if values else 0.0}


def write_summary(run_dir: Path) -> Path:
    """Writes summary.json, whole or not at all."""
    path = run_dir / "summary.json"
    content = json.dumps(summarise(read_events(run_dir), read_metrics(run_dir)), indent=2, allow_nan=False)
    replace(path, content + "\n")
    return path


def replace(path: Path, content: str) -> None:
    """Writes a file so that no reader sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)

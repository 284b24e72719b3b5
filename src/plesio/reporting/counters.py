"""Counters of metrics.jsonl, which start again at 0 with their process, made whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from plesio.reporting.events import Event

Curve = list[tuple[float, float]]  # (unix seconds, value)
Processes = Mapping[tuple[str, int], int]  # (learner, generation) -> its process's first, where that is another


def running(samples: Iterable[tuple[object, float]]) -> list[float]:
    """Running totals of (process, counter) samples. Another process, or a drop, is a restart; a 0 says nothing yet."""
    out: list[float] = []
    total, last, owner = 0.0, 0.0, None
    for process, value in samples:
        if value:
            total += value - last if process == owner and value >= last else value
            owner, last = process, value
        out.append(total)
    return out


def learner_curve(metrics: list[Event], processes: Processes, name: str, key: str) -> Curve:
    """One learner's counter over time, over all its processes."""
    rows = [(m["unix_s"], m["learners"][name]) for m in metrics if name in m.get("learners", {})]
    keyed = ((_process(processes, name, row), row.get(key) or 0) for _, row in rows)
    return list(zip((unix_s for unix_s, _ in rows), running(keyed), strict=True))


def _process(processes: Processes, name: str, row: Event) -> object:
    generation = row.get("generation", 0)
    return processes.get((name, generation), generation)  # one that stayed alive counts on under a new generation


def wire_curve(metrics: list[Event], key: str) -> Curve:
    """Bytes over time: key 'up', 'down' or 'control'."""
    rows = [m for m in metrics if "wire_bytes" in m]
    totals = running(("", row["wire_bytes"].get(key, 0)) for row in rows)
    return list(zip((row["unix_s"] for row in rows), totals, strict=True))


def final(curve: Curve) -> float:
    """Where a running total ends; 0 for none."""
    return curve[-1][1] if curve else 0.0

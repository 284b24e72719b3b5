"""metrics.jsonl stays bounded, and its totals stay what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plesio.reporting.counters import final, learner_curve, wire_curve
from plesio.reporting.events import read_metrics
from plesio.reporting.samples import SampleLog, thinned
from plesio.runtime.follow import Tail


def sample(second: int, generation: int, busy_s: float, up: int) -> str:
    learners = {"learner-0": {"busy_s": busy_s, "generation": generation}}
    wire = {"up": up, "down": 0, "control": 0}
    return json.dumps({"unix_s": float(second), "learners": learners, "wire_bytes": wire})


def history() -> list[str]:
    """The learner starts again at 300 s and 601 s, the counting of bytes at 450 s."""
    rows = []
    for second in range(1, 1000):
        generation = 1 + (second >= 300) + (second >= 601)
        began = (0, 300, 601)[generation - 1]
        rows.append(sample(second, generation, 1.0 + second - began, 10 * (second if second < 450 else second - 449)))
    return rows


def totals(rows: list[dict[str, Any]]) -> tuple[float, float]:
    return final(learner_curve(rows, {}, "learner-0", "busy_s")), final(wire_curve(rows, "up"))


def test_thinning_keeps_the_totals_over_restarts(tmp_path: Path) -> None:
    rows = history()
    kept = [row.encode() + b"\n" for row in rows]
    whole = [json.loads(row) for row in rows]
    for _ in range(4):
        kept = thinned(kept)
        assert totals([json.loads(row) for row in kept]) == totals(whole)
        assert kept[-1].decode().strip() == rows[-1]
    assert len(kept) < len(rows) / 8


def test_the_file_is_thinned_when_it_is_large_and_a_reader_follows(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, thin_bytes=20_000)
    tail = Tail(tmp_path / "metrics.jsonl")
    for number, row in enumerate(history()):
        log.append(row)
        if number % 10 == 0:
            assert json.loads(tail.read()[-1]) == json.loads(row)
    assert (tmp_path / "metrics.jsonl").stat().st_size <= 20_000 + 200
    assert totals(read_metrics(tmp_path)) == totals([json.loads(row) for row in history()])


def test_of_many_learners_only_the_one_that_ended_is_kept() -> None:
    def row(second: int) -> bytes:
        learners = {
            f"learner-{i}": {"generation": 1 + (second >= 10 * i), "busy_s": second - 10.0 * i * (second >= 10 * i)}
            for i in range(50)
        }
        return (
            json.dumps({"unix_s": float(second), "learners": learners, "wire_bytes": {"up": second}}).encode() + b"\n"
        )

    rows = [row(second) for second in range(1, 600)]
    kept = rows
    for _ in range(8):
        kept = thinned(kept)
    assert sum(map(len, kept)) < 0.03 * sum(map(len, rows))
    whole, few = [json.loads(x) for x in rows], [json.loads(x) for x in kept]
    for i in range(50):
        name = f"learner-{i}"
        assert final(learner_curve(few, {}, name, "busy_s")) == final(learner_curve(whole, {}, name, "busy_s"))


def test_damaged_lines_go() -> None:
    good = sample(1, 1, 1.0, 1).encode() + b"\n"
    assert thinned([good, b"{torn\n", good]) == [good, good]


def test_what_must_stay_is_not_thinned_again_and_again(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, thin_bytes=1000)
    for number in range(100):  # every line is the last of a process
        log.append(sample(number, number, 1.0, 1))
    assert len(read_metrics(tmp_path)) == 100 and log.thin_bytes > 1000

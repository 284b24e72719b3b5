"""Seeded schedules of real faults under a lock, a semaphore and a counter."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.testing import lockstorm


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_histories_of_locks_and_counters_are_linearizable(seed: int, tmp_path: Path) -> None:
    report = lockstorm.run(seed, tmp_path / "storm", 25.0)
    assert report["troubles"] == [], report
    assert (
        report["killed"] and report["coordinator"] and min(report["lock"], report["semaphore"], report["counter"]) > 100
    )

"""Seeded schedules of real faults under a lock, a semaphore and a counter."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.testing import lockstorm


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_histories_of_locks_and_counters_are_linearizable(seed: int, tmp_path: Path) -> None:
    report = lockstorm.run(seed, tmp_path / "storm", 5)
    assert report["troubles"] == [], report
    assert min(report[word] for word in ("lock", "semaphore", "counter")) > 100, report

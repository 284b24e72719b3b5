"""Seeded schedules of real faults under one of everything that coordinates; `make lock-chaos` runs ten."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.testing import lockstorm


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_histories_of_all_that_coordinates_are_linearizable(seed: int, tmp_path: Path) -> None:
    report = lockstorm.run(seed, tmp_path / "storm")
    assert report["troubles"] == [], report
    assert min(report["operations"].values()) > 100, report

"""Heartbeats pass a link that bulk data saturates: the benchmark of ten minutes, in short. See make test-network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_slow_link.py"


@pytest.mark.network
def test_bulk_data_that_saturate_a_link_of_5_mbit_hold_up_no_heartbeat() -> None:
    command = [sys.executable, str(BENCHMARK), "--seconds", "35", "--down", "10", "--json", "--keep"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)["runs"]
    assert all(count > 0 for count in result["pushes_arrived"].values())
    assert result["missed_deadlines"] == 0 and result["ended"] == []
    assert result["generations"] == len(result["pushes_arrived"]), "nobody had to join anew"

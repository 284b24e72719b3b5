"""Bulk transfers go on, over another connection, from where the last one broke; nothing is lost or counted twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "flaky.py"


@pytest.mark.timeout(480)
def test_a_model_that_no_connection_lives_long_enough_for_is_trained(tmp_path: Path) -> None:
    words = ["run", "--json", "--name", "r", "--learners", "2", "--strategy", "localsgd", "--every", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "plesio", *words, "--codec", "none", str(SCRIPT)],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    units = json.loads(done.stdout)["units"]
    assert units["applied"] == 32 and units["lost"] == units["duplicated"] == 0
    for name in ("learner-0", "learner-1"):
        went_on = json.loads((tmp_path / "runs" / "r" / f"{name}.json").read_text())
        assert min(went_on.values()) > 0, went_on
        assert "joins anew" not in (tmp_path / "runs" / "r" / "logs" / f"{name}.log").read_text()

"""The examples of the task plane print what README says they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("workqueue", "200 messages, 200 different"),
        ("sums", "reduced on the workers: sum 31999996000000, mean 3999999.5"),
        ("fetch", "100 pages, 7900 bytes, all ok: True"),
        ("stages", "modules; most begin with"),
        ("embed", "texts are vectors of 64, in the input's order: True"),
        ("kmeans", "10 centres of 1797 digits, still after 15 iterations; purity 0.79"),
        pytest.param("search", "1215 steps instead of 10800; the best of 18 trials has 9", marks=pytest.mark.slow),
    ],
)
def test_an_example_of_tasks_says_what_it_should(name: str, says: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0 and says in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_the_whole_flow_says_what_readme_says(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "whole_flow.py")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=220, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for words in (
        "a task beside it, which says 6", "a learner was killed", "4. recovered, True: units lost 0, applied twice 0",
        "360 records, 0 dead, 3 parts", "of 360 digits are right", "7. journaled: True",
    ):  # fmt: skip
        assert words in ran.stdout, ran.stdout

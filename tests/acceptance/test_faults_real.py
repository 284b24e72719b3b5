"""Real processes, really killed: nothing lost, nothing duplicated, no orphan, the loss of the undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "noisy_mlp.py"
PLESIO = [sys.executable, "-m", "plesio"]
OPTIONS = ["--learners", "3", "--every", "10", "--start-rounds", "30", "--epochs", "12", "--json"]

SCHEDULES = {
    "learner": "kill learner-1 at 6000 tokens; kill learner-0 at 20000 tokens; kill learner-2 at 30000 tokens",
    "synchronizer": "kill synchronizer at 1000 tokens; kill synchronizer at 15000 tokens; kill synchronizer at 30000 tokens",
    "coordinator": "kill coordinator at 300 tokens; kill coordinator at 12000 tokens; kill coordinator at 30000 tokens",
    "async": "kill learner-1 at 6000 tokens; kill synchronizer at 15000 tokens; kill coordinator at 30000 tokens",
    "paused": "stop learner-2 at 8000 tokens for 10s; kill learner-0 at 20000 tokens",
}


def children_of(run_dir: Path) -> list[int]:
    """Processes, anywhere, that belong to this run."""
    mark = f"PLESIO_RUN_DIR={run_dir.resolve()}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def finish(command: list[str], timeout_s: float = 240) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runs = tmp_path_factory.mktemp("runs")
    return finish([*PLESIO, "run", "--runs", str(runs), *OPTIONS, str(SCRIPT)])


def check(summary: dict[str, Any], undisturbed: dict[str, Any], run_dir: Path) -> None:
    units = summary["units"]
    assert units["lost"] == 0 and units["duplicated"] == 0
    assert units["applied"] + units["partial"] == 12 * 256
    assert summary["tokens"] == 12 * 4096
    assert summary["val_loss"] <= 1.05 * undisturbed["val_loss"]
    deadline = time.monotonic() + 60
    while children_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children_of(run_dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_kills_lose_nothing(name: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    options = [*OPTIONS, "--strategy", "async"] if name == "async" else OPTIONS
    if name == "async":
        undisturbed = finish([*PLESIO, "run", "--runs", str(tmp_path), *options, str(SCRIPT)])
    command = [*PLESIO, "run", "--runs", str(tmp_path), "--name", name, "--chaos", SCHEDULES[name], *options]
    summary = finish([*command, str(SCRIPT)])
    check(summary, undisturbed, tmp_path / name)
    assert summary["faults"] >= SCHEDULES[name].count("kill")


def kill_all_after(command: list[str], run_dir: Path, tokens: int, environment: dict[str, str]) -> None:
    """Starts a run, and kills it with all its processes once so many tokens are committed."""
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and committed_tokens(run_dir) < tokens:
        time.sleep(0.1)
    assert first.poll() is None, "the run ended before it could be killed"
    first.kill()
    first.wait(60)
    while children_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children_of(run_dir) == []


@pytest.mark.slow
def test_everything_killed_at_once_resumes(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    run_dir = tmp_path / "all"
    command = [*PLESIO, "run", "--runs", str(tmp_path), "--name", "all", *OPTIONS, str(SCRIPT)]
    kill_all_after(command, run_dir, 15000, dict(os.environ))
    check(finish([*PLESIO, "resume", "--json", str(run_dir)]), undisturbed, run_dir)


@pytest.mark.slow
def test_a_sync_run_that_was_killed_and_resumed_is_the_undisturbed_one_to_the_bit(tmp_path: Path) -> None:
    sizes = [4, 7, 2]
    script, steps = Path(__file__).parents[1] / "scripts" / "exact.py", 260
    environment = os.environ | {"EXACT_PAUSE_S": "0.03"}
    found: list[dict[str, torch.Tensor]] = []
    for name in ("whole", "killed"):
        run_dir, out = tmp_path / name, tmp_path / f"weights-{name}"
        out.mkdir()
        words = ["run", "--runs", str(tmp_path), "--name", name, "--learners", "3", "--strategy", "sync"]
        words += ["--until-tokens", str(steps * sum(sizes)), str(script), str(out), ",".join(map(str, sizes)), "adamw"]
        if name == "killed":
            kill_all_after([*PLESIO, *words], run_dir, 1000, environment)
            words = ["resume", str(run_dir)]
        subprocess.run([*PLESIO, *words], env=environment, check=True, capture_output=True, timeout=240)
        assert summary_of(run_dir)["rounds"] == steps
        for rank in range(3):
            found.append(torch.load(out / f"weights-{rank}.pt", weights_only=True))
    for weights in found[1:]:
        for key, tensor in found[0].items():
            assert torch.equal(tensor, weights[key]), key


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def committed_tokens(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    try:
        return int(json.loads(rows[-1])["committed_tokens"]) if rows else 0
    except json.JSONDecodeError:
        return 0

"""A real run leaves a trace of every process, and TensorBoard's scalars when asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "tiny.py"


def plesio(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plesio", *words]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env=environment
    )  # fmt: skip


def slices(run_dir: Path) -> dict[str, set[tuple[str, str]]]:
    """By process: (track, name) of its spans."""
    events: list[dict[str, Any]] = json.loads((run_dir / "trace.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in names.values()}
    for one in events:
        if one["ph"] == "X":
            assert one["dur"] >= 0 and one["ts"] >= 0
            track = threads[one["pid"], one["tid"]].partition(" (")[0]  # "link (2)": a second lane of it
            found[names[one["pid"]]].add((track, one["name"]))
    return found


@pytest.mark.parametrize("strategy", ["sync", "decoupled"])
def test_a_run_leaves_a_trace_of_everybody(strategy: str, tmp_path: Path) -> None:
    words = ["run", "--name", "r", "--learners", "2", "--strategy", strategy, "--every", "4", "--start-rounds", "4"]
    done = plesio(*words, "--epochs", "10", "--tensorboard", str(SCRIPT), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--tensorboard stopped" not in done.stderr
    run_dir = tmp_path / "runs" / "r"

    found = slices(run_dir)
    assert {"coordinator", "synchronizer", "learner-0", "learner-1"} == set(found)
    learner = {("main", "compute"), ("main", "wait"), ("codec", "encode"), ("codec", "decode"), ("link", "send")}
    for name in ("learner-0", "learner-1"):
        assert learner <= found[name], name
    assert ("main", "evaluate") in found["learner-0"]
    assert {("tensors", "merge"), ("tensors", "snapshot"), ("link", "send")} <= found["synchronizer"]

    events = json.loads((run_dir / "trace.json").read_text())["traceEvents"]
    instants = {e["name"] for e in events if e["ph"] == "i"}
    assert {"MemberJoined", "RoundClosed", "RunFinished"} <= instants
    assert any(e["ph"] == "s" for e in events), "a push points to its merge"
    assert 'href="trace.json"' in (run_dir / "report.html").read_text()

    (run_dir / "trace.json").unlink()
    assert plesio("report", "runs/r", cwd=tmp_path).returncode == 0
    assert slices(run_dir) == found

    assert len(list(run_dir.glob("snapshot-*.safetensors"))) <= 8
    assert not list(run_dir.rglob("*.tmp"))
    _check_scalars(run_dir)


def _check_scalars(run_dir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run_dir / "tensorboard"))
    read.Reload()
    tags = set(read.Tags()["scalars"])
    assert {"loss/held_out", "rounds/effective_participants", "rounds/staleness", "wire/up_bytes"} <= tags
    assert {"learner-0/loss", "learner-1/loss"} <= tags
    summary = json.loads((run_dir / "summary.json").read_text())
    losses = read.Scalars("loss/held_out")
    assert losses[0].value == pytest.approx(summary["val_loss_start"])
    assert losses[-1].value == pytest.approx(summary["val_loss"])
    assert losses[-1].step <= summary["tokens"]


def test_without_the_package_the_mend_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorboard'] = None\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = plesio("run", "--name", "r", "--tensorboard", str(SCRIPT), cwd=tmp_path, env={"PYTHONPATH": path})
    assert done.returncode == 2 and "pip install 'plesio[tensorboard]'" in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()

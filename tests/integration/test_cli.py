"""What a user types: good input, and every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from plesio.codecs import bound, parse
from plesio.testing.waiting import wait_for

PLESIO = [sys.executable, "-m", "plesio"]
GOOD = Path(__file__).parents[1] / "scripts" / "tiny.py"


def plesio(*words: str, cwd: Path, code: int, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*PLESIO, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "--strategy", "decuopled", str(GOOD)], "did you mean 'decoupled'"),
        (["run", "--codec", "int9", str(GOOD)], "did you mean 'int8'"),
        (["run", "missing.py"], "does not exist"),
        (["run", "--chaos", "hit learner-1", str(GOOD)], "kill learner-1 at 30s"),
        (["run", "--chaos", "kill learner-9 at 1s", str(GOOD)], "this run has no 'learner-9', but all, coordinator"),
        (["run", "--strategy", "sync until tokens=5", str(GOOD)], "the last one has no end"),
        (["run", "--slow", "learner-1=fast", str(GOOD)], "e.g. learner-1=3"),
        (["run", "--slow", "learner-7=2", str(GOOD)], "learner-0 to learner-1"),
        (["run", "--listen", "nowhere", str(GOOD)], "HOST:PORT"),
        (["resume", "runs/none"], "not a run's folder"),
        (["log", "runs/none"], "not a run's folder"),
        (["run", "--name", "../up", str(GOOD)], "plain folder name"),
    ],
)
def test_a_mistake_gets_one_line_with_the_mend_and_code_2(
    words: list[str], hint: str, tmp_path: Path, typed_in: Callable[..., Any]
) -> None:
    said = typed_in(tmp_path, *words, code=2)
    assert hint in said and len(said.splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        assert address in plesio("run", "--listen", address, str(GOOD), cwd=tmp_path, code=2).stderr


def test_a_script_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text("import torch\nraise ValueError('no such data')\n")
    done = plesio("run", str(script), cwd=tmp_path, code=2)
    assert "ValueError: no such data (bad.py, line 2)" in done.stderr


def test_learners_with_different_models_are_told(tmp_path: Path) -> None:
    script = tmp_path / "differ.py"
    script.write_text(
        GOOD.read_text().replace("WIDTH = 8", "import os\nWIDTH = 8 + int(os.environ['PLESIO_NAME'][-1])")
    )
    done = plesio("run", "--learners", "2", str(script), cwd=tmp_path, code=2)
    assert "another model" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert "cannot write" in plesio("run", str(GOOD), cwd=tmp_path, code=2).stderr


def test_a_disk_that_takes_no_more_is_named_and_ends_with_code_1(tmp_path: Path) -> None:
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); "
    limited += (
        f"sys.argv = ['plesio', 'run', '--epochs', '50', {str(GOOD)!r}]; from plesio.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "journal.db" in done.stderr and "disk is full" in done.stderr and "Traceback" not in done.stderr


def test_a_disk_without_room_for_a_snapshot_is_named_and_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "wide.py"
    script.write_text(GOOD.read_text().replace("WIDTH = 8", "WIDTH = 50_000"))
    words = ["run", "--name", "r", "--epochs", "4", str(script)]
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); "
    limited += f"sys.argv = ['plesio', *{words!r}]; from plesio.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "snapshot-1-0.safetensors" in done.stderr and "free some space" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "runs" / "r").glob("*.tmp"))
    summary = json.loads(plesio("resume", "--json", "runs/r", cwd=tmp_path, code=0).stdout)
    assert summary["units"]["applied"] == 4 * 32 and summary["units"]["lost"] == 0


def test_a_run_whose_events_cannot_be_written_goes_on_says_so_and_writes_them_later(tmp_path: Path) -> None:
    plesio("run", "--name", "r", "--epochs", "1", str(GOOD), cwd=tmp_path, code=0)
    folder, lacking = tmp_path / "runs" / "s", tmp_path / "away" / "events.jsonl"
    folder.mkdir()
    (folder / "run.json").write_bytes((tmp_path / "runs" / "r" / "run.json").read_bytes())
    (folder / "events.jsonl").symlink_to(lacking)
    said = plesio("resume", "runs/s", cwd=tmp_path, code=0).stderr
    assert "cannot write" in said and "events.jsonl" in said and "the run goes on" in said, said
    assert (folder / "model.safetensors").exists() and not lacking.exists()
    lacking.parent.mkdir()
    words = [*PLESIO, "resume", "--json", "runs/s"]  # its learners are told that the run is finished, with a traceback
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=True)
    summary = json.loads(again.stdout)
    assert summary["units"]["applied"] == 32 and summary["units"]["lost"] == 0 and summary["finished"]


def test_a_script_with_a_wrong_token_is_turned_away(tmp_path: Path) -> None:
    script = tmp_path / "wrong.py"
    script.write_text("import os\nos.environ['PLESIO_TOKEN'] = 'wrong'\n" + GOOD.read_text())
    done = plesio("run", "--name", "r", "--learners", "1", str(script), cwd=tmp_path, code=2)
    assert "learner-0" in done.stderr and "token" in done.stderr, done.stderr
    assert "PeerRefused" in (tmp_path / "runs" / "r" / "events.jsonl").read_text()


def test_ctrl_c_leaves_a_run_that_resumes_but_not_with_another_model(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(GOOD.read_text())
    hold = tmp_path / "hold"
    hold.touch()  # not over before it is stopped
    words = ["run", "--name", "r", "--epochs", "60", "--start-rounds", "5", "--every", "8", str(script)]
    running = subprocess.Popen(
        [*PLESIO, *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    events = tmp_path / "runs" / "r" / "events.jsonl"
    wait_for(lambda: events.exists() and events.read_text().count("RoundClosed") > 10, "its first rounds", 120)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 0 and "resum" in said and "Traceback" not in said, said

    hold.unlink()
    script.write_text(GOOD.read_text().replace("WIDTH = 8", "WIDTH = 9"))
    assert "another model" in plesio("resume", "runs/r", cwd=tmp_path, code=2).stderr
    script.write_text(GOOD.read_text())
    summary = json.loads(plesio("resume", "--json", "runs/r", cwd=tmp_path, code=0).stdout)
    assert summary["units"]["applied"] == 60 * 32
    assert summary["units"]["lost"] == summary["units"]["duplicated"] == 0
    assert "is finished" in plesio("resume", "runs/r", cwd=tmp_path, code=2).stderr


@pytest.mark.parametrize("strategy", ["sync", "decoupled"])
def test_a_run_leaves_what_it_promises(strategy: str, tmp_path: Path) -> None:
    words = ["run", "--json", "--name", "r", "--strategy", strategy, "--every", "4", "--start-rounds", "4", str(GOOD)]
    summary = json.loads(plesio(*words, cwd=tmp_path, code=0).stdout)
    assert summary["units"]["applied"] == 64 and summary["units"]["lost"] == summary["units"]["duplicated"] == 0
    assert summary["tokens"] == 512
    assert set(summary) >= {
        "run", "strategy", "codec", "learners", "tokens", "wall_s", "tokens_per_s", "wire_bytes", "rounds",
        "effective_participants", "val_loss", "val_loss_start", "units", "faults", "recovery_s", "staleness",
        "coordinator_restarts",
    }  # fmt: skip
    left = {p.name for p in (tmp_path / "runs" / "r").iterdir()}
    assert {"journal.db", "events.jsonl", "summary.json", "report.html", "model.safetensors"} <= left
    assert "RunFinished" in (tmp_path / "runs" / "r" / "events.jsonl").read_text()
    assert "finished" in plesio("log", "runs/r", cwd=tmp_path, code=0).stdout


def test_pushes_are_as_long_as_the_codec_says_beforehand_with_each_matrix_in_its_shape(tmp_path: Path) -> None:
    text = "byrole(norms=bf16, rest=powersgd(1)+int8)"
    words = ["run", "--json", "--name", "r", "--strategy", "localsgd", "--every", "4", "--start-rounds", "5"]
    done = plesio(*words, "--codec", text, str(GOOD), cwd=tmp_path, code=0)
    assert "gradients of the rounds before changes go up as that" in done.stderr
    summary = json.loads(done.stdout)
    assert summary["units"]["applied"] == 64 and summary["val_loss"] < summary["val_loss_start"]
    model = load_file(tmp_path / "runs" / "r" / "model.safetensors")
    names, shapes = ["0.weight", "0.bias", "2.weight", "2.bias"], [(8, 4), (8,), (1, 8), (1,)]
    assert {name: tuple(model[name].shape) for name in names} == dict(zip(names, shapes, strict=True))
    told = {each: bound(parse(each), names, shapes).wire_bytes((49,), torch.float32) for each in ("int8", text)}
    events = map(json.loads, (tmp_path / "runs" / "r" / "events.jsonl").read_text().splitlines())
    pushed = [event["contribution"] for event in events if event["type"] == "ContributionAccepted"]
    assert {push["codec"]: push["size_bytes"] for push in pushed} == told
    assert all(told[push["codec"]] == push["size_bytes"] for push in pushed)


@pytest.mark.parametrize("strategy", ["sync", "decoupled", "async(overlap=1)"])
def test_a_script_with_its_own_loop_finishes_with_all_its_work(strategy: str, tmp_path: Path) -> None:
    words = ["run", "--json", "--name", "r", "--learners", "3", "--strategy", strategy, "--every", "4"]
    words += ["--start-rounds", "5", str(GOOD.with_name("own_loop.py"))]
    summary = json.loads(plesio(*words, cwd=tmp_path, code=0).stdout)
    assert summary["finished"] == "all scripts ended"
    assert summary["tokens"] == 8 * (30 + 31 + 32), "each learner's steps, the last ones too"
    assert (tmp_path / "runs" / "r" / "model.safetensors").exists()
    said = (tmp_path / "runs" / "r" / "logs" / "learner-2.log").read_text()
    assert "joins anew" not in said


@pytest.mark.parametrize("strategy", ["sync", "decoupled", "async"])
def test_batch_norm_is_one_model_on_all_learners_and_on_disk(strategy: str, tmp_path: Path) -> None:
    words = ["run", "--json", "--name", "r", "--learners", "2", "--strategy", strategy, "--every", "4"]
    words += ["--start-rounds", "5", str(GOOD.with_name("batch_norm.py"))]
    plesio(*words, cwd=tmp_path, code=0)
    folder = tmp_path / "runs" / "r"
    model = load_file(folder / "model.safetensors")
    assert model["1.running_mean"].abs().mean() > 0.5, "the data's mean is far from 0"
    for name in ("learner-0", "learner-1"):
        mine = load_file(folder / f"{name}.safetensors")
        assert mine.keys() == model.keys()
        for key in model.keys() - {"1.num_batches_tracked"}:
            room = (
                {"atol": 0.0, "rtol": 0.0} if strategy == "sync" else {"atol": 5e-3, "rtol": 0.0}
            )  # the downlink's int8
            torch.testing.assert_close(mine[key], model[key], msg=f"{name}: {key}", **room)


def test_the_token_is_nowhere_on_disk(tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text(GOOD.read_text() + "\nimport os\nassert 'PLESIO_TOKEN' not in os.environ\n")
    words = ["run", "--name", "r", "--start-rounds", "2", "--token-file", "secret", str(script)]
    plesio(*words, cwd=tmp_path, code=0)
    token = (tmp_path / "secret").read_bytes().strip()
    assert len(token) == 32
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or token not in path.read_bytes(), path


def test_the_script_runs_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(GOOD)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

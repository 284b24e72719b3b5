"""`plesio join`: another command's learners take part in a run under way, and leave with their work counted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plesio.reporting.events import read_events
from plesio.testing.waiting import free_port, wait_for

PLESIO = [sys.executable, "-m", "plesio"]
SCRIPT = Path(__file__).parents[1] / "scripts" / "tiny.py"
UNITS = 40 * 32


class Run:
    """A run that listens, with one learner of its own."""

    def __init__(self, folder: Path, strategy: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.token = folder / "secret"
        self.hold = folder / "hold"
        self.hold.touch()  # the run takes its time while processes start
        words = ["run", "--json", "--name", "r", "--learners", "1", "--epochs", "40", "--strategy", strategy]
        words += ["--listen", f"127.0.0.1:{self.port}", "--token-file", str(self.token)]
        words += ["--start-rounds", "5", "--every", "8", "--slow", "learner-0=4", str(SCRIPT)]
        self.process = subprocess.Popen(
            [*PLESIO, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.folder / "runs" / "r") if event["type"] == kind]

    def pushes_of(self, name: str) -> list[dict[str, Any]]:
        found = [event["contribution"] for event in self.events("ContributionAccepted")]
        return [push for push in found if push["contributor"] == name]

    def join(self, name: str, *words: str, token: Path | None = None) -> subprocess.Popen[str]:
        command = [*PLESIO, "join", f"127.0.0.1:{self.port}", "--token-file", str(token or self.token), "--name", name]
        return subprocess.Popen(
            [*command, *words, str(SCRIPT)], cwd=self.folder, stderr=subprocess.PIPE, text=True
        )  # fmt: skip

    def end(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        summary: dict[str, Any] = json.loads(out)
        return summary


@pytest.fixture(params=["sync", "decoupled"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, request.param)
    yield run
    if run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        run.process.communicate(timeout=60)


def test_a_joiner_takes_part_and_a_preempted_one_loses_nothing(run: Run) -> None:
    wait_for(lambda: len(run.events("RoundClosed")) > 3, "the run starts")
    stays, goes = run.join("stays"), run.join("goes", "--learners", "2")
    wait_for(lambda: all(run.pushes_of(n) for n in ("stays", "goes-0", "goes-1")), "all of them push")
    goes.send_signal(signal.SIGTERM)
    _, said = goes.communicate(timeout=60)
    assert goes.returncode == 0, said
    ended = {event["name"]: event["reason"] for event in run.events("MemberEnded")}
    assert ended["goes-0"] == ended["goes-1"] == "left", "they said goodbye"
    log = (run.folder / "runs" / "joined-goes" / "logs" / "goes-0.log").read_text()
    assert "joins anew" not in log and "Traceback" not in log

    run.hold.unlink()
    _, said = stays.communicate(timeout=120)
    assert stays.returncode == 0, said
    summary = run.end()
    units = summary["units"]
    assert units["applied"] == UNITS and units["lost"] == units["duplicated"] == units["partial"] == 0
    tokens = {learner["id"]: learner["tokens"] for learner in summary["learners"]}
    assert sum(tokens.values()) == summary["tokens"] == UNITS * 8 and min(tokens.values()) > 0
    sent = sum(push["tokens"] for push in run.pushes_of("goes-0"))
    assert tokens["goes-0"] == sent, "all that it sent is in the model"


def test_who_may_not_join_is_told_why(run: Run) -> None:
    wait_for(lambda: bool(run.events("MemberJoined")), "the run starts")
    wrong = run.folder / "wrong"
    wrong.write_text("0" * 32)
    wrong.chmod(0o600)
    stranger = run.join("stranger", token=wrong)
    _, said = stranger.communicate(timeout=60)
    assert stranger.returncode == 2 and "token" in said and "Traceback" not in said, said
    wait_for(lambda: any("token" in e["reason"] for e in run.events("PeerRefused")), "it is journaled")
    secret = run.token.read_text().strip()
    told = [entry / "cmdline" for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    for path in [*(run.folder / "runs").rglob("*"), *told]:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, ProcessLookupError):  # it may be gone by now
            assert secret.encode() not in path.read_bytes(), path
    assert os.path.exists(run.token)

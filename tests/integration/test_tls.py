"""`plesio run --tls` and `plesio join --tls`: a whole run over TLS, and who is turned away from it with one clear line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plesio.reporting.events import read_events
from plesio.testing.waiting import free_port, wait_for

PLESIO = [sys.executable, "-m", "plesio"]
SCRIPT = Path(__file__).parents[1] / "scripts" / "tiny.py"
EPOCHS = 100


def plesio(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PLESIO, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def certificate(stem: str, folder: str = "certs") -> str:
    return f"{folder}/{stem}.pem,{folder}/{stem}-key.pem,{folder}/ca.pem"


class Run:
    """A run that listens with TLS, or without, with one learner of its own. It is slow as long as there is `hold`."""

    def __init__(self, folder: Path, tls: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.hold = folder / "hold"
        self.hold.touch()
        words = ["run", "--json", "--name", "r", "--learners", "1", "--epochs", str(EPOCHS), "--start-rounds", "5"]
        words += ["--every", "8", "--listen", f"127.0.0.1:{self.port}"]
        words += ["--token-file", "secret", *(["--tls", tls] if tls else []), str(SCRIPT)]
        self.process = plesio(folder, *words)
        wait_for(lambda: len(self.events("RoundClosed")) > 3 or self.process.poll() is not None, "the run starts")
        assert self.process.poll() is None, self.process.communicate()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.folder / "runs" / "r") if event["type"] == kind]

    def takes_part(self, name: str) -> bool:
        return any(event["contribution"]["contributor"] == name for event in self.events("ContributionAccepted"))

    def refusals(self) -> list[str]:
        return [event["reason"] for event in self.events("PeerRefused")]

    def join(self, name: str, tls: str) -> subprocess.Popen[str]:
        words = ["join", f"127.0.0.1:{self.port}", "--token-file", "secret", "--name", name]
        return plesio(self.folder, *words, *(["--tls", tls] if tls else []), str(SCRIPT))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.communicate(timeout=120)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name in ("certs", "other"):
        done = plesio(folder, "cert", name, "--host", "trainer", "--node", "gpu1")
        out, err = done.communicate(timeout=120)
        assert done.returncode == 0 and "plesio join trainer:7700" in out, err
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[str], Run]]:
    runs: list[Run] = []

    def begin(tls: str) -> Run:
        runs.append(Run(folder, tls))
        return runs[-1]

    yield begin
    for run in runs:
        run.stop()


def refused(process: subprocess.Popen[str], *words: str) -> None:
    """It ended with code 2 and one clear line."""
    _, said = process.communicate(timeout=120)
    lines = [line for line in said.splitlines() if line.startswith("plesio: ") and "; logs in " not in line]
    assert process.returncode == 2 and len(lines) == 1 and "Traceback" not in said, said
    assert all(word in lines[0] for word in words), said


def no_process_names(secret: bytes) -> None:
    """Neither in its arguments, which everybody on the machine may list, nor in the environment that it began with."""
    for entry in Path("/proc").iterdir():
        try:
            assert not entry.name.isdigit() or secret not in (entry / "cmdline").read_bytes()
            assert not entry.name.isdigit() or secret not in (entry / "environ").read_bytes()
        except OSError:
            continue


@pytest.mark.timeout(480)
def test_a_whole_run_over_tls_with_a_joiner_while_others_are_turned_away(
    start: Callable[[str], Run], folder: Path
) -> None:
    run = start(certificate("trainer"))
    stays = run.join("stays", certificate("gpu1"))
    refused(run.join("foreign", certificate("gpu1", "other")), "not trusted here", "--tls")
    refused(run.join("bare", ""), "speaks TLS", "--tls")
    mixed = "certs/gpu1.pem,certs/gpu1-key.pem,other/ca.pem"
    refused(run.join("mixed", mixed), "not signed by the CA")
    wait_for(lambda: any("speaks TLS" in x for x in run.refusals()), "who came without TLS is journaled")
    wait_for(lambda: any("does not trust our certificate" in x for x in run.refusals()), "and who did not trust us")
    keys = [path.read_bytes().splitlines()[1] for path in (folder / "certs").glob("*-key.pem")]
    secrets = [*keys, (folder / "secret").read_bytes().strip()]
    assert len(keys) == 3 and len(secrets[-1]) == 32
    for secret in secrets:
        no_process_names(secret)

    wait_for(lambda: run.takes_part("stays"), "who joined takes part")
    run.hold.unlink()
    _, said = stays.communicate(timeout=120)
    assert stays.returncode == 0, said
    out, err = run.process.communicate(timeout=120)
    assert run.process.returncode == 0, err
    assert "--tls NODE.pem,NODE-key.pem,ca.pem" in err.replace("\n", "")
    summary = json.loads(out)
    units = summary["units"]
    assert units["applied"] == EPOCHS * 32 and units["lost"] == units["duplicated"] == 0
    assert {"learner-0", "stays"} <= {x["id"] for x in summary["learners"] if x["tokens"] > 0}
    left = {path.name for path in (folder / "runs").rglob("*") if path.is_file()}
    assert {"journal.db", "events.jsonl", "metrics.jsonl", "coordinator.log", "stays.log", "report.html"} <= left
    for path in (folder / "runs").rglob("*"):
        assert not path.is_file() or not any(x in path.read_bytes() for x in secrets), path
    assert not any(x.decode() in text for x in secrets for text in (said, out, err))


def test_a_tls_joiner_is_told_that_a_run_has_no_tls_and_training_goes_on(start: Callable[[str], Run]) -> None:
    run = start("")
    refused(run.join("careful", certificate("gpu1")), "does not speak TLS")
    wait_for(lambda: any("it speaks TLS" in x for x in run.refusals()), "it is journaled")
    rounds = len(run.events("RoundClosed"))
    wait_for(lambda: len(run.events("RoundClosed")) > rounds, "training goes on")


def test_top_and_doctor_look_at_a_run_over_tls(start: Callable[[str], Run], folder: Path) -> None:
    run = start(certificate("trainer"))
    at = [f"127.0.0.1:{run.port}", "--token-file", "secret"]
    out, err = plesio(folder, "top", *at, "--tls", certificate("gpu1"), "--once", "--json").communicate(timeout=120)
    assert json.loads(out)["learners"], err
    refused(plesio(folder, "top", *at, "--once"), "speaks TLS")
    out, err = plesio(folder, "doctor", *at, "--tls", certificate("gpu1"), "--json").communicate(timeout=120)
    checks = {check["name"]: check["state"] for check in json.loads(out)["checks"]}
    assert checks["coordinator token"] == checks["synchronizer token"] == "ok", (out, err)
    out, err = plesio(folder, "doctor", *at, "--json").communicate(timeout=120)
    assert {c["name"]: c["state"] for c in json.loads(out)["checks"]}["coordinator TLS"] == "failed", (out, err)


def test_a_run_with_files_that_do_not_do_starts_nothing(folder: Path) -> None:
    words = ["run", "--name", "r", "--listen", "127.0.0.1:0"]
    refused(plesio(folder, *words, "--tls", certificate("gpu1"), str(SCRIPT)), "for clients only")
    os.chmod(folder / "certs" / "trainer-key.pem", 0o644)
    refused(plesio(folder, *words, "--tls", certificate("trainer"), str(SCRIPT)), "chmod 600")
    assert not (folder / "runs").exists()

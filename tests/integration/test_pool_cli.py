"""The commands of the task plane, with real processes: what people type, and what is left when they press Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import plesio
from plesio.cli.cert import make as make_certificates
from plesio.errors import WireError
from plesio.runtime.hostsettings import running
from plesio.runtime.node import AGAIN_S, DRAIN_S
from plesio.tasks import Client
from plesio.tasks.embedded import attach
from plesio.testing.waiting import kept_port, wait_for

PLESIO = [sys.executable, "-m", "plesio"]
WAIT_S = 150.0
MODULE = """
import time
from pathlib import Path

def add(a, b=0):
    return a + b

def boom(text="no"):
    raise ValueError(text)

def held(gate, line):
    "Says that it has begun; counts that it ran, when the gate opens."
    Path(gate + ".begun").touch()
    while not Path(gate).exists():
        time.sleep(0.01)
    with Path(gate).open("a") as file:
        file.write(line)
    return line

def once(path):
    if not Path(path).exists():
        Path(path).touch()
        raise RuntimeError("the first time")
    return "the second time"
"""


class Command:
    """One that goes on, in a session of its own."""

    def __init__(self, cwd: Path, *words: str) -> None:
        self.log = cwd / f"{words[0]}-{len(list(cwd.iterdir()))}.err"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*PLESIO, *words], cwd=cwd, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )

    def said(self) -> str:
        return self.log.read_text()

    def says(self, words: str) -> None:
        wait_for(lambda: words in self.said() or self.process.poll() is not None, words, WAIT_S)
        assert words in self.said(), self.said()

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """(exit code, stdout). As a terminal does it: the signal goes to the whole session."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        out, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out

    def members(self) -> list[int]:
        """Processes of its session."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.process.pid and state != "Z":
                found.append(int(path.parent.name))
        return found


def run(cwd: Path, *words: str, code: int = 0) -> str:
    """A command's stdout; its stderr when it is to fail."""
    done = subprocess.run([*PLESIO, *words], cwd=cwd, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == code, done.stderr
    assert code == 1 or "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def begins(gate: Path) -> None:
    """Waits until a `held` runs at this gate, since this was last asked."""
    begun = Path(f"{gate}.begun")
    wait_for(begun.exists, "it runs", WAIT_S)
    begun.unlink()


Typed = Callable[..., Any]


@pytest.fixture
def typed(here: Path, typed_in: Typed) -> Typed:
    """A command in this process, which saves its start."""
    return partial(typed_in, here)


def coordinator(folder: Path, up: Command, but: int = 0) -> int:
    """The process that writes its log, as soon as there is one; another one than this."""

    def found() -> int:
        for pid in up.members():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/2") == str(folder / "logs" / "coordinator.log") and pid != but:
                    return pid
        return 0

    return int(wait_for(found, "a coordinator", WAIT_S))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    (folder / "work.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def up(here: Path) -> Iterator[Command]:
    """A pool in here/runs/pool with one slot, for the whole file."""
    command = Command(here, "up", "--listen", "127.0.0.1:0", "--workers", "1")
    try:
        command.says("in the pool")
        yield command
    finally:
        code, _ = command.end()
        assert code == 0 and "Traceback" not in command.said()


@pytest.fixture
def client(here: Path, up: Command) -> Iterator[Client]:
    with attach(here / "runs" / "pool") as client:
        yield client


def url(here: Path) -> str:
    found = running(here / "runs" / "pool")
    assert found is not None
    return f"{found.host}:{found.port}"


@pytest.fixture
def worker(here: Path, up: Command) -> Iterator[Command]:
    """It alone has a gpu; it found no module there until it was told to import one."""
    words = ["--token-file", "runs/pool/token", "--slots", "1", "--tag", "gpu=1", "--import", "work"]
    command = Command(here, "worker", "--join", url(here), *words)
    try:
        command.says("in the pool")
        yield command
    finally:
        command.end(signal.SIGKILL)


def test_a_pool_is_there_once_and_ctrl_c_leaves_no_process_and_loses_no_task(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    first = Command(tmp_path, "up", "--listen", "127.0.0.1:0", "--workers", "1")
    first.says("in the pool")
    assert "a pool runs in runs/pool already" in run(tmp_path, "up", code=2)
    folder = tmp_path / "runs" / "pool"
    with plesio.connect(folder=folder) as client:
        assert running(folder).pid == first.process.pid  # type: ignore[union-attr]
        assert client.submit("work:add", 1, 2).result(WAIT_S) == 3
        assert "here.0" in [row["slot"] for row in client.ask("workers")]
        name = client.submit("work:add", 3, 4, requires={"gpu": 1}).name
        client.flush()
        code, _ = first.end()
        assert code == 0 and first.members() == [] and running(folder) is None, first.said()
    second = Command(tmp_path, "up", "--listen", "127.0.0.1:0", "--workers", "1", "--tag", "gpu=2", "--json")
    assert second.process.stdout is not None
    told = json.loads(second.process.stdout.readline())
    with plesio.connect(f"{told['host']}:{told['port']}", token_file=told["token_file"]) as client:
        assert client.follow([name])[0].result(WAIT_S) == 7
        code, _ = second.end(signal.SIGTERM)
    assert code == 0 and second.members() == [], second.said()


def test_a_pool_that_is_killed_or_hurried_leaves_no_process_and_loses_no_task(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    folder, gate = tmp_path / "runs" / "pool", tmp_path / "gate"
    first = Command(tmp_path, "up", "--listen", "127.0.0.1:0", "--workers", "1")
    first.says("in the pool")
    with attach(folder) as client:
        name = client.submit("work:held", str(gate), "x").name
        begins(gate)
        first.process.kill()
        wait_for(lambda: not first.members(), "its processes end with it", WAIT_S)
    first.end()
    second = Command(tmp_path, "up", "--listen", "127.0.0.1:0", "--workers", "1")
    second.says("in the pool")
    begins(gate)

    second.process.send_signal(signal.SIGINT)
    second.says("tasks that run (1)")
    until_s = time.monotonic() + 2 * AGAIN_S
    wait_for(lambda: time.monotonic() > until_s, "not taken for the same signal twice")
    second.process.send_signal(signal.SIGINT)
    wait_for(lambda: second.process.poll() is not None, "told again, it does not wait", DRAIN_S / 2)
    assert second.process.returncode == 0 and second.members() == [] and not gate.exists(), second.said()
    gate.touch()
    third = Command(tmp_path, "up", "--listen", "127.0.0.1:0", "--workers", "1")
    third.says("in the pool")
    with attach(folder) as client:
        assert client.follow([name])[0].result(WAIT_S) == "x"
    assert third.end()[0] == 0 and gate.read_text() == "x"


def test_submit_prints_the_result_or_the_failure_or_the_name(here: Path, up: Command, typed: Typed) -> None:
    assert run(here, "submit", "--wait", "work:add", "[1]", "--kwargs", '{"b": [2]}') == "[1,2]\n"
    told = typed("submit", "--json", "--wait", "--", "work.py:add", "1", "-3")
    assert told["state"] == "done" and told["result"] == -2
    said = run(here, "submit", "--wait", "work:boom", "my words", code=1)
    assert said.startswith("plesio: raised: ") and said.endswith("ValueError: my words\n")
    said = run(here, "submit", "work:add", "1", "--to", url(here), "--token-file", "runs/pool/token")
    assert re.fullmatch(r"\d+-1\n", said)
    assert typed("tasks", "show", said.strip(), "--json")["fn"] == "work:add"


def test_a_task_goes_to_the_worker_with_the_tag_and_ends_although_the_worker_is_told_to_leave(
    client: Client, worker: Command, typed: Typed, tmp_path: Path
) -> None:
    assert typed("submit", "--wait", "work:add", "20", "1", "--require", "gpu=1") == "21\n"
    rows = {row["tags"].get("gpu"): row for row in typed("tasks", "workers", "--json")["workers"]}
    assert rows[1.0]["node"] != "here" and rows[None]["node"] == "here"
    gate = tmp_path / "gate"
    task, later = (client.submit("work:held", str(gate), "x", requires={"gpu": 1}) for _ in range(2))
    client.flush()
    begins(gate)
    assert client.ask("task", task.name)["worker"] == rows[1.0]["slot"]
    worker.process.terminate()
    worker.says("tasks that run (1)")
    gate.touch()
    assert task.result(WAIT_S) == "x"
    code, _ = worker.end()
    assert code == 0 and worker.members() == [], worker.said()
    assert gate.read_text() == "x" and client.ask("task", task.name)["attempts"] == 0
    wait_for(lambda: client.ask("task", later.name)["state"] == "ready", "the other one went back", WAIT_S)
    assert client.ask("task", later.name)["attempts"] == 0, "nobody takes it for lost"
    later.cancel()


def test_tasks_are_listed_shown_cancelled_and_retried(client: Client, typed: Typed, tmp_path: Path) -> None:
    failed = client.submit("work:once", str(tmp_path / "mark"))
    assert failed.exception(WAIT_S) is not None
    running, waiting = (client.submit("work:held", str(tmp_path / "gate"), "x") for _ in range(2))
    client.flush()
    begins(tmp_path / "gate")

    lines = typed("tasks", "ls").splitlines()
    assert lines[0].startswith("id\tstate\tfn\t") and any(line.startswith(f"{waiting.name}\tready\t") for line in lines)
    found = typed("tasks", "dead", "--json")["tasks"]
    assert [row["id"] for row in found if row["fn"] == "work:once"] == [failed.name]
    shown = typed("tasks", "show", failed.name)
    assert "RuntimeError: the first time" in shown and re.search(r"kind +raised", shown)

    rows = typed("tasks", "cancel", running.name, waiting.name, "--json")["tasks"]
    assert [row["state"] for row in rows] == ["cancelled", "cancelled"]
    assert "is cancelled; only dead ones" in typed("tasks", "retry", waiting.name, code=2)
    assert typed("tasks", "retry", failed.name, "--json")["tasks"][0]["state"] in ("ready", "leased", "done")
    assert client.follow([failed.name])[0].result(WAIT_S) == "the second time"
    assert typed("tasks", "show", failed.name, "--json")["result"] == "the second time"
    assert "not known" in typed("tasks", "show", "999-1", code=2)
    counted = typed("tasks", "counts", "--json")
    assert counted["waiting"] == counted["running"] == 0 and counted["done"] >= 1


def test_queues_are_paused_limited_drained_and_removed(client: Client, typed: Typed) -> None:
    assert (
        typed("queue", "set", "slow", "--capacity", "5", "--rate-per-s", "100", "--json")["queues"][0]["capacity"] == 5
    )
    row = typed("queue", "pause", "slow", "--json")["queues"][0]
    assert row["paused"] and row["capacity"] == 5 and row["rate_per_s"] == 100
    futures = [client.submit("work:add", i, queue="slow") for i in range(5)]
    client.flush()
    assert "is paused with 5 tasks" in typed("queue", "drain", "slow", code=2)
    assert "holds 5 tasks" in typed("queue", "rm", "slow", code=2)
    typed("queue", "resume", "slow")
    assert typed("queue", "drain", "slow", "--json")["queues"][0]["waiting"] == 0
    assert client.gather(futures, WAIT_S) == [0, 1, 2, 3, 4]
    typed("queue", "rm", "slow")
    assert "slow" not in typed("queue", "ls")


def test_a_wrong_token_is_told_in_one_line(here: Path, up: Command, typed: Typed, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 32)
    token.chmod(0o600)
    where = [url(here), "--token-file", str(token)]
    for said in (run(here, "worker", "--join", *where, code=2), typed("tasks", "ls", "--to", *where, code=2)):
        assert "the token does not match" in said.splitlines()[-1] and "0" * 32 not in said


def test_a_killed_coordinator_is_started_again_and_who_waits_gets_the_result(
    here: Path, client: Client, up: Command, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    waiting = Command(here, "submit", "--wait", "work:held", str(gate), "x")
    begins(gate)
    killed = coordinator(here / "runs" / "pool", up)
    os.kill(killed, signal.SIGKILL)
    up.says("the coordinator ended (signal SIGKILL) and is started again")
    assert coordinator(here / "runs" / "pool", up, killed)
    gate.touch()
    out, _ = waiting.process.communicate(timeout=WAIT_S)
    assert (waiting.process.returncode, out) == (0, "x\n"), waiting.said()
    assert gate.read_text() == "x"


def test_an_embedded_pool_whose_process_is_killed_is_started_again_by_who_waits(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    folder, gate = tmp_path / "pool", tmp_path / "gate"
    with plesio.connect(folder=folder, workers=1) as client:
        future = client.submit(f"{tmp_path / 'work.py'}:held", str(gate), "x")
        wait_for(lambda: client.ask("task", future.name)["state"] == "leased", "it runs", WAIT_S)
        first = running(folder)
        assert first is not None and first.embedded
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: running(folder) not in (None, first), "another one", WAIT_S)
        gate.touch()
        assert future.result(WAIT_S) == "x"


def test_a_folder_with_another_journal_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "pool"
    folder.mkdir(parents=True)
    (folder / "journal.db").write_text("this is no journal")
    assert "is not a plesio journal" in run(tmp_path, "up", "--workers", "1", code=2).splitlines()[-1]
    with pytest.raises(WireError, match="is not a plesio journal"):
        plesio.connect(folder=folder, workers=1)


def test_a_worker_waits_for_its_pool_and_all_of_them_speak_tls(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    (tmp_path / "token").write_text("a-token-of-the-test-0123456789\n")
    (tmp_path / "token").chmod(0o600)
    make_certificates(tmp_path / "certs", ["localhost"], ["node"], 1)
    tls = ["--tls", "certs/{0}.pem,certs/{0}-key.pem,certs/ca.pem"]
    with kept_port() as port:
        where = f"127.0.0.1:{port}"
        worker = Command(
            tmp_path, "worker", "--join", where, "--token-file", "token", "--slots", "1", "--name", "far",
            tls[0], tls[1].format("node"),
        )  # fmt: skip
        worker.says("trying again")
        words = ["--listen", where, "--workers", "0", "--token-file", "token", tls[0], tls[1].format("localhost")]
        up = Command(tmp_path, "up", *words)
        worker.says("in the pool")
        assert run(tmp_path, "submit", "--wait", "work:add", "1", "1") == "2\n", "the folder says how"
        said = run(tmp_path, "tasks", "ls", "--to", where, "--token-file", "token", code=2)
        assert "TLS" in said
        assert up.end()[0] == 0 and up.members() == []
        assert worker.end(signal.SIGTERM)[0] == 0 and worker.members() == []


def test_bench_tells_what_it_promises(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plesio.cli.measuring.STARTS", 1)
    found = typed("bench", "tasks", "--tasks", "300", "--workers", "1", "--json")
    for key in ("tasks_per_s", "submit_per_s", "p50_ms", "p99_ms", "first_result_s", "idle_rss_mb", "idle_pss_mb"):
        assert found[key] > 0, key
    assert "power cut" in found["journal"] and found["idle_pss_mb"] <= found["idle_rss_mb"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["tasks", "ls"], "start one with `plesio up"),
        (["submit", "work:add"], "start one with `plesio up"),
        (["tasks", "ls", "--to", "127.0.0.1:7710"], "--token-file"),
        (["tasks", "ls", "--token-file", "token"], "--to HOST:PORT"),
        (["tasks", "ls", "--state", "lost"], "is not one of"),
        (["up", "--listen", "nowhere"], "HOST:PORT"),
        (["up", "--tag", "gpu=many"], "e.g. gpu=1"),
        (["submit", "work:add", "--kwargs", "[1]"], "not a JSON object"),
        (["submit", "work:add", "--require", "=1"], "e.g. gpu=1"),
        (["queue", "set", "q"], "say what to set"),
        (["worker", "--join", "here:1", "--token-file", "none"], "cannot read the token file"),
        (["worker", "--join", "here", "--token-file", "token"], "HOST:PORT"),
        (["worker", "--join", "here:1", "--token-file", "token", "--import", "no.such"], "--import no.such"),
        (["worker", "--join", "here:1", "--token-file", "token", "--name", "a/b"], "letters"),
    ],
)
def test_a_mistake_gets_one_line_and_code_2(
    words: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed_in: Typed
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "token").write_text("a-token-of-the-test-0123456789\n")
    (tmp_path / "token").chmod(0o600)
    said = typed_in(tmp_path, *words, code=2)
    assert hint in said and len(said.splitlines()) == 1, said
    assert not (tmp_path / "runs").exists()


def test_messages_go_in_and_out_and_the_log_tells_of_tasks_and_times(
    tmp_path: Path, typed_in: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = str(tmp_path / "pool")
    with plesio.connect(folder=pool, workers=1) as client:

        def queue(command: str, *words: str, code: int = 0) -> Any:
            return typed_in(tmp_path, "queue", command, "--dir", pool, "work", *words, code=code)

        def log(*words: str, code: int = 0) -> str:
            return str(typed_in(tmp_path, "log", pool, *words, code=code))

        queue("put", "1", "two")
        monkeypatch.setattr(sys, "stdin", io.StringIO("three\n[4]\n"))
        queue("put")
        assert queue("peek").split() == ["1", '"two"', '"three"', "[4]"]
        assert queue("get").split() == ["1"]
        assert queue("get", "--count", "0", "--json") == {"messages": ["two", "three", [4]]}
        queue("get", code=1)
        future = client.submit("math:gcd", 12, 18)
        assert future.result(60) == 6
        told = log("--task", future.name)
        assert "submitted: math:gcd" in told and "given to" in told and "done by" in told
        assert future.name in log() and "client" in log()
        assert future.name in log("--at", told[:16]), "the minute of its first line"
        log("--at", "teatime", code=2)
        log("--task", "9-9", code=2)

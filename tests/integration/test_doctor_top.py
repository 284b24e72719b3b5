"""`plesio doctor` and `plesio top` against a run under way, against fakes, and on what a run left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plesio.cli import checks as c
from plesio.cli import doctor
from plesio.core import stimuli as s
from plesio.errors import WireError
from plesio.reporting.events import read_events
from plesio.runtime.probe import Prober
from plesio.runtime.viewer import Target
from plesio.testing.waiting import free_port, wait_for
from plesio.version import VERSION
from plesio.wire import channel as wire
from plesio.wire import greeting
from plesio.wire import messages as m
from plesio.wire.frames import header
from plesio.wire.server import serve

PLESIO = [sys.executable, "-m", "plesio"]
SCRIPT = Path(__file__).parents[1] / "scripts" / "tiny.py"
TOKEN = "0123456789abcdef"


class Run:
    """A run that listens, with one learner, slow until `hold` is gone. It leaves its folder in `folder`/runs/r."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder = folder
        self.hold = folder / "hold"
        self.hold.touch()  # it needs little of the machine while it is looked at
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.token = folder / "secret"
        words = ["run", "--json", "--name", "r", "--learners", "1", "--epochs", str(epochs), "--listen", self.address]
        words += ["--token-file", str(self.token), "--start-rounds", "5", "--every", "8"]
        self.said = (folder / "said").open("w+")
        self.process = subprocess.Popen(
            [*PLESIO, *words, str(SCRIPT)], cwd=folder, stdout=subprocess.DEVNULL, stderr=self.said
        )

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", self.port, self.token.read_text().strip())

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.folder / "runs" / "r") if event["type"] == kind]

    def began(self, rounds: int) -> bool:
        assert self.process.poll() is None, (self.folder / "said").read_text()
        return len(self.events("RoundClosed")) >= rounds

    def plesio(self, *words: str, code: int) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PLESIO, *words], cwd=self.folder, capture_output=True, text=True, timeout=90, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == code and "Traceback" not in said, said
        assert self.token.read_text().strip() not in said
        return done

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.said.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("looked-at"), 100_000)
    try:
        wait_for(lambda: run.began(6), "the run starts")
        yield run
    finally:
        run.stop()


def states(checks: list[dict[str, str]]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in checks}


# -- doctor


def test_doctor_finds_the_way_to_a_run_in_order(run: Run) -> None:
    done = run.plesio("doctor", run.address, "--token-file", str(run.token), "--json", code=0)
    told = json.loads(done.stdout)
    found = states(told["checks"])
    assert told["ok"] and "failed" not in found.values()
    assert {name: found[name] for name in found if name not in ("cores", "disk", "memory", "open files")} == {
        "python": "ok", "torch": "ok", "clock": "ok", "name": "ok", "token file": "ok", "direction": "ok",
        "coordinator port": "ok", "coordinator protocol": "ok", "coordinator token": "ok", "plesio version": "ok",
        "advertised address": "ok", "synchronizer port": "ok", "synchronizer protocol": "ok",
        "synchronizer token": "ok", "clock skew": "ok", "latency": found["latency"],
        "bandwidth to the run": found["bandwidth to the run"],
        "bandwidth from the run": found["bandwidth from the run"],
    }  # fmt: skip
    measured = told["measured"]
    assert abs(measured["clock_ahead_s"]) <= measured["clock_error_s"] + 1.0
    assert min(measured["up_bytes_per_s"], measured["down_bytes_per_s"], measured["round_trip_s"]) > 0


def test_doctor_without_a_token_looks_at_the_ports(run: Run) -> None:
    done = run.plesio("doctor", run.address, code=0)
    assert f"coordinator port: {run.address} takes connections" in done.stdout
    assert f"synchronizer port: 127.0.0.1:{run.port + 1} takes" in done.stdout
    assert "warning  token file: none given" in done.stdout


def test_a_wrong_token_is_told_by_doctor_and_top(run: Run) -> None:
    wrong = run.folder / "wrong"
    wrong.write_text("0" * 32)
    wrong.chmod(0o600)
    done = run.plesio("doctor", run.address, "--token-file", str(wrong), code=1)
    assert "FAILED   coordinator token: refused\n         copy the token file" in done.stdout
    assert "0" * 32 not in done.stdout + done.stderr
    done = run.plesio("top", run.address, "--token-file", str(wrong), code=2)
    assert "token" in done.stderr
    wrong.chmod(0o644)
    assert "chmod 600" in run.plesio("doctor", run.address, "--token-file", str(wrong), code=1).stdout
    assert "chmod 600" in run.plesio("top", run.address, "--token-file", str(wrong), code=2).stderr


@pytest.fixture
def closed() -> Iterator[int]:
    """A port that nobody listens at, and that nobody else can have."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_closed_port_is_told_by_doctor_and_top(run: Run, closed: int) -> None:
    there = f"127.0.0.1:{closed}"
    done = run.plesio("doctor", there, "--token-file", str(run.token), code=1)
    assert f"FAILED   coordinator port: {there} refuses connections" in done.stdout and "--listen" in done.stdout
    done = run.plesio("top", there, "--token-file", str(run.token), code=2)
    assert f"no run answers at {there}" in done.stderr and "plesio doctor" in done.stderr


def test_a_viewer_can_neither_change_nor_crowd_out_the_run(run: Run) -> None:
    drain, probe = m.encode(s.Drain()), m.encode(m.Probe(1, m.PROBE_BYTES))

    def piled() -> int:
        return sum("one probe at a time" in event["reason"] for event in run.events("PeerRefused"))

    async def refused(frames: list[tuple[bytes, bytes]], times: int = 0) -> None:
        """times: we read nothing until so many were turned away for it."""
        gone = asyncio.Event()
        target = run.target
        channel = await wire.connect(
            target.host, target.port, target.token, "viewer", "control", lambda *got: None, lambda *end: gone.set()
        )
        assert channel._transport is not None
        channel._transport.pause_reading()
        for body, payload in frames:
            channel._write(header(len(body), len(payload)) + body + payload)
        async with asyncio.timeout(30):
            while piled() < times:
                await asyncio.sleep(0.05)
        channel._transport.resume_reading()
        async with asyncio.timeout(30):
            await gone.wait()

    async def main() -> None:
        await refused([(drain, b"")])
        await refused([(m.encode(m.Probe(1, m.PROBE_BYTES + 1)), b"")])
        await refused([(m.encode(m.Probe(1, -1)), b"")])
        await refused([(m.encode(m.Probe(1)), bytes(m.PROBE_BYTES + 1))])
        await refused([(probe, b"")] * 64, times=1)
        prober = Prober()
        await prober.open(run.target)
        exchange = await prober.ask(up_bytes=m.PROBE_BYTES, down_bytes=m.PROBE_BYTES)
        assert exchange.down_bytes == m.PROBE_BYTES and exchange.answer.plesio == VERSION
        assert exchange.answer.run == "r" and exchange.answer.synchronizer is not None
        prober.close()

    asyncio.run(main())
    said = [event["reason"] for event in run.events("PeerRefused")]
    assert any("viewer may not send Drain" in reason for reason in said)
    assert piled() == 1 and any("bytes at most" in reason for reason in said), said
    before = len(run.events("RoundClosed"))
    wait_for(lambda: len(run.events("RoundClosed")) > before + 2, "the run goes on")


# -- doctor against fakes


def examine(port: int, token_file: Path) -> Callable[[], Any]:
    checks: list[c.Check] = []

    async def main() -> dict[str, c.Check]:
        await asyncio.wait_for(doctor.way_to("127.0.0.1", port, token_file, checks.append, lambda link: None), 60)
        return {check.name: check for check in checks}

    return main


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def answer_of_another_protocol() -> bytes:
    body = msgspec.msgpack.encode(greeting.Answer(False, "protocol version 1 is not 2; install it", wrong_version=True))
    return header(len(body), 0) + body


@pytest.mark.parametrize(
    ("answer", "words"),
    [(answer_of_another_protocol(), "protocol version 1 is not 2"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "")],
)
def test_another_protocol_is_told(answer: bytes, words: str, token_file: Path) -> None:
    async def main() -> None:
        async def on_stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if await reader.read(1):
                writer.write(answer)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(on_stranger, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = await examine(port, token_file)()
        assert found["coordinator port"].state == "ok"
        check = found["coordinator protocol"]
        assert check.state == "failed" and words in check.found and check.mend
        assert "coordinator token" not in found and "synchronizer port" not in found
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("knows_probes", [True, False])
def test_another_plesio_is_told_and_an_address_that_leads_nowhere(
    knows_probes: bool, token_file: Path, closed: int
) -> None:
    nowhere = m.SynchronizerAt("0.0.0.0", closed)

    def on_message(channel: wire.Channel, body: bytes, payload: memoryview | None) -> None:
        if not knows_probes:
            raise WireError("not a message")
        probe = m.decode("to", body)
        channel.send(m.encode(m.Probed(probe.number, time.time(), "9.9", "r", nowhere)), bytes(probe.size_bytes))

    async def main() -> None:
        server = await serve(
            ("127.0.0.1", 0),
            token=TOKEN,
            on_channel=lambda channel: None,
            on_message=on_message,
            on_close=lambda channel, error: None,
        )
        found = await examine(server.address[1], token_file)()
        assert found["coordinator protocol"].state == found["coordinator token"].state == "ok"
        assert found["plesio version"].state == "failed" and found["plesio version"].mend
        if knows_probes:
            assert found["plesio version"].found == f"{VERSION} here, 9.9 there"
            assert found["advertised address"].state == "ok"
            assert found["synchronizer port"].state == "failed"
            assert f"127.0.0.1:{nowhere.port}" in found["synchronizer port"].found
            assert found["clock skew"].state == "ok" and "bandwidth from the run" in found
        await server.close()

    asyncio.run(main())


# -- top


def test_top_shows_the_same_from_the_network_and_from_the_files(run: Run) -> None:
    words = ["--json", "--once"]
    far = json.loads(run.plesio("top", run.address, "--token-file", str(run.token), *words, code=0).stdout)
    near = json.loads(run.plesio("top", "runs/r", *words, code=0).stdout)
    newest = json.loads(run.plesio("top", *words, code=0).stdout)
    assert far.keys() == near.keys() == newest.keys()
    assert far["learners"][0].keys() == near["learners"][0].keys()
    same = ("strategy", "target", "live", "effective", "finished", "faults")
    assert {key: far[key] for key in same} == {key: near[key] for key in same}
    assert 0 < far["tokens"] <= near["tokens"] <= newest["tokens"]
    assert far["units"][1] == near["units"][1] and far["units"][0] <= near["units"][0]
    ours = [(x["name"], x["generation"]) for x in near["learners"]]
    assert ours == [(x["name"], x["generation"]) for x in far["learners"]] == [("learner-0", 1)]
    said = run.plesio("top", "runs/r", "--once", code=0).stdout
    assert "learner-0: " in said and "effective participants 1 of 1" in said


def test_top_wants_a_token_and_a_run(run: Run) -> None:
    assert "--token-file" in run.plesio("top", run.address, code=2).stderr
    assert "neither a run's folder nor HOST:PORT" in run.plesio("top", "runs/none", code=2).stderr
    assert "not a run's folder" in run.plesio("top", "runs", code=2).stderr


def test_ctrl_c_ends_top_in_order(run: Run) -> None:
    for where in ([run.address, "--token-file", str(run.token)], ["runs/r"]):
        top = subprocess.Popen(
            [*PLESIO, "top", "--json", *where],
            cwd=run.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert top.stdout is not None
        assert json.loads(top.stdout.readline())["live"] == 1
        top.send_signal(signal.SIGINT)
        _, said = top.communicate(timeout=60)
        assert top.returncode == 0 and "Traceback" not in said, said


def test_top_outlives_the_coordinator_and_ends_with_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, 20)
    try:
        wait_for(lambda: run.began(1), "the run starts")
        top = subprocess.Popen(
            [*PLESIO, "top", "--json", run.address, "--token-file", str(run.token)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert top.stdout is not None
        assert json.loads(top.stdout.readline())["finished"] == ""
        os.kill(run.events("CoordinatorStarted")[-1]["pid"], signal.SIGKILL)
        run.hold.unlink()
        out, said = top.communicate(timeout=120)
        assert top.returncode == 0 and "Traceback" not in said, said
        assert "trying again" in said
        last = json.loads(out.splitlines()[-1])
        assert last["finished"] and last["faults"] == 1, last
        run.process.wait(60)
        assert run.process.returncode == 0
        near = json.loads(run.plesio("top", "runs/r", "--json", code=0).stdout)
        assert near["finished"] == last["finished"] and near["tokens"] == 20 * 256 and near["units"] == [640, 640]
        assert near["live"] == 0
        assert f"finished: {near['finished']}" in run.plesio("top", "runs/r", code=0).stdout
    finally:
        run.stop()

"""Garbage on the ports of a real run: each kind is a journaled refusal, training goes on, memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from plesio import codecs
from plesio.core import stimuli as s
from plesio.errors import TokenRefused, WireError
from plesio.records import Contribution, Dataset, Span, Version
from plesio.reporting.events import read_events
from plesio.runtime.outerstate import digest
from plesio.testing.waiting import free_port
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.frames import header
from plesio.wire.parts import Have, Outgoing, Part

PLESIO = [sys.executable, "-m", "plesio"]
SCRIPT = Path(__file__).parents[1] / "scripts" / "tiny.py"
EPOCHS = 60
UNITS = EPOCHS * 32
GROWTH_BYTES = 64 << 20
WAIT_S = 150.0
CODEC = codecs.parse("none")


class Run:
    """A run that listens, with one learner of its own, and may open 1,024 files a process.

    It is slow as long as there is `hold`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hold = folder / "hold"
        self.hold.touch()
        self.port = free_port()
        self.token_file = folder / "secret"
        words = ["run", "--json", "--name", "r", "--learners", "1", "--epochs", str(EPOCHS), "--codec", "none"]
        words += ["--listen", f"127.0.0.1:{self.port}", "--token-file", str(self.token_file)]
        words += ["--start-rounds", "5", "--every", "8", str(SCRIPT)]
        command = ["bash", "-c", 'ulimit -n 1024; exec "$@"', "bash", *PLESIO, *words]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
        )

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.folder / "runs" / "r") if event["type"] == kind]

    def refusals(self) -> list[tuple[str, str]]:
        return [(event["who"], event["reason"]) for event in self.events("PeerRefused")]

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, f"the run ended early: {what}"
            assert time.monotonic() < deadline, f"{what}; refused so far: {self.refusals()}"
            time.sleep(0.05)

    def resident_bytes(self) -> dict[str, int]:
        """Of coordinator and synchronizer: those who serve connections on our ports."""
        return {name: resident(holder(self.port + n)) for n, name in enumerate(("coordinator", "synchronizer"))}

    def end(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, err
        summary: dict[str, Any] = json.loads(out)
        return summary


def resident(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def holder(port: int) -> int:
    """The process that has accepted connections on this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if any(os.readlink(fd) in inodes for fd in (entry / "fd").iterdir()):
                    return int(entry.name)
    raise AssertionError(f"nobody serves port {port}")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    if run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        run.process.communicate(timeout=120)


class Mallory:
    """Has the token, and a learner's name of its own; speaks as it likes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.name = "mallory"
        self.generation = 0
        self.seq = 0
        self.model: dict[str, Any] = run.events("ModelDeclared")[0]
        self.got: list[Any] = []

    @contextlib.asynccontextmanager
    async def connected(
        self, to: str = "coordinator", role: str = "learner", **how: Any
    ) -> AsyncIterator[wire.Channel]:
        port = self.run.port + (to == "synchronizer")
        kind = how.pop("kind", "bulk" if to == "synchronizer" else "control")
        token = how.pop("token", self.run.token)
        channel = await wire.connect("127.0.0.1", port, token, role, kind, self._on_message, lambda c, e: None, **how)
        try:
            yield channel
        finally:
            channel.abort()
            await asyncio.wait_for(channel.wait_closed(), WAIT_S)

    def _on_message(self, channel: wire.Channel, body: bytes, payload: memoryview | None) -> None:
        direction = "bulk" if channel.kind == "bulk" else "from"
        self.got.append(m.decode(direction, body))

    async def refused(self, *words: str) -> None:
        """Waits until a refusal with these words is journaled."""
        deadline = time.monotonic() + WAIT_S
        while not any(all(w in f"{who}: {reason}" for w in words) for who, reason in self.run.refusals()):
            assert self.run.process.poll() is None, words
            assert time.monotonic() < deadline, (words, self.run.refusals())
            await asyncio.sleep(0.05)

    async def say(self, message: msgspec.Struct, payload: bytes = b"", **how: Any) -> None:
        """Over a connection of its own, until the other side closes it."""
        async with self.connected(**how) as channel:
            with contextlib.suppress(WireError):  # it may be closed already
                channel.send(m.encode(message), payload or None)
            await asyncio.wait_for(channel.wait_closed(), WAIT_S)

    async def join(self) -> None:
        async with self.connected() as channel:
            channel.send(m.encode(s.Join(self.name, "mine", self.model["signature"], self.model["parameters"])))
            await self._until(lambda: [g for g in self.got if type(g).__name__ == "Welcome"])
        self.generation = next(g.generation for g in self.got if type(g).__name__ == "Welcome")

    async def _until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.got
            await asyncio.sleep(0.02)

    @property
    def newest(self) -> Version:
        return Version(*self.run.events("VersionMerged")[-1]["version"])

    def push(self, values: torch.Tensor | None = None, **wrong: Any) -> tuple[m.Push, bytes]:
        self.seq += 1
        packet, _ = CODEC.encode(torch.zeros(self.model["parameters"]) if values is None else values, None)
        data = packet.to_bytes()
        push = Contribution("r", self.name, self.generation, self.seq, (self.newest,), 8, 1, digest=digest(data))
        buffers = wrong.pop("buffers", b"")
        return m.Push(msgspec.structs.replace(push, **wrong), buffers), data

    async def send_push(self, push: m.Push, data: bytes, hang_up: bool = True) -> None:
        """As the learner that it is."""
        async with self.connected("synchronizer") as channel:
            channel.send(m.encode(m.Subscribe(self.name, self.generation, None, "mine")))
            send_whole(channel, push, data)
            if hang_up:
                await asyncio.wait_for(channel.wait_closed(), WAIT_S)
            else:
                await self.refused(f"push {push.contribution.seq} ")


def send_whole(channel: wire.Channel, message: msgspec.Struct, data: bytes) -> None:
    """In parts, as every large message comes."""
    for part, piece in Outgoing(secrets.token_hex(4), m.encode(message), data).parts(Have()):
        channel.send(m.encode(part), piece)


async def raw(port: int, data: bytes) -> None:
    """Says this, without authenticating, and waits until it is hung up on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), WAIT_S)
    writer.close()


async def strangers(it: Mallory) -> None:
    """Without the token."""
    for port in (it.run.port, it.run.port + 1):
        await raw(port, np.random.default_rng(0).bytes(3000))
        await raw(port, header(0, 1 << 63))
        old = msgspec.msgpack.encode({"v": 0, "token": it.run.token})
        await raw(port, header(len(old), 0) + old)
        nested = b"\x82\xa1v\x01\xa1x" + b"\x91" * 4000
        await raw(port, header(len(nested), 0) + nested)
    for words in ("over the limit", "protocol version 0", "not a greeting"):
        await it.refused(words)
    with pytest.raises(TokenRefused):
        async with it.connected(token="0" * 32):
            pass
    await it.refused("token does not match")


async def roles(it: Mallory) -> None:
    """With the token, and messages that are not theirs."""
    await it.say(s.ProcessEnded("learner-0", "x", "killed"))
    await it.refused("may not send ProcessEnded")
    await it.say(s.AllEnded(), role="joiner")
    await it.refused("joiner", "may not send AllEnded")
    await it.say(s.PushArrived("x", it.push()[0].contribution), role="learner")
    await it.refused("may not send PushArrived")
    await it.say(m.Watch(), role="emperor")
    await it.refused("emperor", "nobody speaks to the coordinator like that")
    await it.say(m.Subscribe("learner-0", 1, None), to="synchronizer", role="viewer")
    await it.refused("viewer", "nobody speaks to the synchronizer like that")
    await it.say(m.Metrics("synchronizer", 0))
    await it.refused("'synchronizer' has no generation")
    await it.say(m.Metrics("synchronizer", 0), kind="beat")
    await it.refused("beat's connection")
    async with it.connected() as channel:
        channel._write(np.random.default_rng(1).bytes(1 << 16))
        await asyncio.wait_for(channel.wait_closed(), WAIT_S)
    for to in ("coordinator", "synchronizer"):  # no payload for those who have not said who they are
        async with it.connected(to) as channel:
            channel._write(header(1, 1 << 30))
            await asyncio.wait_for(channel.wait_closed(), WAIT_S)
        await it.refused(f"learner 127.0.0.1: a frame of 1 + {1 << 30}")


async def names(it: Mallory) -> None:
    """Under another learner's name or generation."""
    its, generation = it.model, 1
    joined = s.Join("learner-0", "another", its["signature"], its["parameters"])
    await it.say(joined)
    await it.refused("the name 'learner-0' is taken")
    await it.say(s.Hold("learner-0", generation, it.newest, "another"))
    await it.refused("it is not the learner 'learner-0'")
    await it.say(s.Leave("learner-0", generation))
    await it.refused("'learner-0' has not said who it is")
    await it.say(s.Beat("learner-0", generation, "another"), kind="beat")
    await it.say(s.Hold("learner-0", 7, it.newest))
    await it.refused("'learner-0' has no generation 7")
    for claim in (m.Subscribe("learner-0", generation, None, "another"), m.Subscribe("learner-0", 9, None, "another")):
        await it.say(claim, to="synchronizer")
        await it.refused(f"it is not the learner 'learner-0' of generation {claim.generation}")
    stolen = msgspec.structs.replace(it.push()[0].contribution, contributor="learner-0", generation=generation, seq=99)
    await it.say(m.Push(stolen), b"x" * 100, to="synchronizer")
    await it.join()
    async with it.connected("synchronizer") as channel:
        channel.send(m.encode(m.Subscribe(it.name, it.generation, None, "mine")))
        send_whole(channel, m.Push(stolen), it.push()[1])
        await asyncio.wait_for(channel.wait_closed(), WAIT_S)
    await it.refused("mallory: it speaks for 'learner-0'")
    other = s.Join("mallory-2", "m2", "not this model", 3)
    async with it.connected() as channel:
        channel.send(m.encode(other))
        await it.refused("mallory-2", "another model")


async def pushes(it: Mallory) -> None:
    """As a learner that was admitted."""
    size = it.model["parameters"]
    await it.send_push(*it.push(torch.full((size,), float("nan"))))
    await it.refused("mallory: a push holds NaN")
    await it.send_push(*it.push(torch.zeros(size + 1)))
    await it.refused("mallory: a push of shape")
    await it.send_push(*it.push(buffers=b"\0" * 12))
    await it.refused("mallory: 3 buffer values")
    await it.send_push(*it.push(digest="0" * 32))
    await it.refused("mallory: the digest of push")
    for base in (Version(1, 10**9), Version(99, 1)):
        await it.send_push(*it.push(bases=(base,)))
    await it.refused("mallory: push", "base is a version that this run has not made")
    for wrong in ({"bases": ()}, {"tokens": -1}, {"step_s": float("nan")}, {"ended": (Span(0, 5, 5),)}):
        await it.send_push(*it.push(**wrong))
    for words in ("no base", "no counts", "time of its steps", "no units"):
        await it.refused("mallory: push", words)
    await it.send_push(*it.push(ended=(Span(0, 0, 1 << 62),)), hang_up=False)
    await it.refused("mallory: push", "units that its sender does not hold")
    push, data = it.push()
    async with it.connected("synchronizer") as channel:
        channel.send(m.encode(m.Subscribe(it.name, it.generation, None, "mine")))
        send_whole(channel, push, data)
        send_whole(channel, push, data)
        await it.refused("mallory: push", "came again")
    async with it.connected("synchronizer") as channel:
        channel.send(m.encode(m.Subscribe(it.name, it.generation, None, "mine")))
        body = m.encode(it.push()[0])
        channel._write(header(len(body), 1 << 20) + body + bytes(1 << 19))
        await asyncio.sleep(0.2)
    await it.refused("the connection broke within a frame")
    for part in (Part("1", 7, 20), Part("1", 0, 1 << 50), Part("1", 0, 5), Part("1", 0, -1)):
        async with it.connected("synchronizer") as channel:
            channel.send(m.encode(m.Subscribe(it.name, it.generation, None, "mine")))
            channel.send(m.encode(part), b"x" * 10)
            await asyncio.wait_for(channel.wait_closed(), WAIT_S)
    for words in ("does not follow", "over the limit", "longer than its message"):
        await it.refused("mallory: a", words)
    async with it.connected("synchronizer") as channel:
        channel.send(m.encode(m.Subscribe(it.name, it.generation, None, "mine")))
        channel._write(header(1, 8 << 30))
        await asyncio.wait_for(channel.wait_closed(), WAIT_S)
    await it.refused(f"a frame of 1 + {8 << 30}")
    async with it.connected("synchronizer") as channel:
        channel.send(m.encode(m.Subscribe(it.name, it.generation, None, "mine")))
        later = Version(1, 10**9)  # one of which there is a snapshot already may come unasked
        send_whole(channel, m.StateUpload(it.name, it.generation, later), b"x" * 1000)
        await it.refused("mallory: sends a state that it was not asked for")


async def claims(it: Mallory) -> None:
    """What a learner may say, but never means."""
    async with it.connected() as channel:
        channel.send(m.encode(s.Join(it.name, "mine", it.model["signature"], it.model["parameters"])))
        said: tuple[msgspec.Struct, ...] = (
            s.AskUnits(it.name, it.generation, 1, 5, Dataset(0, 0, 0)),
            m.Metrics(it.name, it.generation, busy_s=float("inf"), loss=float("-inf"), tokens_per_s=float("nan")),
            s.AskUnits(it.name, it.generation, 2, 5, Dataset(10, 1, 1)),
            s.Leave(it.name, it.generation),
        )
        for message in said:
            channel.send(m.encode(message))
        await it.refused("mallory: asks for units of a dataset that has none")
        await it.refused("mallory", "give every learner the same run.units")
        await it._until(lambda: [g for g in it.got if type(g).__name__ == "Goodbye"])


async def crowds(it: Mallory) -> None:
    """A thousand idle connections, and more refusals than anybody would read."""
    streams = []
    for n in range(1000):
        streams.append(await asyncio.open_connection("127.0.0.1", it.run.port + n % 2))
    for _ in range(300):
        await raw(it.run.port, header(0, 1 << 63))
    async with it.connected("coordinator", role="viewer") as channel:  # an honest one gets in
        channel.send(m.encode(m.Watch()))
        await it._until(lambda: [g for g in it.got if isinstance(g, m.Status)])
    await it.refused("the oldest of too many")
    await it.refused("did not authenticate within")
    for _, writer in streams:
        writer.close()


@pytest.mark.timeout(480)
def test_garbage_on_the_ports_is_refused_by_name_and_changes_nothing(run: Run) -> None:
    run.wait_for(lambda: len(run.events("RoundClosed")) > 8, "the run starts")
    before = run.resident_bytes()

    async def attack() -> None:
        it = Mallory(run)
        for part in (strangers, roles, names, pushes, claims, crowds):
            rounds = len(run.events("RoundClosed"))
            await asyncio.wait_for(part(it), 3 * WAIT_S)
            assert run.process.poll() is None, f"the run outlives {part.__name__}"
            deadline = time.monotonic() + WAIT_S
            while len(run.events("RoundClosed")) == rounds:
                assert time.monotonic() < deadline, f"training goes on after {part.__name__}"
                await asyncio.sleep(0.05)

    asyncio.run(attack())
    grown = {name: size - before[name] for name, size in run.resident_bytes().items()}
    assert max(grown.values()) < GROWTH_BYTES, grown
    assert not run.events("RunFinished"), "the attack was over before the run"
    run.hold.unlink()

    summary = run.end()
    units = summary["units"]
    assert units["applied"] == UNITS and units["lost"] == units["duplicated"] == units["partial"] == 0
    assert all(event["name"] != "learner-0" or event["reason"] == "left" for event in run.events("MemberEnded"))
    log = (run.folder / "runs" / "r" / "logs" / "learner-0.log").read_text()
    assert "joins anew" not in log and "Traceback" not in log
    assert len(run.refusals()) < 200, "what came again was counted"
    assert sum(event.get("count", 1) for event in run.events("PeerRefused")) > 500
    assert len(run.events("CoordinatorStarted")) == 1 and len(run.events("SynchronizerSeen")) == 1
    from safetensors.torch import load_file

    model = load_file(run.folder / "runs" / "r" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in model.values())
    for name in ("coordinator", "synchronizer"):
        assert "Traceback" not in (run.folder / "runs" / "r" / "logs" / f"{name}.log").read_text()


@pytest.mark.timeout(480)
def test_a_second_learner_of_the_same_name_is_told_so(run: Run) -> None:
    run.wait_for(lambda: len(run.events("RoundClosed")) > 3, "the run starts")
    command = [*PLESIO, "join", f"127.0.0.1:{run.port}", "--token-file", str(run.token_file), "--name", "twin"]
    first = subprocess.Popen([*command, str(SCRIPT)], cwd=run.folder, stderr=subprocess.PIPE, text=True)
    run.wait_for(lambda: any(e["name"] == "twin" for e in run.events("MemberJoined")), "the first one joins")
    (run.folder / "elsewhere").mkdir()
    second = subprocess.run(
        [*command, str(SCRIPT)], cwd=run.folder / "elsewhere", capture_output=True, text=True, timeout=120, check=False
    )
    assert second.returncode == 2 and "taken" in second.stderr, second.stderr
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert sum(e["name"] == "twin" for e in run.events("MemberJoined")) == 1

"""`plesio run`: starts coordinator, synchronizer and learners, starts again what died, and leaves no process behind.

It owns the listening sockets, so that a coordinator that is started again is found where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from plesio.core import effects as e
from plesio.core import stimuli as s
from plesio.core.spec import RunSpec
from plesio.errors import PlesioError, PortInUse, UserError, WireError
from plesio.launchers.backoff import Backoff
from plesio.launchers.base import Exit, ProcessSpec
from plesio.launchers.local import LocalLauncher
from plesio.runtime.peer import keep_connected
from plesio.testing.chaos import Fault
from plesio.wire import channel as wire
from plesio.wire import messages as m

GRACE_S = 10.0
GIVE_UP_AFTER = 5  # failures in a row without progress in between
HEALTHY_S = 20.0  # a process that ran so long had not failed in a row


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and where."""

    spec: RunSpec
    run_dir: Path
    listen: tuple[str, int] = ("127.0.0.1", 0)
    slowdowns: dict[str, float] = {}
    faults: tuple[Fault, ...] = ()


class Child(msgspec.Struct):
    """One process slot. Owned by the Supervisor."""

    name: str
    id: str = ""
    incarnation: str = ""
    failures: int = 0
    started_s: float = 0.0
    done: bool = False


class Supervisor:
    """Owns the launcher and the slots. `run` returns when the run is finished or stopped."""

    def __init__(self, plan: Plan, on_status: Callable[[m.Status], None], say: Callable[[str], None]) -> None:
        self.plan = plan
        self.on_status = on_status
        self.say = say
        self.launcher = LocalLauncher(plan.run_dir / "logs")
        self.backoff = Backoff()
        names = ["coordinator", "synchronizer", *(f"learner-{i}" for i in range(plan.spec.learners))]
        self.children = {n: Child(n) for n in names}
        self.token = secrets.token_hex(16)
        self.sockets: dict[str, socket.socket] = {}
        self.channel: wire.Channel | None = None
        self.untold: list[s.ProcessEnded] = []
        self.status: m.Status | None = None
        self.finished = asyncio.Event()
        self.stop_asked = asyncio.Event()
        self.error: PlesioError | None = None
        self.ending = False  # we stop the processes now: their ends are no news
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Everything, from the first process to the last. Raises PlesioError when the run cannot go on."""
        self.sockets = {"coordinator": bind(*self.plan.listen), "synchronizer": bind(self.plan.listen[0], 0)}
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, self.stop_asked.set)
        try:
            for child in self.children.values():
                await self._start(child)
            self._spawn(self._connect())
            self._spawn(self._watch_exits())
            self._spawn(self._inject())
            await self._until_over()
        finally:
            for task in self.tasks:
                task.cancel()
            await self.launcher.close()
            for listener in self.sockets.values():
                listener.close()
        if self.error is not None:
            raise self.error

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                self._give_up(error if isinstance(error, PlesioError) else PlesioError(f"{error!r}"))

        task.add_done_callback(ended)

    def _give_up(self, error: PlesioError) -> None:
        self.error = self.error or error
        self.stop_asked.set()

    async def _until_over(self) -> None:
        """Waits for the end of the run, or for Ctrl-C; then lets everybody go in order."""
        finished = asyncio.create_task(self.finished.wait())
        stopped = asyncio.create_task(self.stop_asked.wait())
        await asyncio.wait([finished, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not self.finished.is_set():
            await self._drain()
        learners = [c for c in self.children.values() if c.name.startswith("learner")]
        until_s = time.monotonic() + (300.0 if self.finished.is_set() else GRACE_S)
        while self.finished.is_set() and time.monotonic() < until_s and not self.stop_asked.is_set():
            if all(c.done for c in learners) and (self.plan.run_dir / "model.safetensors").exists():
                break
            await asyncio.sleep(0.1)
        self.ending = True
        for names in (("learner",), ("synchronizer",), ("coordinator",)):
            group = [c for c in self.children.values() if c.name.startswith(names) and c.id]
            await asyncio.gather(*(self.launcher.stop(c.id, GRACE_S / 2) for c in group))
        finished.cancel()
        stopped.cancel()

    async def _drain(self) -> None:
        """What is merged gets committed, so that the run can be resumed."""
        if self.channel is None or self.error is not None:
            return
        until_s = time.monotonic() + 5.0
        self.ending = True
        self.say("stopping: committing what is merged; `plesio resume` goes on from there (Ctrl-C again: at once)")
        self.stop_asked.clear()
        while time.monotonic() < until_s and not self.stop_asked.is_set():
            with contextlib.suppress(WireError):
                self.channel.send(m.encode(s.Drain()))
            await asyncio.sleep(0.5)
            if self.status is not None and self.status.version == self.status.committed:
                return

    async def _start(self, child: Child) -> None:
        child.incarnation = secrets.token_hex(6)
        child.started_s = time.monotonic()
        env = {
            "PLESIO_RUN_DIR": str(self.plan.run_dir.resolve()),
            "PLESIO_TOKEN": self.token,
            "PLESIO_NAME": child.name,
            "PLESIO_INCARNATION": child.incarnation,
            "PLESIO_COORDINATOR": "{}:{}".format(*self.sockets["coordinator"].getsockname()[:2]),
        }
        spec = self.plan.spec
        sockets = {"listener": self.sockets[child.name].fileno()} if child.name in self.sockets else {}
        if child.name == "coordinator":
            env["PLESIO_SPEC"] = msgspec.json.encode(spec).decode()
            process = ProcessSpec(
                name=child.name, target="plesio.runtime.coordinator:main", env=env, fresh=True, sockets=sockets
            )
        elif child.name == "synchronizer":
            env["OMP_NUM_THREADS"] = "1"
            process = ProcessSpec(name=child.name, target="plesio.runtime.synchronizer:main", env=env, sockets=sockets)
        else:
            env["OMP_NUM_THREADS"] = "1"
            env["PLESIO_SLOWDOWN"] = str(self.plan.slowdowns.get(child.name, 1.0))
            env["PLESIO_EPOCHS"] = "" if spec.epochs is None else str(spec.epochs)
            env["PLESIO_ENDLESS"] = "1" if spec.until_tokens is not None and spec.epochs is None else ""
            process = ProcessSpec(name=child.name, script=spec.script, argv=spec.argv, env=env)
        child.id = await self.launcher.start(process)

    async def _watch_exits(self) -> None:
        while True:
            ended = await self.launcher.wait_exit()
            child = next((c for c in self.children.values() if c.id == ended.id), None)
            if child is not None:
                self._on_exit(child, ended)

    def _on_exit(self, child: Child, ended: Exit) -> None:
        child.id = ""
        learner = child.name.startswith("learner")
        if learner:
            reason = "left" if ended.code == 0 else "killed" if ended.code < 0 else "exited"
            self._tell(s.ProcessEnded(child.name, child.incarnation, reason))
        if learner and (ended.code == 0 or self.finished.is_set()):
            child.done = True
            others = [c for c in self.children.values() if c.name.startswith("learner")]
            if all(c.done for c in others) and not self.finished.is_set():
                self.say("all learners have ended")
                self.stop_asked.set()
            return
        if self.ending:
            return
        failure = self._script_error(child) if ended.code > 0 else None
        if failure is not None:
            self._give_up(failure)
            return
        lasted = time.monotonic() - child.started_s > HEALTHY_S
        child.failures = 1 if lasted else child.failures + 1
        if child.failures > GIVE_UP_AFTER:
            log = self.plan.run_dir / "logs" / f"{child.name}.log"
            self._give_up(PlesioError(f"{child.name} ended {child.failures} times in a row; see {log}"))
            return
        how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
        self.say(f"{child.name} ended ({how}); starting it again")
        self._spawn(self._start_again(child))

    async def _start_again(self, child: Child) -> None:
        await asyncio.sleep(self.backoff.next(child.failures - 1))
        await self._start(child)

    def _script_error(self, child: Child) -> PlesioError | None:
        """What the script (or a process of ours) said when it raised."""
        log = self.plan.run_dir / "logs" / f"{child.name}.log"
        path = Path(f"{log}.error")
        if not path.exists():
            if child.name.startswith("learner"):
                return UserError(f"{child.name}: {self.plan.spec.script} ended with an error; see {log}")
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
            return PlesioError(" ".join(tail) or f"{child.name} ended with an error; see {log}")
        raw = json.loads(path.read_text())
        if raw["type"] in ("UserError", "ModelMismatch", "TokenRefused", "UnknownName"):
            return UserError(f"{child.name}: {raw['message']}")
        if not child.name.startswith("learner"):
            return PlesioError(f"{child.name}: {raw['message']} (see {log})")
        where = f"{Path(raw['file']).name}, line {raw['line']}"
        return UserError(f"{child.name}: the script raised {raw['type']}: {raw['message']} ({where}); see {log}")

    async def _connect(self) -> None:
        host, port = self.sockets["coordinator"].getsockname()[:2]
        await keep_connected(host, port, self.token, "launcher", self._on_connected, self._on_message)

    def _on_connected(self, channel: wire.Channel) -> None:
        self.channel = channel
        channel.send(m.encode(m.Watch()))
        for ended in self.untold:
            channel.send(m.encode(ended))

    def _tell(self, ended: s.ProcessEnded) -> None:
        """Told now, and again after each reconnection: a coordinator that was down has to hear it too."""
        self.untold.append(ended)
        if self.channel is not None:
            with contextlib.suppress(WireError):
                self.channel.send(m.encode(ended))

    def _on_message(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        message = m.decode("from", body)
        if isinstance(message, m.Status):
            self.status = message
            self.on_status(message)
            if message.finished:
                self.finished.set()
        elif isinstance(message, e.EndRun):
            self.finished.set()

    async def _inject(self) -> None:
        """The faults that were asked for."""
        began_s = time.monotonic()
        for fault in sorted(self.plan.faults, key=lambda f: (f.at_tokens or 0, f.at_s or 0.0)):
            while not fault.due(time.monotonic() - began_s, self.status.tokens if self.status else 0):
                await asyncio.sleep(0.05)
            if self.finished.is_set():
                return
            for name in self.children if fault.target == "all" else (fault.target,):
                child = self.children.get(name)
                if child is not None and child.id:
                    self.say(f"fault: {signal.Signals(fault.signum).name} to {name}")
                    self.launcher.signal(child.id, fault.signum)
                    if fault.signum == signal.SIGSTOP:
                        self._spawn(self._continue(child.id, fault.lasts_s))

    async def _continue(self, id: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.launcher.signal(id, signal.SIGCONT)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortInUse naming the address."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; choose another --listen"
        ) from error
    listener.setblocking(False)
    return listener

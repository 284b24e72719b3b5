"""`plesio run`: starts coordinator, synchronizer and learners, starts again what died, and leaves no process behind.

It owns the listening sockets, so that a coordinator that is started again is found where it was.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from plesio.core import stimuli as s
from plesio.core.spec import RunSpec
from plesio.errors import PortInUse
from plesio.launchers.base import ProcessSpec
from plesio.runtime import snapshots
from plesio.runtime.crew import Child, Crew
from plesio.runtime.faults import Fault
from plesio.wire import messages as m
from plesio.wire.tls import Tls

GRACE_S = 10.0
DRAIN_S = 5.0
CONCLUDE_S = 10.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and where."""

    spec: RunSpec
    run_dir: Path
    token: str
    listen: tuple[str, int] = ("127.0.0.1", 0)
    slowdowns: dict[str, float] = {}
    faults: tuple[Fault, ...] = ()
    keep_snapshots: int = snapshots.DEFAULT.last
    tls: Tls | None = None
    local: bool = True  # are its learners processes of this machine?


class Supervisor(Crew):
    """All processes of a run on this machine. `run` returns when the run is finished or stopped."""

    def __init__(self, plan: Plan, show: Callable[[m.Status], None], say: Callable[[str], None]) -> None:
        names = ["coordinator", "synchronizer", *(f"learner-{i}" for i in range(plan.spec.learners * plan.local))]
        super().__init__(plan.run_dir, names, plan.token, say, plan.tls)
        self.plan = plan
        self.show = show
        self.sockets: dict[str, socket.socket] = {}

    async def run(self) -> None:
        """Everything, from the first process to the last. Raises PlesioError when the run cannot go on."""
        host, port = self.plan.listen
        self.sockets = {"coordinator": bind(host, port)}
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, self.stop_asked.set)
        try:
            self.sockets["synchronizer"] = bind(host, port + 1 if port else 0)
            for child in self.children.values():
                await self.start(child)
            self.spawn(self.stay_connected(*self._coordinator()))
            self.spawn(self.watch_exits())
            self.inject()
            await self._until_over()
        finally:
            await self.close()
            for listener in self.sockets.values():
                listener.close()
        if self.error is not None:
            raise self.error

    def _coordinator(self) -> tuple[str, int]:
        """Where processes of this machine find it."""
        host, port = self.sockets["coordinator"].getsockname()[:2]
        return ("127.0.0.1" if host == "0.0.0.0" else host), port  # noqa: S104  it is compared, not bound

    def process(self, child: Child) -> ProcessSpec:
        """See Crew."""
        env, spec = self.environment(child, self._coordinator()), self.plan.spec
        sockets = {"listener": self.sockets[child.name].fileno()} if child.name in self.sockets else {}
        if child.name == "coordinator":
            env["PLESIO_SPEC"] = msgspec.json.encode(spec).decode()
            if child.failures == 0:  # its first life here
                env["PLESIO_GATHER"] = "1"
            return ProcessSpec(
                name=child.name, target="plesio.runtime.coordinator:main", env=env, secrets=self.secrets,
                fresh=True, sockets=sockets,
            )  # fmt: skip
        if child.name == "synchronizer":
            env |= {"OMP_NUM_THREADS": "1", "PLESIO_KEEP_SNAPSHOTS": str(self.plan.keep_snapshots)}
            return ProcessSpec(
                name=child.name, target="plesio.runtime.synchronizer:main", env=env, secrets=self.secrets,
                sockets=sockets,
            )  # fmt: skip
        return self.learner_process(child, spec.script, spec.argv, env, self.plan.slowdowns.get(child.name, 1.0))

    def on_status(self, status: m.Status) -> None:
        """See Crew."""
        self.show(status)

    def on_all_done(self) -> None:
        """See Crew."""
        if not self.finished.is_set() and not self.ending:
            self.spawn(self._conclude())

    async def _conclude(self) -> None:
        """Every script ended by itself: that ends a run that deals no data; another one can be resumed."""
        until_s = time.monotonic() + CONCLUDE_S
        while time.monotonic() < until_s and not self.finished.is_set():
            self.send(s.AllEnded())
            await asyncio.sleep(0.2)
        if not self.finished.is_set():
            self.say("all learners have ended, and the run is not finished")
            self.stop_asked.set()

    async def _until_over(self) -> None:
        """Waits for the end of the run, or for Ctrl-C; then lets everybody go in order."""
        finished = asyncio.create_task(self.finished.wait())
        stopped = asyncio.create_task(self.stop_asked.wait())
        await asyncio.wait([finished, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not self.finished.is_set() and self.error is None:
            await self._drain()
        until_s = time.monotonic() + 300.0
        while self.finished.is_set() and time.monotonic() < until_s and not self.stop_asked.is_set():
            if all(c.done for c in self.learners) and (self.run_dir / "model.safetensors").exists():
                break
            await asyncio.sleep(0.1)
        await self.stop(self.learners, GRACE_S)
        for name in ("synchronizer", "coordinator"):
            await self.stop([self.children[name]], GRACE_S / 2)
        finished.cancel()
        stopped.cancel()

    async def _drain(self) -> None:
        """Learners send what they have; what is merged gets committed, so that the run can be resumed."""
        self.say("stopping: committing what is done; `plesio resume` goes on from there (Ctrl-C again: at once)")
        self.stop_asked.clear()
        self.ending = True
        leave = asyncio.create_task(self.stop(self.learners, GRACE_S))
        again = asyncio.create_task(self.stop_asked.wait())
        await asyncio.wait([leave, again], return_when=asyncio.FIRST_COMPLETED)
        until_s = time.monotonic() + DRAIN_S
        while time.monotonic() < until_s and not self.stop_asked.is_set() and not self.finished.is_set():
            self.send(s.Drain())
            asked = self.status
            await asyncio.sleep(0.5)
            now = self.status
            if now is not None and now is not asked and now.version == now.committed:
                break
        leave.cancel()
        again.cancel()

    def inject(self) -> None:
        """The faults that were asked for, from now on, each when it is time."""
        began_s = time.monotonic()
        for fault in self.plan.faults:
            self.spawn(self._inject(fault, began_s))

    async def _inject(self, fault: Fault, began_s: float) -> None:
        while not fault.due(time.monotonic() - began_s, self.status.merged_tokens if self.status else 0):
            await asyncio.sleep(0.05)
        if self.finished.is_set():
            return
        there = [c for c in self.children.values() if c.id and fault.target in ("all", c.name)]
        for child in there:
            self.say(f"fault: {signal.Signals(fault.signum).name} to {child.name}")
            self.launcher.signal(child.id, fault.signum)
            if fault.signum == signal.SIGSTOP:
                self.spawn(self._continue(child.id, fault.lasts_s))
        if not there:
            self.say(f"fault: {fault} met nobody: it was not running just then")

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

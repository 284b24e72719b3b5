"""The processes that one `plesio` command answers for: started, started again when they die, stopped in order.

It tells the coordinator which of them ended, and says why when one cannot go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from plesio.core import effects as e
from plesio.core import stimuli as s
from plesio.errors import PlesioError, UserError, WireError
from plesio.launchers.backoff import GIVE_UP_AFTER, Backoff, in_a_row
from plesio.launchers.base import Exit, ProcessSpec
from plesio.launchers.local import LocalLauncher
from plesio.runtime.peer import keep_connected
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.tls import VARIABLE as TLS_VARIABLE
from plesio.wire.tls import Tls

FULL_BYTES = 1 << 16  # less than this left: a disk is full


class Child(msgspec.Struct):
    """One process slot. Owned by its Crew."""

    name: str
    id: str = ""
    incarnation: str = ""
    failures: int = 0
    started_s: float = 0.0
    done: bool = False

    @property
    def learner(self) -> bool:
        """Does it run the user's script?"""
        return self.name not in ("coordinator", "synchronizer")


class Crew:
    """Owns the launcher, the slots and a connection to the coordinator. Subclasses say what each slot runs."""

    role = "launcher"

    def __init__(
        self, run_dir: Path, names: Iterable[str], token: str, say: Callable[[str], None], tls: Tls | None = None
    ) -> None:
        self.run_dir = run_dir
        self.token = token
        self.tls = tls
        self.say = say
        self.launcher = LocalLauncher(run_dir / "logs")
        self.backoff = Backoff()
        self.children = {name: Child(name) for name in names}
        self.channel: wire.Channel | None = None
        self.untold: list[s.ProcessEnded] = []
        self.status: m.Status | None = None
        self.finished = asyncio.Event()
        self.stop_asked = asyncio.Event()
        self.error: PlesioError | None = None
        self.ending = False  # we stop the processes now: their ends are no news
        self.tasks: set[asyncio.Task[None]] = set()

    # -- what subclasses say

    def process(self, child: Child) -> ProcessSpec:
        """What this slot runs."""
        raise NotImplementedError

    def on_status(self, status: m.Status) -> None:
        """The newest state of the run."""

    def on_all_done(self) -> None:
        """Every learner of ours has ended for good."""

    # -- processes

    @property
    def learners(self) -> list[Child]:
        """The slots that run the user's script."""
        return [c for c in self.children.values() if c.learner]

    async def start(self, child: Child) -> None:
        """A new process in this slot."""
        child.incarnation = secrets.token_hex(6)
        child.started_s = time.monotonic()
        child.id = await self.launcher.start(self.process(child))

    def learner_process(
        self, child: Child, script: str, argv: tuple[str, ...], env: dict[str, str], slowdown: float = 1.0
    ) -> ProcessSpec:
        """The user's script, as a learner."""
        env = {**env, "OMP_NUM_THREADS": "1", "PLESIO_SLOWDOWN": str(slowdown)}
        return ProcessSpec(name=child.name, script=script, argv=argv, env=env, secrets=self.secrets)

    @property
    def secrets(self) -> dict[str, str]:
        """What every process of a run is told, and nobody else may see."""
        return {"PLESIO_TOKEN": self.token}

    def environment(self, child: Child, coordinator: tuple[str, int]) -> dict[str, str]:
        """What every process of a run is told."""
        return {
            "PLESIO_RUN_DIR": str(self.run_dir.resolve()),
            "PLESIO_NAME": child.name,
            "PLESIO_INCARNATION": child.incarnation,
            "PLESIO_COORDINATOR": "{}:{}".format(*coordinator),
            TLS_VARIABLE: self.tls.text if self.tls is not None else "",
        }

    async def stop(self, children: list[Child], grace_s: float) -> None:
        """SIGTERM to all, SIGKILL to those that have not ended in time."""
        self.ending = True
        await asyncio.gather(*(self.launcher.stop(c.id, grace_s) for c in children if c.id))

    async def close(self) -> None:
        """Ends everything at once."""
        for task in self.tasks:
            task.cancel()
        await self.launcher.close()

    def spawn(self, work: Any) -> None:
        """A task whose error ends the command."""
        task = asyncio.create_task(work)
        self.tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self.tasks.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                self.give_up(error if isinstance(error, PlesioError) else PlesioError(f"{error!r}"))

        task.add_done_callback(ended)

    def give_up(self, error: PlesioError) -> None:
        """The command ends with this error."""
        self.error = self.error or error
        self.stop_asked.set()

    async def watch_exits(self) -> None:
        """Until cancelled: sees processes end, and starts them again."""
        while True:
            ended = await self.launcher.wait_exit()
            child = next((c for c in self.children.values() if c.id == ended.id), None)
            if child is not None:
                child.id = ""
                self._on_exit(child, ended)

    def _on_exit(self, child: Child, ended: Exit) -> None:
        if child.learner:
            reason = "left" if ended.code == 0 else "killed" if ended.code < 0 else "exited"
            self._tell(s.ProcessEnded(child.name, child.incarnation, reason))
        if child.learner and (ended.code == 0 or self.finished.is_set()):
            child.done = True
            if all(c.done for c in self.learners):
                self.on_all_done()
            return
        if self.ending:
            return
        failure = self._script_error(child) if ended.code > 0 else None
        if failure is not None:
            self.give_up(failure)
            return
        child.failures = in_a_row(child.failures, time.monotonic() - child.started_s)
        if child.failures > GIVE_UP_AFTER:
            log = self.run_dir / "logs" / f"{child.name}.log"
            self.give_up(PlesioError(f"{child.name} ended {child.failures} times in a row; see {log}"))
            return
        how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
        self.say(f"{child.name} ended ({how}); starting it again")
        self.spawn(self._start_again(child))

    async def _start_again(self, child: Child) -> None:
        await asyncio.sleep(self.backoff.next(child.failures - 1))
        if not self.ending:
            await self.start(child)

    def _script_error(self, child: Child) -> PlesioError | None:
        """What the script (or a process of ours) said when it raised."""
        log = self.run_dir / "logs" / f"{child.name}.log"
        path = Path(f"{log}.error")
        if not path.exists():
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
            if shutil.disk_usage(self.run_dir).free < FULL_BYTES:  # it could not even say so
                said = f" ({tail[0]})" if tail else ""
                mend = "free some space, then go on with `plesio resume`"
                return PlesioError(
                    f"{child.name} ended with an error{said}: the disk of {self.run_dir} is full; {mend}"
                )
            if child.learner:
                return UserError(f"{child.name}: the script ended with an error; see {log}")
            return PlesioError(" ".join(tail) or f"{child.name} ended with an error; see {log}")
        raw = json.loads(path.read_text())
        if raw["type"] in (
            "UserError",
            "ModelMismatch",
            "TokenRefused",
            "TlsRefused",
            "ProtocolRefused",
            "UnknownName",
        ):
            return UserError(f"{child.name}: {raw['message']}")
        if not child.learner:
            return PlesioError(f"{child.name}: {raw['message']} (see {log})")
        where = f"{Path(raw['file']).name}, line {raw['line']}"
        return UserError(f"{child.name}: the script raised {raw['type']}: {raw['message']} ({where}); see {log}")

    # -- the coordinator

    async def stay_connected(self, host: str, port: int) -> None:
        """Until cancelled: tells the coordinator which processes ended, and hears how the run goes."""
        await keep_connected(host, port, self.token, self.role, self._on_connected, self._on_message, tls=self.tls)

    def _on_connected(self, channel: wire.Channel) -> None:
        self.channel = channel
        channel.send(m.encode(m.Watch()))
        for ended in self.untold:
            channel.send(m.encode(ended))

    def send(self, message: msgspec.Struct) -> None:
        """Lost when there is no connection."""
        if self.channel is not None:
            with contextlib.suppress(WireError):
                self.channel.send(m.encode(message))

    def _tell(self, ended: s.ProcessEnded) -> None:
        """Told now, and again after each reconnection: a coordinator that was down has to hear it too."""
        self.untold = [*self.untold[-63:], ended]
        self.send(ended)

    def _on_message(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        message = m.decode("from", body)
        if isinstance(message, m.Status):
            if message.trouble and (self.status is None or self.status.trouble != message.trouble):
                self.say(f"{message.trouble}; the run goes on")
            self.status = message
            self.on_status(message)
            if message.finished:
                self.finished.set()
        elif isinstance(message, e.EndRun):
            self.finished.set()

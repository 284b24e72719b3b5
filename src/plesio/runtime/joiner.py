"""`plesio join`: learners on another machine, in a run that is under way. They leave with their work counted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from plesio.errors import UserError
from plesio.launchers.base import ProcessSpec
from plesio.runtime.crew import Child, Crew
from plesio.wire import messages as m
from plesio.wire.tls import Tls

REACH_S = 30.0
GRACE_S = 25.0  # more than a learner takes to say goodbye


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """Which run, with what."""

    coordinator: tuple[str, int]
    token: str
    folder: Path
    names: tuple[str, ...]
    script: str
    argv: tuple[str, ...] = ()
    tls: Tls | None = None


class Joiner(Crew):
    """The learners of this machine. `run` returns when the run is over, or when they were asked to leave."""

    role = "joiner"

    def __init__(self, joining: Joining, show: Callable[[m.Status], None], say: Callable[[str], None]) -> None:
        super().__init__(joining.folder, joining.names, joining.token, say, joining.tls)
        self.joining = joining
        self.show = show
        self.over = asyncio.Event()

    async def run(self) -> None:
        """Raises UserError when the run cannot be reached or turns us away."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, self.stop_asked.set)
        try:
            self.spawn(self.stay_connected(*self.joining.coordinator))
            await self._reach()
            if not self.stop_asked.is_set():
                for child in self.children.values():
                    await self.start(child)
                self.spawn(self.watch_exits())
                waits = [asyncio.create_task(event.wait()) for event in (self.over, self.stop_asked)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self.stop_asked.is_set() and self.error is None:
                self.say("leaving: sending what is done (Ctrl-C again: at once)")
                self.stop_asked.clear()
                leave = asyncio.create_task(self.stop(self.learners, GRACE_S))
                again = asyncio.create_task(self.stop_asked.wait())
                await asyncio.wait([leave, again], return_when=asyncio.FIRST_COMPLETED)
                leave.cancel()
                again.cancel()
        finally:
            await self.close()
        if self.error is not None:
            raise self.error

    async def _reach(self) -> None:
        """Waits for the first status of the run."""
        host, port = self.joining.coordinator
        for _ in range(int(REACH_S / 0.05)):
            if self.status is not None or self.stop_asked.is_set():
                return
            await asyncio.sleep(0.05)
        raise UserError(
            f"no run answers at {host}:{port} after {REACH_S:.0f} s; is it started with --listen, is the address "
            f"right, and are ports {port} and {port + 1} open in its firewall? Try `plesio doctor {host}:{port}`"
        )

    def process(self, child: Child) -> ProcessSpec:
        """See Crew."""
        env = self.environment(child, self.joining.coordinator)
        return self.learner_process(child, self.joining.script, self.joining.argv, env)

    def on_status(self, status: m.Status) -> None:
        """See Crew."""
        self.show(status)

    def on_all_done(self) -> None:
        """See Crew."""
        self.over.set()

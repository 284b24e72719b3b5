"""Processes on this machine: forks of a zygote that has torch loaded, or fresh interpreters.

On Linux nothing outlives the owner, however it ends: the kernel kills the zygote and the fresh
processes with the thread that runs the launcher's loop, and the forks with the zygote. On macOS
the zygote kills its forks when its socket closes; a fresh process is ended only by `stop` or `close`.
What a process itself starts is its own affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from plesio.launchers import logs
from plesio.launchers.base import Exit, ProcessSpec
from plesio.launchers.child import Job
from plesio.launchers.zygote_link import ZygoteLink, open_link


def _readable(data: bytes) -> BinaryIO:
    """The end of a pipe that holds just this."""
    assert len(data) <= select.PIPE_BUF, "a pipe that nobody reads has room for so much"
    ours, theirs = os.pipe()
    with open(theirs, "wb") as file:
        file.write(data)
    return open(ours, "rb")


class _Running:
    """A process that has not ended: its pid, and how to signal it."""

    def __init__(self, name: str, send: Callable[[int], None]) -> None:
        self.name = name
        self.send = send
        self.pid: int | None = None
        self.ended = asyncio.Event()


class LocalLauncher:
    """A Launcher for this machine. Owns the zygote, the table of running processes and the ends to report."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._zygote: ZygoteLink | None = None
        self._one_start = asyncio.Lock()
        self._running: dict[str, _Running] = {}
        self._exits: asyncio.Queue[Exit] = asyncio.Queue()
        self._waits: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._cutting: asyncio.Task[None] | None = None

    async def start(self, spec: ProcessSpec) -> str:
        """See Launcher. The first fork waits for the zygote's torch, about 2 s; a later one takes 0.03 s."""
        id = f"{spec.name}#{next(self._numbers)}"
        self._log_dir.mkdir(parents=True, exist_ok=True)
        log = self._log_dir.resolve() / (spec.log_name or f"{spec.name}.log")
        job = Job(spec, os.getcwd(), str(log))
        if self._cutting is None:
            self._cutting = asyncio.create_task(logs.keep_small(self._log_dir))
        async with self._one_start:
            await (self._spawn(id, job) if spec.fresh else self._fork(id, job))
        return id

    def poll(self) -> list[Exit]:
        """See Launcher."""
        return [self._exits.get_nowait() for _ in range(self._exits.qsize())]

    async def wait_exit(self) -> Exit:
        """See Launcher."""
        return await self._exits.get()

    async def stop(self, id: str, grace_s: float) -> None:
        """See Launcher."""
        if not (process := self._running.get(id)):
            return
        process.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await process.ended.wait()
        self.signal(id, signal.SIGKILL)
        await process.ended.wait()

    def signal(self, id: str, signum: int) -> None:
        """See Launcher."""
        if process := self._running.get(id):
            process.send(signum)

    def pid(self, id: str) -> int | None:
        """See Launcher."""
        process = self._running.get(id)
        return process.pid if process else None

    async def close(self) -> None:
        """See Launcher. A later `start` begins anew."""
        if self._cutting:
            self._cutting.cancel()
            self._cutting = None
        if self._zygote:
            await self._zygote.close()
            self._zygote = None
        for process in list(self._running.values()):
            process.send(signal.SIGKILL)
        await asyncio.gather(*self._waits)

    async def _fork(self, id: str, job: Job) -> None:
        if not (self._zygote and self._zygote.alive):
            if self._zygote:
                await self._zygote.close()
            self._zygote = await open_link(self._log_dir / "zygote.log", self._report)
        zygote = self._zygote
        process = _Running(job.spec.name, lambda signum: zygote.signal(id, signum))
        self._running[id] = process
        try:
            process.pid = await zygote.fork(id, job)
        except BaseException:  # refused or cancelled: whoever called never learns the id
            zygote.signal(id, signal.SIGKILL)
            self._running.pop(id, None)
            raise

    async def _spawn(self, id: str, job: Job) -> None:
        environment = os.environ | job.spec.env
        bare = msgspec.structs.replace(job, spec=msgspec.structs.replace(job.spec, env={}, secrets={}))
        with open(job.log, "ab") as log, _readable(msgspec.json.encode(job.spec.secrets)) as secrets:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "plesio.launchers.child", str(os.getpid()),
                msgspec.json.encode(bare).decode(), env=environment, stdin=secrets,
                stdout=log, stderr=log, pass_fds=list(job.spec.sockets.values()),
            )  # fmt: skip

        def send(signum: int) -> None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signum)

        self._running[id] = _Running(job.spec.name, send)
        self._running[id].pid = child.pid
        wait = asyncio.create_task(self._wait(id, child))
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)

    async def _wait(self, id: str, child: asyncio.subprocess.Process) -> None:
        self._report(id, await child.wait())

    def _report(self, id: str, code: int) -> None:
        if process := self._running.pop(id, None):  # None: its start was cancelled
            self._exits.put_nowait(Exit(id, process.name, code))
            process.ended.set()

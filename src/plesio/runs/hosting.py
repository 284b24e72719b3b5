"""The task of a run: it starts coordinator and synchronizer of the run on the pool's own machine, and waits for them.

Cancelled, or told that its slot ends, it has them commit what is done, so that the run can go on later: the same task run
again resumes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from plesio.errors import PlesioError
from plesio.launchers import logs
from plesio.launchers.backoff import GIVE_UP_AFTER, Backoff, in_a_row
from plesio.reporting.events import is_finished
from plesio.runs import shelf
from plesio.runtime import here

LEAVE_S = 60.0  # for learners to leave and for the last commit
LOG = "supervisor.log"


class Reach(msgspec.Struct, frozen=True):
    """How the supervisor reaches the pool."""

    host: str
    port: int
    token: str
    tls: str


async def host_run(run: str) -> dict[str, Any]:
    """A run to its end. Returns its row. Raises PlesioError saying why it ended early."""
    async with shelf.hosted.setdefault(run, asyncio.Lock()):  # one that was stopped may not be over yet
        return await _host(run, shelf.folder_of(run))


async def _host(run: str, folder: Path) -> dict[str, Any]:
    error, failures = "it was killed again and again", 0
    _note(run, "running")
    while failures <= GIVE_UP_AFTER:
        try:
            await asyncio.sleep(Backoff().next(failures - 1))
            began_s = time.monotonic()
            code = await _supervise(folder)
        except asyncio.CancelledError:
            _note(run, "stopped")
            raise
        if code == 0:
            _note(run, "finished" if is_finished(folder) else "stopped")
            return shelf.row(run)
        if code > 0:
            error = logs.last_line(folder / "logs" / LOG) or f"it ended with code {code}"
            break
        failures = in_a_row(failures, time.monotonic() - began_s)
    _note(run, "failed", error)
    raise PlesioError(f"run {run}: {error}")


def _note(run: str, state: str, error: str = "") -> None:
    record = shelf.read(run)
    record.state, record.error = state, error
    shelf.write(record)


async def _supervise(folder: Path) -> int:
    slot, tls = here.slot(), here.tls()
    told = Reach(slot.host, slot.port, slot.token, tls.text if tls is not None else "")
    (folder / "logs").mkdir(exist_ok=True)
    logs.rotate(folder / "logs" / LOG)
    with (folder / "logs" / LOG).open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "plesio.runs.supervisor", str(folder), str(os.getpid()),
            stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(told) + b"\n")
    with contextlib.suppress(OSError):
        await process.stdin.drain()
    process.stdin.close()
    try:
        return await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), LEAVE_S)
        except TimeoutError:
            process.kill()
        raise

"""The task of a learner: on any slot of the pool it takes part in the run, in the run's own code, until told to leave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from plesio.errors import PlesioError
from plesio.launchers import logs
from plesio.launchers.backoff import GIVE_UP_AFTER, Backoff, in_a_row
from plesio.launchers.child import die_with_parent
from plesio.runs import code
from plesio.runs.shelf import OWN, QUESTIONS
from plesio.runtime import here
from plesio.runtime.hostsettings import near
from plesio.tasks.client import Client
from plesio.tasks.dialling import Address
from plesio.tasks.link import Link
from plesio.wire import tokens

YIELDS_S = 30.0  # a learner says goodbye, with its work counted, within so long
FUNCTION = "plesio.runs.member:learner"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a learner is told. port: of the run's coordinator, on the pool's own machine."""

    run: str
    name: str
    port: int
    digest: str
    script: str
    argv: tuple[str, ...] = ()
    priority: int = 0


def learner(told: dict[str, object]) -> str:
    """Takes part until the run is over. Raises PlesioError with the script's error; `Stopped` when it was told to leave.

    A learner's process that was killed is started again, unless that happens again and again.
    """
    known = msgspec.convert(told, Membership)
    slot, tls = here.slot(), here.tls()
    scratch = Path(slot.logs).parent / "members" / known.run
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = code.unpacked(known.digest, Path(slot.logs).parent / "code", _fetch)
    token_file = scratch / "token"
    tokens.keep(token_file, slot.token)
    command = [
        sys.executable, "-m", "plesio", "join", f"{_host()}:{known.port}", "--token-file", str(token_file),
        "--name", known.name, "--runs", str(scratch), *(["--tls", tls.text] if tls is not None else []),
        known.script, *known.argv,
    ]  # fmt: skip
    log = scratch / f"{known.name}.log"
    logs.rotate(log)
    at, files = f"{slot.host}:{slot.port}", tls.text if tls is not None else ""
    pool = here.PoolAddress(at, str(token_file), files, known.priority)
    failures, ended = 0, -1
    while ended < 0:
        began_s = time.monotonic()
        ended = _until_it_ends(_started(command, folder, {**os.environ, **pool.environment()}, log))
        failures = in_a_row(failures, time.monotonic() - began_s)
        if ended > 0:
            raise PlesioError(logs.last_line(log).removeprefix("plesio: ") or f"{known.name} ended with code {ended}")
        if failures > GIVE_UP_AFTER:
            raise PlesioError(f"{known.name} was killed {failures} times in a row, by signal {-ended} now")
        if ended < 0:
            time.sleep(Backoff().next(failures - 1))
    return known.name


def _started(command: list[str], folder: Path, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    with log.open("ab") as out:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            preexec_fn=lambda: die_with_parent(parent),
        )  # fmt: skip


def _until_it_ends(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Told to stop meanwhile, it lets the learner say goodbye."""
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(YIELDS_S - 2.0)
        process.kill()
        process.wait()
        raise


def _host() -> str:
    """The pool's own machine: where this slot reaches the pool."""
    host = here.slot().host
    return "127.0.0.1" if host.startswith("/") else near(host)


def _fetch(digest: str) -> bytes:
    slot = here.slot()
    link = Link(Address(slot.host, slot.port, slot.token, here.tls()))
    link.open()
    with Client(link) as client:
        data: bytes = client.submit("plesio.runs.shelf:give_code", digest, queue=QUESTIONS, requires=OWN).result(300.0)
    return data

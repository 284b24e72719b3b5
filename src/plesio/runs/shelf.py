"""The folders of a pool's runs, and what others may ask of them: coroutines that the pool's own slot runs.

Nothing outside a run's folder is told. The code that runs were started with lies beside them, by digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import msgspec

from plesio.errors import UserError
from plesio.runs import code
from plesio.runtime import here

RECORD, PROGRESS = "pooled.json", "progress.json"
PIECE_BYTES = 4 << 20
OWN = {"@host": 1.0}  # what tasks for the pool's own slot require
QUEUE, QUESTIONS = "runs", "@questions"  # of runs and their learners; of what is asked here
hosted: dict[str, asyncio.Lock] = {}  # by run: held while it is hosted, by this process
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Record(msgspec.Struct, kw_only=True):
    """Of a run, in its folder. state: as its host last said: submitted, running, finished, stopped, failed."""

    run: str
    learners: int
    priority: int = 0
    requires: dict[str, float] = {}
    digest: str = ""
    task: str = ""
    state: str = "submitted"
    error: str = ""
    port: int = 0


def root() -> Path:
    """Where the runs are. Only on the pool's own machine."""
    return Path(here.slot().pool) / "runs"


def folder_of(run: str) -> Path:
    """Of a run by name. Raises UserError."""
    if NAME.fullmatch(run) is None:
        raise UserError(f"{run!r} is no name of a run: letters, digits, dots and dashes")
    return root() / run


def read(run: str) -> Record:
    """Raises UserError when there is no such run."""
    path = folder_of(run) / RECORD
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in root().glob(f"*/{RECORD}"))) or "none"
        raise UserError(f"this pool has no run {run!r}; it has: {known}")
    return msgspec.json.decode(path.read_bytes(), type=Record)


def write(record: Record) -> None:
    """Into its folder."""
    put(folder_of(record.run) / RECORD, msgspec.json.encode(record))


def put(path: Path, data: bytes) -> None:
    """As a whole, or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def words_of(error: BaseException) -> str:
    """What a task of ours said when it raised, without where that was."""
    line = str(error).strip().rpartition("\n")[2]
    return line.rpartition("plesio.errors.")[2].partition("Error: ")[2] or line


# -- what may be asked


async def add(record: dict[str, Any], spec: bytes) -> None:
    """A new run's folder. spec: run.json. Raises UserError when the name is taken."""
    made = msgspec.convert(record, Record)
    folder = folder_of(made.run)
    if (folder / RECORD).exists():
        raise UserError(f"this pool has a run {made.run!r} already; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_bytes(spec)
    write(made)


async def note(run: str, task: str) -> None:
    """The task that a run is now."""
    record = read(run)
    record.task = task
    write(record)


async def has_code(digest: str) -> bool:
    """Was it sent before?"""
    return _code(digest).exists()


async def keep_code(digest: str, data: bytes) -> None:
    """For the learners to fetch."""
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError("the code of the run was damaged on its way; try again")
    path = _code(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, data)


async def give_code(digest: str) -> bytes:
    """What was kept."""
    return _code(digest).read_bytes()


def _code(digest: str) -> Path:
    code.check(digest)
    return root().parent / "code" / f"{digest}.tar"


async def rows() -> list[dict[str, Any]]:
    """All runs, the newest last."""
    records = [p.parent.name for p in sorted(root().glob(f"*/{RECORD}"), key=lambda p: p.stat().st_ctime)]
    return [row(run) for run in records]


async def show(run: str) -> dict[str, Any]:
    """One of them."""
    return row(run)


def row(run: str) -> dict[str, Any]:
    """Its record, and how far it is."""
    record, folder = read(run), folder_of(run)
    path = folder / PROGRESS
    progress = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    return {**msgspec.to_builtins(record), **progress, "hosted": run in hosted and hosted[run].locked()}


async def files(run: str) -> list[tuple[str, int]]:
    """(name, bytes) of all files of a run, its logs too."""
    folder = folder_of(run)
    read(run)
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink() and p.name != "token")
    return [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in found]


async def piece(run: str, name: str, offset: int) -> bytes:
    """Of a file, from there on, up to PIECE_BYTES. Raises UserError."""
    folder = folder_of(run).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise UserError(f"run {run} has no file {name!r}")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)

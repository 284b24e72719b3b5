"""What a user asks of the runs of a pool: start one, list, show, stop, go on, and fetch what it left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from plesio.core.pool.outcome import RAISED
from plesio.core.spec import RunSpec
from plesio.errors import TaskFailed, UserError, WireError
from plesio.runs import code
from plesio.runs.hosting import LEAVE_S
from plesio.runs.shelf import OWN, PIECE_BYTES, QUESTIONS, QUEUE, Record, words_of
from plesio.tasks import Client, Future

ANSWER_S = 60.0
Row = dict[str, Any]
ENDED = ("finished", "failed", "stopped")
AS_ITS_TASK = {"done": "finished", "dead": "failed", "cancelled": "stopped", "ready": "waiting", "waiting": "waiting"}


def start(
    client: Client, spec: RunSpec, script: Path, priority: int, requires: dict[str, float]
) -> Future:
    """Hands in a run: its code is the folder we are in. The Future is its row, once it has ended. Raises UserError."""
    check_host(client)
    root = Path.cwd().resolve()
    if not script.resolve().is_relative_to(root):
        raise UserError(f"{script} is not below {root}: start the run in the folder of its code, which is what travels")
    digest, data = code.pack(root)
    if not ask(client, "has_code", digest):
        ask(client, "keep_code", digest, data)
    inside = msgspec.structs.replace(spec, script=script.resolve().relative_to(root).as_posix())
    record = Record(run=spec.run, learners=spec.learners, priority=priority, requires=requires, digest=digest)
    ask(client, "add", msgspec.to_builtins(record), msgspec.json.encode(inside))
    return host(client, spec.run, priority)


def host(client: Client, run: str, priority: int) -> Future:
    """The task of the run: it begins, or goes on from its last commit."""
    future = client.submit(
        "plesio.runs.hosting:host_run", run, queue=QUEUE, key=f"run {run}", priority=priority, requires=OWN,
        yields_s=LEAVE_S,
    )  # fmt: skip
    client.flush()
    ask(client, "note", run, future.name)
    return future


def resume(client: Client, run: str) -> Future:
    """Goes on with one that was stopped or has failed. Raises UserError."""
    row = show(client, run)
    if row["state"] in ("finished", "running", "waiting") or (row["state"] == "submitted" and row["task"]):
        raise UserError(f"run {run} is {row['state']}; only one that was stopped or has failed can go on")
    return host(client, run, row["priority"])


def check_host(client: Client) -> None:
    """Raises UserError when the pool hosts no runs."""
    if not any("@host" in worker["tags"] for worker in client.ask("workers")):
        raise UserError("this pool hosts no runs; one that `plesio up` started does")


def ask(client: Client, what: str, *args: Any) -> Any:
    """Of the pool's own slot; see shelf.py. Raises UserError with its words, WireError."""
    future = client.submit(f"plesio.runs.shelf:{what}", *args, queue=QUESTIONS, requires=OWN, priority=1000)
    error = future.exception(ANSWER_S)
    if isinstance(error, TaskFailed) and error.kind != RAISED:
        raise WireError(f"the pool's own slot does not answer: {words_of(error)}")
    if error is not None:
        raise UserError(words_of(error))
    return future.result()


def rows(client: Client) -> list[Row]:
    """All runs."""
    check_host(client)
    return [_true(client, row) for row in ask(client, "rows")]


def show(client: Client, run: str) -> Row:
    """One of them. Raises UserError."""
    check_host(client)
    return _true(client, ask(client, "show", run))


def _true(client: Client, row: Row) -> Row:
    """What its folder says of its state may be old: its host may be gone. Its task knows."""
    if row["state"] in ("running", "submitted") and row["task"]:
        try:
            state = client.ask("task", row["task"])["state"]
        except UserError:
            state = "forgotten"
        row["state"] = AS_ITS_TASK.get(state, row["state"])
        if state == "cancelled" and row["hosted"]:
            row["state"] = "stopping"
    return row


def stop(client: Client, run: str) -> None:
    """It commits what is done, and can go on later."""
    row = show(client, run)
    if row["state"] in ENDED:
        raise UserError(f"run {run} is {row['state']} already")
    client.cancel([row["task"]])


def fetch(client: Client, run: str, into: Path, tell: Callable[[str, int], None]) -> int:
    """Copies a run's folder. tell: (name, bytes) of each file as it begins. Returns the bytes. Raises UserError."""
    check_host(client)
    total = 0
    for name, size in ask(client, "files", run):
        tell(name, size)
        path = (into / name).resolve()
        if not path.is_relative_to(into.resolve()):
            raise UserError(f"the pool named a file outside of the run's folder: {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        with temporary.open("wb") as file:
            for offset in range(0, max(1, size), PIECE_BYTES):
                total += file.write(ask(client, "piece", run, name, offset)[: size - offset])
        temporary.replace(path)
    return total

"""`plesio top`: the live table of a run, over the network or from the files of a run on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from plesio.cli.options import read_address
from plesio.cli.table import LiveTable
from plesio.errors import UserError
from plesio.runtime.follow import RunFolder
from plesio.runtime.viewer import Target, Viewer
from plesio.wire import tokens
from plesio.wire.messages import Status
from plesio.wire.tls import load

LOOK_S = 0.5
START_S = 5.0
QUIET_S = 10.0


class Screen:
    """Where updates go: to the live table on stdout, or as JSON lines. Owned by the command."""

    def __init__(self, title: str, as_json: bool) -> None:
        self.table = None if as_json else LiveTable(title, stderr=False)
        self.newest: Status | None = None

    def __enter__(self) -> Screen:
        if self.table is not None:
            self.table.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """The newest table stays."""
        if self.table is not None:
            self.table.__exit__(*error)
            if self.newest is not None:
                self.table.keep(self.newest)

    def show(self, status: Status, last: bool = False) -> None:
        """last: no other follows."""
        self.newest = status
        if self.table is None:
            print(json.dumps(as_record(status, time.time()), allow_nan=False), flush=True)
        elif not last:
            self.table.show(status)

    def say(self, words: str) -> None:
        """A line that stays."""
        if self.table is not None:
            self.table.say(words)
        else:
            print(f"plesio: {words}", file=sys.stderr)


def as_record(status: Status, unix_s: float) -> dict[str, Any]:
    """An update by field names, for JSON: numbers that are not known are null."""
    record = msgspec.structs.asdict(status)
    record["learners"] = [_known(msgspec.structs.asdict(x)) for x in status.learners]
    record["losses"] = [[number, loss if math.isfinite(loss) else None] for number, loss in status.losses]
    found: dict[str, Any] = msgspec.to_builtins({"unix_s": unix_s, **record})
    return found


def _known(record: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def show(
    target: str | None, token_file: Path | None, runs: Path, as_json: bool, once: bool, tls: str | None = None
) -> None:
    """Shows a run until it is finished or Ctrl-C."""
    try:
        if target is None or Path(target).is_dir():
            run_dir = newest_run(runs) if target is None else a_run(Path(target))
            with Screen(f"{run_dir}", as_json) as screen, contextlib.suppress(KeyboardInterrupt):
                follow(run_dir, screen, once)
            return
        if ":" not in target:
            raise UserError(f"{target!r} is neither a run's folder nor HOST:PORT; see `ls {runs}`")
        host, port = read_address(target, "the run")
        if token_file is None:
            raise UserError(f"{target} wants the run's token: copy its file from there and name it with --token-file")
        where = Target(host, port, tokens.read(token_file), load(tls) if tls else None)
        with Screen(f"the run at {target}", as_json) as screen:
            asyncio.run(watch(where, screen, once))
    except BrokenPipeError:  # who read our lines has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def a_run(folder: Path) -> Path:
    """Raises UserError when it is none."""
    if not any((folder / name).exists() for name in ("run.json", "events.jsonl")):
        raise UserError(f"{folder} is not a run's folder (it has no events.jsonl); see `ls {folder.parent}`")
    return folder


def newest_run(runs: Path) -> Path:
    """The run that was started, or went on, last."""
    found = [path.parent for path in runs.glob("*/run.json")]
    if not found:
        raise UserError(f"there is no run in {runs}; name one: plesio top runs/ID, or HOST:PORT with --token-file")
    return max(found, key=lambda folder: ((folder / "run.json").stat().st_mtime, folder.name))


def follow(run_dir: Path, screen: Screen, once: bool) -> None:
    """Until the run is finished. Raises UserError when it never begins."""
    folder, until_s, quiet = RunFolder(run_dir), time.monotonic() + START_S, False
    while True:
        status = folder.look(time.time())
        if status is not None:
            last = once or bool(status.finished)
            screen.show(status, last)
            if last:
                return
        elif time.monotonic() > until_s:
            raise UserError(f"nothing has happened in {run_dir} yet; see its logs folder")
        was, quiet = quiet, status is not None and time.time() - folder.written_unix_s > QUIET_S
        if quiet and not was:
            screen.say(f"nothing new for {QUIET_S:.0f} s: it was stopped? `plesio resume {run_dir}` goes on")
        time.sleep(LOOK_S)


async def watch(target: Target, screen: Screen, once: bool) -> None:
    """Until the run is finished, or a signal."""
    broken: list[BrokenPipeError] = []

    def on_status(status: Status) -> None:
        last = once or bool(status.finished)
        try:
            screen.show(status, last)
        except BrokenPipeError as error:
            broken.append(error)
        if last or broken:
            viewer.stop()

    viewer = Viewer(target, on_status, screen.say)
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, viewer.stop)
    await viewer.run()
    if broken:
        raise broken[0]

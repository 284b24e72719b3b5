"""`plesio runs`, and `plesio run --on`: training runs on a pool. Options, and how a run is followed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from plesio.cli.options import POOL, AsJson, Folder, Tls, To, TokenFile, say

if TYPE_CHECKING:
    from plesio.core.spec import RunSpec
    from plesio.tasks import Client, Future

app = typer.Typer(help="Training runs of a pool: list, show, stop, resume, fetch.", no_args_is_help=True)
RUN = ("run", "state", "tokens", "until", "learners", "live", "loss", "held_out", "priority", "error")
Name = Annotated[str, typer.Argument(help="The run's name; `plesio runs ls` shows them.")]
LOOK_S, TELL_S = 2.0, 5.0


@app.command()
def ls(
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False
) -> None:
    """All runs of a pool, the newest last."""
    from plesio.cli import asking
    from plesio.runs import requests

    with asking.attached(to, token_file, tls, folder) as client:
        asking.show_rows("runs", requests.rows(client), RUN, as_json)


@app.command()
def show(
    name: Name, to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """All that is known of one run."""
    from plesio.cli import asking
    from plesio.runs import requests

    with asking.attached(to, token_file, tls, folder) as client:
        asking.show_record(requests.show(client, name), as_json)


@app.command()
def stop(
    name: Name, to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL
) -> None:
    """Its learners leave with their work counted, and what is done is committed. `plesio runs resume` goes on with it."""
    from plesio.cli import asking
    from plesio.runs import requests

    with asking.attached(to, token_file, tls, folder) as client:
        requests.stop(client, name)
    say(f"run {name} is told to stop")


@app.command()
def resume(
    name: Name, to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Go on with a run that was stopped or has failed, and follow it. Ctrl-C ends the following only."""
    from plesio.cli import asking
    from plesio.runs import requests

    with asking.attached(to, token_file, tls, folder) as client:
        follow(client, name, requests.resume(client, name), as_json)


@app.command()
def fetch(
    name: Name,
    out: Annotated[Optional[Path], typer.Option(help="A folder. Default: runs/NAME.")] = None,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Copy what a run left (model, report, journal, logs) to this machine."""
    from plesio.cli import asking
    from plesio.errors import UserError
    from plesio.runs import requests

    into = out or Path("runs") / name
    if out is None and into.exists():
        raise UserError(f"{into} exists already; name another folder with --out")
    try:
        with asking.attached(to, token_file, tls, folder) as client:
            size = requests.fetch(client, name, into, lambda file, size: say(f"{file}: {size} bytes"))
    except OSError as error:
        raise UserError(f"cannot write to {into}: {error.strerror}; name another folder with --out") from error
    say(f"run {name} is in {into}")
    if as_json:
        asking.print_json({"run": name, "folder": str(into), "bytes": size})


def start(
    spec: RunSpec, script: Path, on: str, token_file: Path | None, tls: str | None, priority: int,
    require: list[str] | None, detach: bool, as_json: bool,
) -> None:  # fmt: skip
    """`plesio run --on`. Raises UserError."""
    from plesio.cli import asking
    from plesio.cli.options import read_amounts
    from plesio.runs import requests

    requires = read_amounts(require, "--require")
    with _pool(on, token_file, tls) as client:
        future = requests.start(client, spec, script, priority, requires)
        say(f"run {spec.run} is in the pool, with {spec.learners} learners and priority {priority}")
        if detach:
            if as_json:
                asking.print_json({"run": spec.run, "task": future.name})
            return
        follow(client, spec.run, future, as_json)


@contextlib.contextmanager
def _pool(on: str, token_file: Path | None, tls: str | None) -> Iterator[Client]:
    """on: HOST:PORT, or the folder of a pool on this machine."""
    from plesio.cli import asking

    elsewhere = on.rpartition(":")[2].isdecimal()
    with asking.attached(on if elsewhere else None, token_file, tls, Path(on)) as client:
        yield client


def follow(client: Client, run: str, future: Future, as_json: bool) -> None:
    """Says how it goes, until it has ended. Raises what ended it."""
    from plesio.cli import asking
    from plesio.errors import PlesioError, TaskCancelled
    from plesio.runs import requests, shelf

    said, said_s = "", 0.0
    try:
        while not future.done():
            words = _words(requests.show(client, run))
            if words != said and (time.monotonic() - said_s > TELL_S or words.split(":")[0] != said.split(":")[0]):
                said, said_s = words, time.monotonic()
                say(f"run {run} {words}")
            with contextlib.suppress(TimeoutError):
                future.exception(LOOK_S)
    except KeyboardInterrupt:
        say(f"run {run} goes on; `plesio runs show {run}`, `plesio runs stop {run}`")
        raise typer.Exit(130) from None
    error = future.exception()
    if isinstance(error, TaskCancelled):
        say(f"run {run} was stopped; `plesio runs resume {run}` goes on with it")
        raise typer.Exit(1)
    if error is not None:
        raise PlesioError(shelf.words_of(error))
    row = future.result()
    say(f"run {run} {_words(row)}; `plesio runs fetch {run}` copies its model and report")
    if as_json:
        asking.print_json(row)


def _words(row: dict[str, Any]) -> str:
    if row.get("tokens") is None:
        return f"{row['state']}"
    until = f" of {row['until']}" if row.get("until") else ""
    done, total = row.get("units") or (0, 0)
    units = f", {done} of {total} units" if total else ""
    loss = f", loss {row['loss']:.3f}" if row.get("loss") is not None else ""
    held_out = f", held-out {row['held_out']:.3f}" if row.get("held_out") is not None else ""
    return f"{row['state']}: {row['tokens']}{until} tokens{units}, {row['live']} learners{loss}{held_out}"

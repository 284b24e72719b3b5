"""What `plesio map` does: which pool, how progress is shown, and how it ends."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from plesio.batch import Progress, Summary, map_records
from plesio.cli.asking import print_json
from plesio.cli.options import say
from plesio.errors import UserError
from plesio.tasks import Client, connect

LINE_S = 5.0  # between two lines, where there is no terminal
Show = Callable[[Progress], None]


def pool_of(
    to: str | None, token_file: Path | None, tls: str | None, folder: Path, workers: int | None
) -> Callable[[], Client]:
    """What connects to the pool that was named; one of this machine is started when none runs. Raises UserError."""
    if to is None:
        if token_file is not None or tls is not None:
            raise UserError("--token-file and --tls are for a pool elsewhere; name it with --on HOST:PORT")
        return lambda: connect(folder=folder, workers=workers or 0)
    if token_file is None:
        raise UserError(f"the pool at {to} has a token: copy its file from there and name it with --token-file")
    if workers is not None:
        raise UserError("--workers is for a pool that is started here; one elsewhere has its own")
    return lambda: connect(to, token_file=str(token_file), tls=tls or "")


def execute(pool: Callable[[], Client], as_json: bool, **what: Any) -> None:
    """Maps, and tells the sum. Ctrl-C: exit code 130, with what is written kept."""
    try:
        with _shown() as show:
            summary = map_records(pool=pool, progress=show, **what)
    except KeyboardInterrupt:
        say(f"stopped; what is finished is in {what['out']}, and the same command goes on with it")
        raise typer.Exit(130) from None
    if as_json:
        print_json(msgspec.structs.asdict(summary))
    say(_words(summary, what["out"]))


def _words(summary: Summary, out: Path) -> str:
    words = f"{summary.records:,} records in {summary.parts} part{'s' * (summary.parts != 1)} in {out}"
    if summary.records > summary.resumed_from:
        words += f", {summary.rate:,.0f} a second"
    if summary.resumed_from:
        words += f"; {summary.resumed_from:,} were there before"
    if summary.dead:
        words += f"; {summary.dead:,} are dead, see {out / 'dead.jsonl'}"
    return words


@contextlib.contextmanager
def _shown() -> Iterator[Show]:
    """On stderr: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TextColumn("{task.percentage:3.0f}%"), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task("connecting", total=None)

        def show(progress: Progress) -> None:
            total = None if progress.fraction is None else 1.0
            bar.update(task, total=total, completed=progress.fraction or 0.0, description=_line(progress))

        yield show


def _lines() -> Show:
    last_s = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > LINE_S:
            last_s = time.monotonic()
            say(_line(progress))

    return show


def _line(progress: Progress) -> str:
    if progress.lacks:
        return f"no worker of the pool offers {progress.lacks}; waiting for one that does (plesio worker --tag)"
    if not progress.rate:
        return "waiting for a worker's first results"
    words = [f"{progress.records:,} records", f"{progress.rate:,.0f} a second"]
    if progress.dead:
        words.append(f"{progress.dead:,} dead")
    if progress.fraction is not None:
        words.append(f"{progress.fraction:.0%} read")
    if progress.left_s is not None:
        words.append(f"about {_span(progress.left_s)} left")
    return ", ".join(words)


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 6000 else f"{whole // 3600} h {whole % 3600 // 60} min"

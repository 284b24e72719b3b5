"""`plesio bench`: what this machine does. Options only."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from plesio.cli.options import AsJson
from plesio.cli.pool import Sync, SyncOption

app = typer.Typer(help="Measure plesio on this machine.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure plesio on this machine."""


@app.command()
def tasks(
    count: Annotated[int, typer.Option("--tasks", help="Calls that do nothing, submitted at once.", min=1)] = 10_000,
    workers: Annotated[int, typer.Option(help="Slots of the pool.", min=1)] = 2,
    sync: SyncOption = Sync.normal,
    as_json: AsJson = False,
) -> None:
    """A fresh pool in a temporary folder: tasks a second, latency, memory, and the time to the first result."""
    from plesio.cli import measuring

    measuring.report(measuring.measure(count, workers, sync.value), as_json)


@app.command()
def codecs(
    codec: Annotated[Optional[list[str]], typer.Option(help="By its text, e.g. topk(1/64)+int4. Repeat.")] = None,
    values: Annotated[int, typer.Option(help="Values of the tensor, float32.", min=1 << 16)] = 1 << 24,
    threads: Annotated[int, typer.Option(help="That a codec may use.", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="Of each; the medians count.", min=1)] = 9,
    device: Annotated[str, typer.Option(help="Where the tensor is: cpu, cuda or cuda:1.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Encode and decode normally distributed values, in turns with a copy of memory: GB/s, and as a part of that limit."""
    from plesio.cli import codecbench

    codecbench.bench(codec or list(codecbench.ALL), values, threads, rounds, device, as_json)

"""`plesio up`, `plesio worker`, `plesio submit`: a pool, its workers elsewhere, and one call. Options only."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

from plesio.cli.options import POOL, AsJson, Folder, MemoryMb, Tags, Tls, To, TokenFile
from plesio.core.pool.recipe import DEFAULT_QUEUE

LISTEN_HELP = (
    "HOST:PORT. 0.0.0.0:7710: other machines may join. Default: 127.0.0.1:7710, or another port if it is taken."
)
HTTP_HELP = "[HOST:]PORT: serve HTTP and JSON there, too, for programs in other languages; see docs/http.md."
IMPORT_HELP = "A module that is imported once, before it joins, and then is there in all slots. Repeat."


class Sync(StrEnum):
    """What a power cut may take."""

    normal = "normal"
    full = "full"


SyncOption = Annotated[Sync, typer.Option(help="full: survives a power cut, too, for an fsync per batch.")]


def up(
    listen: Annotated[Optional[str], typer.Option(help=LISTEN_HELP)] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Folder of the pool: its journal, token and logs.")] = POOL,
    workers: Annotated[Optional[int], typer.Option(help="Slots here. Default: one per core.", min=0)] = None,
    token_file: Annotated[Optional[Path], typer.Option(help="Made when it is missing. Default: DIR/token.")] = None,
    tls: Tls = None,
    sync: SyncOption = Sync.normal,
    memory_mb: MemoryMb = 0,
    tag: Tags = None,
    order: Annotated[str, typer.Option(help="Which task is next: aging, priority, fifo.")] = "aging",
    placement: Annotated[str, typer.Option(help="Which slot: rate-aware, least-loaded, power-of-two.")] = "rate-aware",
    http: Annotated[Optional[str], typer.Option(help=HTTP_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Where it listens, as one JSON object on stdout.")] = False,
) -> None:
    """A pool of workers for tasks, until Ctrl-C: it then waits for tasks that run, and keeps those that wait.

    Example: plesio up --listen 0.0.0.0:7710 --workers 4
    """
    from plesio.cli import hosting

    hosting.serve(listen, folder, workers, token_file, tls, sync.value, memory_mb, tag, order, placement, http, as_json)


def worker(
    address: Annotated[str, typer.Option("--join", help="HOST:PORT that the pool listens on.")],
    token_file: Annotated[Path, typer.Option(help="A copy of the pool's token file.")],
    slots: Annotated[Optional[int], typer.Option(help="Tasks at a time. Default: one per core.", min=1)] = None,
    tag: Tags = None,
    name: Annotated[
        Optional[str], typer.Option(help="Its name; no other worker's. Default: the host's, and more.")
    ] = None,
    memory_mb: MemoryMb = 0,
    tls: Tls = None,
    module: Annotated[Optional[list[str]], typer.Option("--import", help=IMPORT_HELP)] = None,
    runs: Annotated[Path, typer.Option(help="Folder for the logs.")] = Path("runs"),
) -> None:
    """Work for a pool that is elsewhere, until Ctrl-C or SIGTERM (a preemption notice): running tasks then end.

    Example: plesio worker --join trainer:7710 --token-file token --slots 4 --tag gpu=1
    """
    from plesio.cli import hosting

    hosting.join(address, token_file, slots, tag, name, memory_mb, tls, module or [], runs)


def submit(
    fn: Annotated[str, typer.Argument(help="package.module:function, or path/to/script.py:function.")],
    arg: Annotated[Optional[list[str]], typer.Argument(help="JSON, or else a word. Before negative ones: --")] = None,
    kwargs: Annotated[str, typer.Option(help="Keyword arguments, a JSON object.")] = "{}",
    queue: Annotated[str, typer.Option(help="The queue that it waits in.")] = DEFAULT_QUEUE,
    priority: Annotated[int, typer.Option(help="Higher ones begin earlier.")] = 0,
    key: Annotated[str, typer.Option(help="A task with the same key in the queue is not made twice.")] = "",
    delay_s: Annotated[float, typer.Option(help="Not before so many seconds.", min=0)] = 0.0,
    timeout_s: Annotated[float, typer.Option(help="Of one attempt; 0: none.", min=0)] = 0.0,
    retries: Annotated[int, typer.Option(help="When it raises, or runs out of time.", min=0)] = 0,
    require: Annotated[Optional[list[str]], typer.Option(help="A tag of the worker, e.g. gpu=1. Repeat.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Print its result, not its name; code 1 when it fails.")] = False,
    to: To = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    folder: Folder = POOL,
    as_json: AsJson = False,
) -> None:
    """One call of a function on some worker of a pool. Prints the task's name, once the task is durable.

    Example: plesio submit --wait math:gcd 12 18
    """
    from plesio.cli import asking, submitting
    from plesio.cli.options import read_amounts, read_kwargs, read_value

    call = submitting.Call(
        fn=fn, args=tuple(read_value(word) for word in arg or []), kwargs=read_kwargs(kwargs), queue=queue,
        priority=priority, key=key, delay_s=delay_s, timeout_s=timeout_s, retries=retries,
        requires=read_amounts(require, "--require"),
    )  # fmt: skip
    with asking.attached(to, token_file, tls, folder) as client:
        good = submitting.submit(client, call, wait, as_json)
    if not good:
        raise typer.Exit(1)

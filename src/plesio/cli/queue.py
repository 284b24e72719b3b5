"""`plesio queue`: messages in and out, and settings of queues. Options, and a few words each."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from plesio.cli import tasks
from plesio.cli.options import POOL, AsJson, Folder, Tls, To, TokenFile
from plesio.errors import UserError, WireError

if TYPE_CHECKING:
    from plesio.tasks import Client

app = typer.Typer(help="Queues of a pool: put, get, limit, pause, drain, remove.", no_args_is_help=True)
app.command(name="ls")(tasks.queues)

LOOK_S = 0.1
MANY = 1000
Name = Annotated[str, typer.Argument(help="The queue.")]


@app.command(name="set")
def set_(
    name: Name,
    capacity: Annotated[Optional[int], typer.Option(help="Tasks that may wait in it; clients wait then.", min=1)] = None,
    rate_per_s: Annotated[Optional[float], typer.Option(help="Tasks that may begin in a second; 0: any.", min=0)] = None,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make a queue, or change it; what is not said stays as it is."""
    if capacity is None and rate_per_s is None:
        raise UserError("say what to set: --capacity, --rate-per-s")
    said = {"capacity": capacity, "rate_per_s": rate_per_s}
    _change(
        name, {key: value for key, value in said.items() if value is not None}, to, token_file, tls, folder, as_json
    )


@app.command()
def pause(
    name: Name,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """No task of it begins, until `resume`. Those that run go on, and more may be submitted."""
    _change(name, {"paused": True}, to, token_file, tls, folder, as_json)


@app.command()
def resume(
    name: Name,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Its tasks begin again."""
    _change(name, {"paused": False}, to, token_file, tls, folder, as_json)


@app.command()
def drain(
    name: Name,
    timeout_s: Annotated[float, typer.Option(help="Code 1 after so long; 0: as long as it takes.", min=0)] = 0.0,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Wait until no task waits in it or runs. It does not keep anybody from submitting more."""
    from plesio.cli import asking

    until_s = time.monotonic() + timeout_s
    with asking.attached(to, token_file, tls, folder) as client:
        while (row := _row(client, name))["waiting"] or row["running"]:
            if row["paused"] and not row["running"]:
                raise UserError(f"queue {name!r} is paused with {row['waiting']} tasks in it; `plesio queue resume` it")
            if timeout_s and time.monotonic() > until_s:
                raise WireError(f"queue {name!r} still has {row['waiting']} tasks that wait, {row['running']} that run")
            time.sleep(LOOK_S)
        asking.show_rows("queues", [row], tasks.QUEUE, as_json)


@app.command()
def rm(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Cancel what is in it.")] = False,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Remove a queue."""
    from plesio.cli import asking

    with asking.attached(to, token_file, tls, folder) as client:
        row = _row(client, name)
        held = row["waiting"] + row["running"]
        if held and not force:
            raise UserError(f"queue {name!r} holds {held} tasks; `plesio queue drain` it, or --force cancels them")
        client.remove_queue(name)
        asking.show_record({"removed": name, "cancelled": held}, as_json)


@app.command()
def put(
    name: Name,
    value: Annotated[Optional[list[str]], typer.Argument(help="JSON, or a word. None: stdin, a line each.")] = None,
    priority: Annotated[int, typer.Option(help="Higher ones are taken first.")] = 0,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Put messages into a queue; returns once they are durable.

    Example: seq 100 | plesio queue put work
    """
    from plesio.cli import asking
    from plesio.cli.options import read_value

    words = value if value else (line.rstrip("\n") for line in sys.stdin)
    with asking.attached(to, token_file, tls, folder) as client:
        queue = client.queue(name)
        sent = [queue.put(read_value(word), priority) for word in words]
        for future in sent:
            future.result()
        asking.show_record({"queue": name, "put": len(sent)}, as_json)


@app.command()
def get(
    name: Name,
    count: Annotated[int, typer.Option("--count", "-n", help="At most so many; 0: all that wait.", min=0)] = 1,
    timeout_s: Annotated[float, typer.Option(help="Wait so long for the first one.", min=0)] = 0.0,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Take messages out of a queue: a line of JSON each, acknowledged once it is printed. Code 1 when there is none."""
    from plesio.cli import asking
    from plesio.cli.submitting import plain

    taken: list[Any] = []
    with asking.attached(to, token_file, tls, folder) as client:
        queue = client.queue(name)
        wait_s = timeout_s
        while not count or len(taken) < count:
            messages = queue.get_many(count - len(taken) if count else MANY, wait_s)
            if not messages:
                break
            for message in messages:
                taken.append(plain(message.value))
                if not as_json:
                    print(json.dumps(taken[-1]), flush=True)
            queue.ack_many(messages, wait=True)
            wait_s = 0.0
        if as_json:
            asking.print_json({"messages": taken})
    if not taken:
        raise typer.Exit(1)


@app.command()
def peek(
    name: Name,
    count: Annotated[int, typer.Option("--count", "-n", min=1)] = 10,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """The next messages of a queue; they stay."""
    from plesio.cli import asking
    from plesio.cli.submitting import plain

    with asking.attached(to, token_file, tls, folder) as client:
        values = [plain(value) for value in client.queue(name).peek(count)]
    if as_json:
        asking.print_json({"messages": values})
    else:
        print("\n".join(map(json.dumps, values)))


def _change(name: str, changes: dict[str, Any], *where: Any) -> None:
    from plesio.cli import asking

    *pool, as_json = where
    with asking.attached(*pool) as client:
        client.set_queue(name, **changes)
        asking.show_rows("queues", [_row(client, name)], tasks.QUEUE, as_json)


def _row(client: Client, name: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = client.ask("queues")
    for row in rows:
        if row["name"] == name:
            return row
    raise UserError(f"there is no queue {name!r}; known are: {', '.join(row['name'] for row in rows) or 'none'}")

"""`plesio queue`: settings of the queues that tasks wait in. Options, and a few words each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from plesio.cli import tasks
from plesio.cli.options import POOL, AsJson, Folder, Tls, To, TokenFile
from plesio.errors import UserError, WireError

if TYPE_CHECKING:
    from plesio.tasks import Client

app = typer.Typer(help="Queues of a pool: limit, pause, drain, remove.", no_args_is_help=True)
app.command(name="ls")(tasks.queues)

LOOK_S = 0.1
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


def _change(name: str, changes: dict[str, Any], *where: Any) -> None:
    from plesio.cli import asking

    *pool, as_json = where
    with asking.attached(*pool) as client:
        known = {row["name"]: row for row in client.ask("queues")}.get(name, {})
        kept = {key: known[key] for key in ("capacity", "rate_per_s", "paused") if key in known}
        client.set_queue(name, **(kept | changes))
        asking.show_rows("queues", [_row(client, name)], tasks.QUEUE, as_json)


def _row(client: Client, name: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = client.ask("queues")
    for row in rows:
        if row["name"] == name:
            return row
    raise UserError(f"there is no queue {name!r}; known are: {', '.join(row['name'] for row in rows) or 'none'}")

"""`plesio tasks`: what became of them, and what to do about it. Options only."""

from __future__ import annotations

from typing import Annotated

import typer

from plesio.cli.options import POOL, AsJson, Folder, Tls, To, TokenFile

app = typer.Typer(help="Tasks of a pool: list, show, cancel, retry.", no_args_is_help=True)

TASK = ("id", "state", "fn", "queue", "worker", "kind", "message")
WORKER = ("slot", "node", "connected", "tasks", "tags", "speed")
QUEUE = ("name", "waiting", "running", "paused", "rate_per_s", "capacity")
MOST_SHOWN_BYTES = 1 << 20
Names = Annotated[list[str], typer.Argument(help="Tasks, like 3-17.")]
State = Annotated[str, typer.Option(help="Only these: waiting, ready, leased, done, dead, cancelled.")]


@app.command()
def ls(
    state: State = "", to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """The newest 200 tasks."""
    from plesio.cli import asking
    from plesio.core.taskbook import TaskState
    from plesio.errors import UserError

    if state and state not in set(TaskState):
        raise UserError(f"--state {state!r} is not one of waiting, ready, leased, done, dead, cancelled")
    with asking.attached(to, token_file, tls, folder) as client:
        asking.show_rows("tasks", client.ask("tasks", state), TASK, as_json)


@app.command()
def dead(
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False
) -> None:
    """The newest 200 that failed for good; `plesio tasks retry` gives them another chance."""
    ls("dead", to, token_file, tls, folder, as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A task, like 3-17.")],
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """All that is known of one task; its result, when it is done."""
    from plesio.cli import asking
    from plesio.cli.submitting import plain

    with asking.attached(to, token_file, tls, folder) as client:
        row = client.ask("task", name)
        if row["state"] == "done" and row["result_bytes"] <= MOST_SHOWN_BYTES:
            row["result"] = plain(client.follow([name])[0].result(10.0))
        asking.show_record(row, as_json)


@app.command()
def cancel(
    names: Names,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Whether they wait or run. Those that have ended stay as they are."""
    from plesio.cli import asking

    with asking.attached(to, token_file, tls, folder) as client:
        asking.rows_of(client, names)
        client.cancel(names)
        asking.show_rows("tasks", asking.rows_of(client, names), TASK, as_json)


@app.command()
def retry(
    names: Names,
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Give dead letters another chance."""
    from plesio.cli import asking
    from plesio.errors import UserError

    with asking.attached(to, token_file, tls, folder) as client:
        for row in asking.rows_of(client, names):
            if row["state"] != "dead":
                raise UserError(
                    f"task {row['id']} is {row['state']}; only dead ones are tried again: plesio tasks dead"
                )
        client.retry(names)
        asking.show_rows("tasks", asking.rows_of(client, names), TASK, as_json)


@app.command()
def counts(
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False
) -> None:
    """How many wait and run now, and how many ever ended how."""
    from plesio.cli import asking

    with asking.attached(to, token_file, tls, folder) as client:
        asking.show_record(client.ask("counts"), as_json)


@app.command()
def workers(
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False
) -> None:
    """The slots that tasks run in."""
    from plesio.cli import asking

    with asking.attached(to, token_file, tls, folder) as client:
        asking.show_rows("workers", client.ask("workers"), WORKER, as_json)


@app.command()
def queues(
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False
) -> None:
    """The queues that tasks wait in; `plesio queue` changes them."""
    from plesio.cli import asking

    with asking.attached(to, token_file, tls, folder) as client:
        asking.show_rows("queues", client.ask("queues"), QUEUE, as_json)

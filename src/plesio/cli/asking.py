"""The client's side of the commands for tasks and queues: which pool, and how its answers look."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plesio.errors import UserError, WireError
from plesio.tasks import Client, connect
from plesio.tasks.embedded import attach

Row = dict[str, Any]
SHORT = ("id", "state", "slot", "name")  # never broken over lines


@contextlib.contextmanager
def attached(to: str | None, token_file: Path | None, tls: str | None, folder: Path) -> Iterator[Client]:
    """A client of the pool that was named. Nothing is started. Raises UserError, AccessRefused, WireError."""
    if to is None:
        if token_file is not None or tls is not None:
            raise UserError("--token-file and --tls are for a pool elsewhere; name it with --to HOST:PORT")
        client = attach(folder)
    else:
        if token_file is None:
            raise UserError(f"the pool at {to} has a token: copy its file from there and name it with --token-file")
        client = connect(to, token_file=str(token_file), tls=tls or "")
    try:
        with client:
            yield client
    except TimeoutError as error:
        raise WireError(str(error)) from error


def rows_of(client: Client, names: list[str]) -> list[Row]:
    """Of each task. Raises UserError when one is not known."""
    return [client.ask("task", name) for name in dict.fromkeys(names)]


def show_rows(what: str, rows: list[Row], columns: tuple[str, ...], as_json: bool) -> None:
    """A table on a terminal; lines with tabs elsewhere; {what: rows} as JSON."""
    if as_json:
        print_json({what: rows})
        return
    table = [[_cell(row.get(column)) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(cells) for cells in [list(columns), *table]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for column in columns:
        shown.add_column(column, no_wrap=column in SHORT, overflow="fold")
    for cells in table:
        shown.add_row(*map(Text, cells))
    Console().print(shown)


def show_record(record: Row, as_json: bool) -> None:
    """One thing, a line a field."""
    if as_json:
        print_json(record)
        return
    for key, value in record.items():
        print(f"{key:14}{value if isinstance(value, str) else _cell(value)}")


def print_json(value: Any) -> None:
    """On stdout."""
    print(json.dumps(value, allow_nan=False), flush=True)


def _cell(value: Any) -> str:
    """Of text the last line, which says what was raised."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return " ".join(f"{key}={amount:g}" for key, amount in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip().rpartition("\n")[2]

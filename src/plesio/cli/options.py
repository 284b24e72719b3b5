"""What several commands take: options of one meaning and one help text, and how their words are read. Light."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from plesio.errors import UserError

POOL = Path("runs/pool")
TLS_HELP = "CERT,KEY,CA: encrypt every connection, both sides show a certificate. `plesio cert` makes them."

To = Annotated[Optional[str], typer.Option("--to", help="HOST:PORT of a pool elsewhere; wants --token-file.")]
TokenFile = Annotated[Optional[Path], typer.Option(help="A copy of the pool's token file, for --to.")]
Tls = Annotated[Optional[str], typer.Option(help=TLS_HELP)]
Folder = Annotated[Path, typer.Option("--dir", help="Folder of a pool on this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Tags = Annotated[Optional[list[str]], typer.Option("--tag", help="What tasks may require, e.g. gpu=1. Repeat.")]
MemoryMb = Annotated[int, typer.Option(help="A slot's process that takes more MiB is ended; 0: no limit.", min=0)]


def read_address(text: str, what: str) -> tuple[str, int]:
    """HOST:PORT. Raises UserError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65534:
        raise UserError(f"{what} {text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def read_amounts(words: list[str] | None, what: str) -> dict[str, float]:
    """'gpu=1', or 'gpu' alone for 1. Raises UserError."""
    amounts = {}
    for word in words or []:
        name, given, amount = word.partition("=")
        try:
            amounts[name] = float(amount) if given else 1.0
        except ValueError:
            name = ""
        if not name or name.startswith("@") or not 0 <= amounts[name] < float("inf"):
            raise UserError(f"{what} {word!r} is not NAME=NUMBER, e.g. gpu=1")
    return amounts


def read_value(word: str) -> Any:
    """JSON where it is JSON, else the word itself."""
    import json

    try:
        return json.loads(word)
    except ValueError:
        return word


def read_kwargs(text: str) -> dict[str, Any]:
    """A JSON object. Raises UserError."""
    found = read_value(text)
    if not isinstance(found, dict):
        raise UserError(f"--kwargs {text!r} is not a JSON object, e.g. '{{\"b\": 2}}'")
    return found


def say(words: str) -> None:
    """To whoever looks on; it is no matter when nobody does."""
    with contextlib.suppress(OSError):
        print(f"plesio: {words}", file=sys.stderr, flush=True)

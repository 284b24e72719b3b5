"""`plesio codecs`: which there are, what they do to a model, and files packed by one. Options only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from plesio.cli.options import AsJson

CODEC_HELP = "By its text, e.g. int8(128) or topk(1/64)+int4. Repeat. Default: one of each."
app = typer.Typer(help="Tensors to few bytes: which codecs there are, and what they do to a model.")


@app.callback(invoke_without_command=True)
def codecs(
    context: typer.Context,
    on: Annotated[Optional[Path], typer.Option(help="A safetensors file: what codecs do to a real model.")] = None,
    codec: Annotated[Optional[list[str]], typer.Option(help=CODEC_HELP)] = None,
    as_json: AsJson = False,
) -> None:
    """All codecs: bits a value, error and speed, measured now on this machine; or, with --on, on a model's own tensors.

    Example: plesio codecs --on model.safetensors
    """
    if context.invoked_subcommand is not None:
        return
    from plesio.cli import codecbench, packing

    names = codec or list(codecbench.ALL)
    if on is not None:
        packing.compare(on, names, as_json)
    else:
        codecbench.table(names, as_json)


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(help="A safetensors file.")],
    codec: Annotated[str, typer.Option(help="By its text.")] = "int8",
    out: Annotated[Optional[Path], typer.Option(help="Default: FILE.packed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compress a safetensors checkpoint; says how far its tensors are from the originals. Integers stay as they are."""
    from plesio.cli import packing

    packing.pack(file, codec, out or file.with_name(file.name + ".packed"), as_json)


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="What `plesio codecs pack` wrote.")],
    out: Annotated[Optional[Path], typer.Option(help="Default: FILE without .packed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give the tensors of a packed checkpoint back, as a safetensors file."""
    from plesio.cli import packing

    plain = file.with_suffix("") if file.suffix == ".packed" else file.with_name(file.name + ".unpacked")
    packing.unpack(file, out or plain, as_json)

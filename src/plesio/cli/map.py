"""`plesio map`: a function over all records of an input. Options only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from plesio.cli.options import POOL, AsJson, Tls, read_amounts

FN_HELP = "package.module:name or path/to/script.py:name, of a function or a class (setup(), batch(records))."
INPUT_HELP = "A file or folder, a URL of one, or - for stdin: JSONL, CSV, Parquet, text lines, whole files or images."
FORMAT_HELP = "jsonl, text, csv, parquet, files, images. Default: as the name says; stdin: jsonl."
BATCHED_HELP = "The function takes a list of records and returns a list of the same length."
SORT_HELP = "Batches are of records of similar length; the output keeps the input's order."
THEN_HELP = "A function as FN, of what FN returned; its tasks are its own, and run beside FN's."
REQUIRE_HELP = "A tag of the workers that FN is for, e.g. gpu=1. Repeat."
PART_HELP = "A part of the output has about so many records; it is closed after a minute at the latest."


def map_(
    fn: Annotated[str, typer.Argument(help=FN_HELP)],
    input: Annotated[str, typer.Argument(help=INPUT_HELP)],
    out: Annotated[Path, typer.Option(help="Folder of the output: part-*.jsonl, dead.jsonl, manifest.jsonl.")],
    then: Annotated[Optional[str], typer.Option(help=THEN_HELP)] = None,
    require: Annotated[Optional[list[str]], typer.Option(help=REQUIRE_HELP)] = None,
    then_require: Annotated[Optional[list[str]], typer.Option(help="... and that --then is for. Repeat.")] = None,
    batch: Annotated[int, typer.Option(help="Records that a worker gets at once.", min=1)] = 64,
    batched: Annotated[bool, typer.Option("--batched", help=BATCHED_HELP)] = False,
    format: Annotated[str, typer.Option(help=FORMAT_HELP)] = "",
    sort_by_length: Annotated[bool, typer.Option("--sort-by-length", help=SORT_HELP)] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Remove what an earlier run wrote to --out.")] = False,
    part_records: Annotated[int, typer.Option(help=PART_HELP, min=1)] = 100_000,
    workers: Annotated[
        Optional[int], typer.Option(help="Of a pool that is started here. Default: one per core.", min=1)
    ] = None,
    to: Annotated[
        Optional[str], typer.Option("--on", help="HOST:PORT of a pool elsewhere; wants --token-file.")
    ] = None,
    token_file: Annotated[Optional[Path], typer.Option(help="A copy of the pool's token file, for --on.")] = None,
    tls: Tls = None,
    folder: Annotated[Path, typer.Option("--dir", help="Folder of a pool here; started when none runs in it.")] = POOL,
    as_json: AsJson = False,
) -> None:
    """Call a function for every record of INPUT; each result is in the output once, in order, whoever dies. Resumes.

    Example: plesio map embed.py:Embed texts.jsonl --out vectors --workers 4
    """
    from plesio.cli import mapping

    pool = mapping.pool_of(to, token_file, tls, folder, workers)
    mapping.execute(
        pool, as_json, fn=fn, input=input, out=out, then=then, requires=read_amounts(require, "--require"),
        then_requires=read_amounts(then_require, "--then-require"), batch=batch, batched=batched, format=format,
        sort_by_length=sort_by_length, restart=restart, part_records=part_records,
    )  # fmt: skip

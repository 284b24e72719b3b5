"""Raw records out of one open file, format by format; as a stream, so that memory does not grow with the file."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from plesio.errors import UserError

LONGEST_FIELD = 1 << 30  # of CSV
ROWS = 1024  # of Parquet, read together


def lines(file: Iterable[bytes], count: int, blank: bool) -> Iterator[tuple[list[bytes], int]]:
    """(its next lines, up to so many, each with its end; their bytes). blank: are blank ones records, too?"""
    while chunk := list(itertools.islice(file, count)):
        size_bytes = sum(map(len, chunk))
        if not chunk[-1].endswith(b"\n"):
            chunk[-1] += b"\n"
        yield chunk if blank else [line for line in chunk if not line.isspace()], size_bytes


def rows(file: BinaryIO) -> Iterator[dict[str, str] | list[str]]:
    """Of CSV with a header: a dict each, or a list of fields when these are more or fewer than the header has."""
    csv.field_size_limit(LONGEST_FIELD)
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as words:
        reader = csv.reader(words)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UserError(f"two columns have the same name: {', '.join(header)}")
        for row in reader:
            if row:
                yield dict(zip(header, row, strict=True)) if len(row) == len(header) else row


def parquet(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Its rows, as dicts of Python values."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError("Parquet needs pyarrow, which is not installed: pip install 'plesio[data]'") from error
    for batch in ParquetFile(file).iter_batches(batch_size=ROWS):
        yield from batch.to_pylist()

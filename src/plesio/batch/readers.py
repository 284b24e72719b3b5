"""Raw records out of one open file, format by format; as a stream, so that memory does not grow with the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from plesio.errors import UserError

LONGEST_FIELD = 1 << 30  # of CSV
ROWS = 1024  # of Parquet, read together


def jsonl(file: Iterable[bytes]) -> Iterator[bytes]:
    """Its lines, each with its end. Those that are blank are no records."""
    return (line for line in text(file) if not line.isspace())


def text(file: Iterable[bytes]) -> Iterator[bytes]:
    """Its lines, each with its end, which the last one may lack."""
    return (line if line.endswith(b"\n") else line + b"\n" for line in file)


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


READERS: dict[str, Callable[[Any], Iterator[Any]]] = {"jsonl": jsonl, "text": text, "csv": rows, "parquet": parquet}

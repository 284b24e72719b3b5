"""Records by their numbers. A map-style dataset of torch, too: it has `__len__`, `__getitem__` and `__getitems__`.

Lines of a plain file here, rows of Parquet and whole files are read when they are asked for; CSV, compressed and remote
lines are read once and held in memory.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from plesio.batch import records
from plesio.batch.inputs import Input, Position, find
from plesio.errors import UserError

CHUNK_BYTES = 1 << 22
ROWS = 4096  # read at once, where all are read
LONGEST_BLANK = 8  # bytes; a longer line of blanks is no record that can be read
GROUPS_KEPT = 4  # of rows of a Parquet file


class _Shelf(Protocol):
    """Raw records by number."""

    def __len__(self) -> int: ...

    def get(self, index: int) -> Any: ...


class Source:
    """See `open_source`."""

    def __init__(self, name: str, format: str, form: str, shelf: _Shelf) -> None:
        self.name = name
        self.format = format
        self._form = form
        self._shelf = shelf

    def __len__(self) -> int:
        return len(self._shelf)

    def __getitem__(self, index: int) -> Any:
        """A record: of JSONL its value, of text a str, of rows a dict, of a file {"path", "data"}, of an
        image {"path", "image"}: an array, (height, width, 3), of uint8. Raises UserError."""
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            return records.READERS[self._form](self._shelf.get(at))
        except ValueError as error:
            raise UserError(f"record {index} of {self.name} cannot be read: {error}") from error

    def __getitems__(self, indices: Iterable[int]) -> list[Any]:
        """Several records, in this order."""
        return [self[int(index)] for index in indices]


def open_source(name: str, format: str = "") -> Source:
    """The records of an input: a file or folder, here or wherever fsspec reaches; the format by its extension.

    format: jsonl, text, csv, parquet, files or images (every file of the folder is one, and decoded when it is asked
    for; as torchvision has them, always RGB). Raises UserError.
    """
    if name == "-":
        raise UserError("what is piped in has no record numbers; write it to a file first")
    found = find(name, format)
    records.need(found.form)
    local = found.fs is None
    shelf: _Shelf
    if found.form in records.WHOLE:
        shelf = _Files(found)
    elif found.format == "parquet" and local:
        shelf = _RowGroups(found.paths)
    elif found.form in records.LINES and local and not any(p.endswith((".gz", ".bz2", ".xz")) for p in found.paths):
        shelf = _Lines(found.paths, found.form == "text")
    else:
        shelf = _Held(found)
    return Source(found.name, found.format, found.form, shelf)


class _Held:
    def __init__(self, found: Input) -> None:
        self._raws = list(itertools.chain.from_iterable(found.read(Position(), ROWS)))

    def __len__(self) -> int:
        return len(self._raws)

    def get(self, index: int) -> Any:
        raw = self._raws[index]
        return raw.rstrip(b"\n") if isinstance(raw, bytes) else raw


class _Files:
    def __init__(self, found: Input) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found.paths)

    def get(self, index: int) -> dict[str, Any]:
        path, fs = self._found.paths[index], self._found.fs
        with open(path, "rb") if fs is None else fs.open(path, "rb") as file:
            return {"path": os.path.relpath(path, self._found.root), "data": file.read()}


class _Lines:
    """Of files of lines: where each begins. blank: are blank lines records, too?"""

    def __init__(self, paths: list[str], blank: bool) -> None:
        self._files = [open(path, "rb") for path in paths]  # noqa: SIM115  open as long as the source is
        self._spans = [_spans(file, blank) for file in self._files]  # of each: (n, 2), begin and end
        self._firsts = [0, *itertools.accumulate(map(len, self._spans))]

    def __len__(self) -> int:
        return self._firsts[-1]

    def get(self, index: int) -> bytes:
        number = bisect.bisect_right(self._firsts, index) - 1
        begin, end = self._spans[number][index - self._firsts[number]]
        return os.pread(self._files[number].fileno(), int(end - begin), int(begin)).rstrip(b"\r\n")

    def __del__(self) -> None:
        for file in getattr(self, "_files", ()):
            file.close()


def _spans(file: Any, blank: bool) -> np.ndarray[Any, Any]:
    ends: list[np.ndarray[Any, Any]] = []
    at = 0
    while chunk := file.read(CHUNK_BYTES):
        ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + at + 1)
        at += len(chunk)
    found = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    last = int(found[-1]) if len(found) else 0
    if last < at:
        found = np.append(found, at)
    spans = np.stack([np.concatenate([[0], found[:-1]]) if len(found) else found, found], 1).astype(np.int64)
    if blank:
        return spans
    short = np.flatnonzero(spans[:, 1] - spans[:, 0] <= LONGEST_BLANK)
    gone = [i for i in short if not os.pread(file.fileno(), int(spans[i, 1] - spans[i, 0]), int(spans[i, 0])).strip()]
    return np.delete(spans, gone, 0)


class _RowGroups:
    def __init__(self, paths: list[str]) -> None:
        try:
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise UserError("Parquet needs pyarrow, which is not installed: pip install 'plesio[data]'") from error
        self._files = [ParquetFile(path) for path in paths]
        self._groups = [(file, i) for file in self._files for i in range(file.metadata.num_row_groups)]
        sizes: list[int] = [file.metadata.row_group(i).num_rows for file, i in self._groups]
        self._firsts: list[int] = [0, *itertools.accumulate(sizes)]
        self._rows: Callable[[int], list[dict[str, Any]]] = functools.lru_cache(GROUPS_KEPT)(self._read)

    def _read(self, number: int) -> list[dict[str, Any]]:
        file, i = self._groups[number]
        rows: list[dict[str, Any]] = file.read_row_group(i).to_pylist()
        return rows

    def __len__(self) -> int:
        return self._firsts[-1]

    def get(self, index: int) -> dict[str, Any]:
        number = bisect.bisect_right(self._firsts, index) - 1
        row: dict[str, Any] = self._rows(number)[index - self._firsts[number]]
        return row

"""An input by its name: which files it is, of which format, and where to go on in it.

A file or a folder, here or wherever fsspec reaches, or '-' for what is piped in. A folder whose files are all of one format
is their records, in the order of their names; another one's records are its files. Whether files are images is not told
by their names: who has a function of {"path", "data"} keeps it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from plesio.batch import records
from plesio.batch.readers import lines, parquet, rows
from plesio.errors import UserError

FILES, IMAGES = "files", "images"
FORMATS = ("jsonl", "text", "csv", "parquet", FILES, IMAGES)
EXTENSIONS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".text": "text",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".xz")
FORMS = {format: format for format in FORMATS} | {"csv": "rows", "parquet": "rows"}  # see records.py
BUFFER_BYTES = 1 << 20
HELD_BYTES = 1 << 20  # of records that are no lines; after so many what was read is given
HEAD_BYTES = 1 << 16  # of a file, by which it is known again


class Position(msgspec.Struct, frozen=True):
    """In an input. offset: in bytes, where the input is one file of lines here; else 0."""

    records: int = 0
    offset: int = 0


class Input:
    """A stream of raw records. Read by one reader, once. name: as it is known again, wherever the command runs."""

    def __init__(self, fs: Any, name: str, paths: list[str], sizes: list[int], format: str, root: str) -> None:
        self.fs = fs
        self.name = name
        self.paths = paths
        self.sizes = sizes
        self.format = format
        self.root = root
        self.offset = 0
        self._file: BinaryIO | None = None
        self._number = 0  # of the file that is read

    @property
    def form(self) -> str:
        """What its raw records are; see records.py."""
        return FORMS[self.format]

    @property
    def _seeks(self) -> bool:
        one = self.fs is None and len(self.paths) == 1 and FORMS[self.format] in records.LINES
        return one and self.paths[0] != "-" and not self.paths[0].endswith(COMPRESSED)

    def read(self, start: Position, count: int) -> Iterator[list[Any]]:
        """From there to the end, up to so many at once; `offset` is behind them. Raises UserError, OSError."""
        if self.form in records.LINES:
            yield from self._lines(start, count)
            return
        raws = self._rows(start.records) if self.form == "rows" else self._whole_files(start.records)
        held: list[Any] = []
        held_bytes = 0
        for raw in raws:
            held.append(raw)
            held_bytes += records.size_bytes(raw)
            if len(held) == count or held_bytes >= HELD_BYTES:
                yield held
                held, held_bytes = [], 0
        if held:
            yield held

    def _lines(self, start: Position, count: int) -> Iterator[list[bytes]]:
        """A file of its own is entered where it goes on; of others what comes before is read again."""
        skip = 0 if self._seeks else start.records
        for number, path in enumerate(self.paths):
            self._number = number
            with self._open(path) as file:
                if self._seeks:
                    file.seek(start.offset)
                    self.offset = start.offset
                for chunk, size_bytes in lines(file, count, self.form == "text"):
                    self.offset += size_bytes if self._seeks else 0
                    gone = min(skip, len(chunk))
                    skip -= gone
                    if chunk[gone:]:
                        yield chunk[gone:]

    def _rows(self, skip: int) -> Iterator[Any]:
        read = rows if self.format == "csv" else parquet
        yield from itertools.islice(itertools.chain.from_iterable(self._each(read)), skip, None)

    def _each(self, read: Callable[[BinaryIO], Iterator[Any]]) -> Iterator[Iterator[Any]]:
        for number, path in enumerate(self.paths):
            self._number = number
            with self._open(path) as file:
                yield read(file)

    def _whole_files(self, skip: int) -> Iterator[dict[str, Any]]:
        for number, path in enumerate(self.paths[skip:], skip):
            self._number = number
            with self._open(path) as file:
                yield {"path": os.path.relpath(path, self.root), "data": file.read()}

    @contextlib.contextmanager
    def _open(self, path: str) -> Iterator[BinaryIO]:
        if path == "-":
            self._file = sys.stdin.buffer
            yield self._file
            return
        with open(path, "rb", BUFFER_BYTES) if self.fs is None else self.fs.open(path, "rb") as raw:
            self._file = raw
            if path.endswith(COMPRESSED) and self.form not in records.WHOLE:
                from fsspec.compression import compr
                from fsspec.utils import infer_compression

                with compr[infer_compression(path)](raw, mode="rb") as file:
                    yield file
            else:
                yield raw

    def fraction(self) -> float | None:
        """How much of it has been read, from 0 to 1; None: nobody knows."""
        total = sum(self.sizes)
        if not total:
            return None
        read = sum(self.sizes[: self._number])
        with contextlib.suppress(ValueError, OSError):  # it is closed
            read += self._file.tell() if self._file is not None else 0
        return min(1.0, read / total)

    def fingerprint(self) -> str:
        """Of what it holds, as far as names, sizes and its first bytes tell. Piped in: ''."""
        if self.paths == ["-"]:
            return ""
        digest = hashlib.sha256(repr(list(zip(self.paths, self.sizes, strict=True))).encode())
        with open(self.paths[0], "rb") if self.fs is None else self.fs.open(self.paths[0], "rb") as file:
            digest.update(file.read(HEAD_BYTES))
        return digest.hexdigest()[:16]


def find(name: str, format: str = "") -> Input:
    """The input of this name. Raises UserError when there is none, or when its format must be told."""
    if format and format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; it is one of {', '.join(FORMATS)}")
    if name == "-":
        if format in (FILES, IMAGES, "parquet"):
            raise UserError(f"what is piped in is read once, from its start: jsonl, csv or text, not {format}")
        return Input(None, "-", ["-"], [0], format or "jsonl", "")
    fs, path = _locate(name)
    if fs is None and not os.path.exists(path) or fs is not None and not fs.exists(path):
        raise UserError(f"there is no input {name!r}")
    folder = os.path.isdir(path) if fs is None else fs.isdir(path)
    paths, sizes = _listed(fs, path) if folder else ([path], [_size(fs, path)])
    if not paths:
        raise UserError(f"the folder {name!r} holds no file")
    shown = path if fs is None else name
    return Input(
        fs, shown, paths, sizes, format or _format(name, paths, folder), path if folder else os.path.dirname(path)
    )


def _locate(name: str) -> tuple[Any, str]:
    """(None, absolute path) of what is here; else (file system, path there)."""
    if "://" not in name:
        return None, str(Path(name).absolute())
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    try:
        fs, path = url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{name!r} cannot be opened: {error}") from error
    return (None, path) if isinstance(fs, LocalFileSystem) else (fs, path)


def _size(fs: Any, path: str) -> int:
    return os.path.getsize(path) if fs is None else int(fs.size(path) or 0)


def _listed(fs: Any, folder: str) -> tuple[list[str], list[int]]:
    """Its files and those below, by name; without what is hidden."""
    if fs is None:
        found = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    else:
        found = fs.find(folder)
    paths = sorted(path for path in found if not _is_hidden(os.path.relpath(path, folder)))
    return paths, [_size(fs, path) for path in paths]


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _format(name: str, paths: list[str], folder: bool) -> str:
    known = {_by_extension(path) for path in paths}
    if len(known) == 1 and (format := known.pop()):
        return format
    if folder:
        return FILES
    raise UserError(
        f"the format of {name!r} is not told by its name; say --format {', '.join(FORMATS[:-1])} or {IMAGES}"
    )


def _by_extension(path: str) -> str:
    stem, extension = os.path.splitext(path.lower())
    if extension in COMPRESSED:
        extension = os.path.splitext(stem)[1]
    return EXTENSIONS.get(extension, "")

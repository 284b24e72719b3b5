"""The folder of a run: parts in the order of the input, dead.jsonl, and the manifest, by which a later run goes on.

A part is written under another name, synced, renamed and then told in the manifest, in that order: what the manifest tells
is complete whoever died. dead.jsonl grows as records die; what the manifest does not tell of it is cut off by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from plesio.batch.inputs import Position
from plesio.errors import OutputFailed, UserError

MANIFEST, DEAD, OPEN = "manifest.jsonl", "dead.jsonl", "part.tmp"
PART_S = 60.0  # a part is closed after so long: what a killed run loses is no more than that
PART = re.compile(r"part-(\d{5,})\.jsonl")


class Header(msgspec.Struct, frozen=True, tag="map"):
    """What a run computes. id: of its tasks' queue. input, fingerprint: see Input. then: the second function; ''."""

    id: str
    fn: str
    batched: bool
    input: str
    format: str
    fingerprint: str
    then: str = ""


class Part(msgspec.Struct, frozen=True, tag="part"):
    """A part that is complete. records: of the input, dead ones included. dead_bytes: of dead.jsonl up to here."""

    number: int
    records: int
    dead: int
    dead_bytes: int
    next: Position


class End(msgspec.Struct, frozen=True, tag="end"):
    """All records have their results."""

    records: int


_decode = msgspec.json.Decoder(Header | Part | End).decode


class Whole(msgspec.Struct, frozen=True):
    """What is whole of the open part, and of dead.jsonl: assigned at once, so that Ctrl-C comes before it or behind it."""

    size_bytes: int = 0
    dead_bytes: int = 0
    records: int = 0
    dead: int = 0
    next: Position = Position()


class Found(msgspec.Struct):
    """What a folder's manifest tells."""

    header: Header | None = None
    parts: int = 0
    records: int = 0
    dead: int = 0
    dead_bytes: int = 0
    next: Position = Position()
    ended: bool = False
    size_bytes: int = 0  # of the manifest, without what a crash has left of its last line

    def add(self, entry: Header | Part | End) -> None:
        """One more line of it."""
        if isinstance(entry, Header):
            self.header = entry
        elif isinstance(entry, Part):
            self.parts, self.next, self.dead_bytes = entry.number + 1, entry.next, entry.dead_bytes
            self.records += entry.records
            self.dead += entry.dead
        else:
            self.ended = True


class Output:
    """Owns the folder, from `begin` to `close`. part_records: a part has about so many."""

    def __init__(self, folder: Path, part_records: int) -> None:
        self.folder = folder
        self.part_records = part_records
        self.found = Found()
        self._manifest: BinaryIO | None = None
        self._dead: BinaryIO | None = None
        self._part: BinaryIO | None = None
        self._whole = Whole()
        self._began_s = 0.0

    @property
    def records(self) -> int:
        """Written so far, dead ones included."""
        return self.found.records + self._whole.records

    @property
    def dead(self) -> int:
        """... and those alone."""
        return self.found.dead + self._whole.dead

    def look(self, now: Header, restart: bool) -> None:
        """What is there of an earlier run; writes nothing. Raises UserError when it was another one, or is no run's.

        now: what this one computes; its id is that of an earlier run, or a new one.
        """
        with _told(self.folder):
            self.found = self._read()
            here = sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []
        if here and MANIFEST not in here:
            shown = ", ".join(here[:3]) + (", ..." if len(here) > 3 else "")
            raise UserError(f"{self.folder} holds files that are no output of plesio map ({shown}); name another --out")
        if restart:
            self.found = Found()
        before = self.found.header
        now = msgspec.structs.replace(now, id=before.id if before is not None else secrets.token_hex(4))
        if before is not None and before != now:
            raise UserError(
                f"{self.folder} holds the output of {_difference(before, now)}; --restart, or another --out"
            )
        self.found.header = now

    def _read(self) -> Found:
        found = Found()
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / MANIFEST).read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    found.add(_decode(line))
                except msgspec.MsgspecError as error:
                    raise UserError(f"{self.folder / MANIFEST} is no manifest of plesio map: {error}") from error
                found.size_bytes += len(line)
        return found

    def begin(self) -> None:
        """The folder is this process's; what an earlier run has not finished is removed. Raises UserError, OutputFailed."""
        with _told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manifest = (self.folder / MANIFEST).open("ab")
            try:
                fcntl.flock(self._manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another plesio map writes to {self.folder}; wait for it, or name another --out"
                ) from error
            self._manifest.truncate(self.found.size_bytes)
            for path in self.folder.iterdir():
                number = PART.fullmatch(path.name)
                if path.name == OPEN or (number and int(number[1]) >= self.found.parts):
                    path.unlink()
            self._dead = (self.folder / DEAD).open("ab")
            self._dead.truncate(self.found.dead_bytes)
            self._whole = Whole(dead_bytes=self.found.dead_bytes)
            if not self.found.size_bytes:
                assert self.found.header is not None, "it was looked at"
                self._tell(self.found.header)

    def write(self, out: bytes, dead: list[bytes], count: int, after: Position) -> None:
        """What comes next: lines of results, those of the dead, of so many records; behind them the input is at `after`."""
        with self._writing():
            if self._part is None:
                self._part = (self.folder / OPEN).open("wb")
                self._began_s = time.monotonic()
            self._part.write(out)
            if dead:
                assert self._dead is not None
                self._dead.write(b"".join(dead))
            was = self._whole
            self._whole = Whole(
                was.size_bytes + len(out), was.dead_bytes + sum(map(len, dead)), was.records + count,
                was.dead + len(dead), after,
            )  # fmt: skip
            if self._whole.records >= self.part_records or time.monotonic() - self._began_s > PART_S:
                self._finish_part()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises OutputFailed, and gives the open part up: nobody knows how much of it was written."""
        try:
            with _told(self.folder):
                yield
        except OutputFailed:
            part, self._part = self._part, None
            if part is not None:
                with contextlib.suppress(OSError):
                    part.close()
            raise

    def _finish_part(self) -> None:
        if self._part is None:
            return
        assert self._dead is not None
        whole, number = self._whole, self.found.parts
        for file, size_bytes in ((self._dead, whole.dead_bytes), (self._part, whole.size_bytes)):
            file.truncate(size_bytes)  # what is behind it was being written when Ctrl-C came
            os.fsync(file.fileno())
        if whole.records:
            os.rename(self.folder / OPEN, self.folder / f"part-{number:05}.jsonl")
            _sync_folder(self.folder)
            self._tell(Part(number, whole.records, whole.dead, whole.dead_bytes, whole.next))
        else:
            os.unlink(self.folder / OPEN)
        part, self._part, self._whole = self._part, None, Whole(dead_bytes=whole.dead_bytes)
        part.close()

    def _tell(self, entry: Header | Part | End) -> None:
        assert self._manifest is not None
        self._manifest.write(msgspec.json.encode(entry) + b"\n")
        self._manifest.flush()
        os.fsync(self._manifest.fileno())
        self.found.add(entry)

    def end(self) -> None:
        """All is written."""
        with self._writing():
            self._finish_part()
            self._tell(End(self.found.records))
            _sync_folder(self.folder)

    def close(self) -> None:
        """Keeps what is written, if it can, and lets go of the folder."""
        with contextlib.suppress(OSError):
            self._finish_part()
        for file in (self._part, self._dead, self._manifest):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


def _difference(before: Header, now: Header) -> str:
    if (before.fn, before.batched, before.then) != (now.fn, now.batched, now.then):
        then = f" --then {before.then}" if before.then else ""
        return f"another function ({before.fn}{' --batched' if before.batched else ''}{then})"
    if before.input != now.input:
        return f"another input ({before.input})"
    return f"another format ({before.format})" if before.format != now.format else "an input that has changed since"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Raises OutputFailed for what the system says."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputFailed(
            f"{error.filename or folder} cannot be written: {why}; what is finished stays, the same command goes on with it"
        ) from error

"""events.jsonl as it is written: a line a fact; when it has become large, its older part is thinned.

A thinned file begins with one line, `Thinned`, that holds the story and the coordinator's state up to then, so that every
total stays exact. Of the older lines those that only repeat go first, and then the most frequent ones, by halves: what is
rare, such as faults, stays longest. The newest lines stay all.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from plesio.core.facts import Fact
from plesio.core.state import Durable
from plesio.reporting.events import event_line, last_seq, pack, parse
from plesio.reporting.files import append, replace
from plesio.reporting.story import Story, tell

FILE = "events.jsonl"
THIN_BYTES = 8 << 20
NEWEST, OLDER = 0.25, 0.25  # of it: what stays whole, and what stays of the lines before
ROUTINE = (b"UnitsLeased", b"ContributionAccepted", b"VersionMerged")  # told by the round that follows
_TYPE = re.compile(rb'"type":\s?"(\w+)"')

Batch = tuple[int, float, list[Fact]]  # (journal blob, unix seconds, its facts)


class EventLog:
    """Appends to events.jsonl. Owned by the coordinator.

    A disk that takes no more loses nothing: the journal has it. `written`: the newest of its blobs that this file holds.
    """

    def __init__(self, run_dir: Path, thin_bytes: int = THIN_BYTES) -> None:
        self.path = run_dir / FILE
        self.thin_bytes = thin_bytes
        self.thin_at_bytes = thin_bytes
        self.size_bytes = 0
        self.written = 0
        self.trouble = ""  # why newer facts are not in it yet
        self._greeting = ""  # goes with the next line

    def open(self, batches: Iterable[Batch], newest: int) -> None:
        """After a start: adds what the journal, whose newest blob this is, has and the file lacks."""
        self.written = min(last_seq(self.path), newest)  # a power cut may have taken the journal's latest
        self.catch_up(batches)
        self._greeting = json.dumps({"type": "CoordinatorStarted", "unix_s": time.time(), "pid": os.getpid()}) + "\n"
        if not self.trouble:
            self._append("")

    def add(self, seq: int, unix_s: float, facts: list[Fact]) -> None:
        """The newest batch of the journal. After one that could not be written, nothing is, until `catch_up`."""
        if not self.trouble:
            self.catch_up([(seq, unix_s, facts)])

    def catch_up(self, batches: Iterable[Batch]) -> None:
        """Writes those that are not written yet; they must follow each other."""
        for seq, unix_s, facts in batches:
            if seq > self.written:
                lines = "".join(event_line(seq, unix_s, fact) + "\n" for fact in facts)
                if not self._append(lines):
                    return
                self.written = seq
        self.trouble = ""

    def thin_if_large(self, state: Durable) -> None:
        """state: the fold of all that is written."""
        if self.size_bytes <= self.thin_at_bytes or self.trouble:
            return
        try:
            with self.path.open("rb") as rows:
                content = thinned(rows, self.size_bytes, self.thin_bytes, self.written, state)
            replace(self.path, content)
            self.size_bytes = len(content)
        except OSError:
            pass  # it stays as it is
        self.thin_at_bytes = max(self.thin_bytes, self.size_bytes * 5 // 4)  # not again at the next fact

    def _append(self, lines: str) -> bool:
        try:
            self.size_bytes = append(self.path, (self._greeting + lines).encode())
            self._greeting = ""
        except OSError as error:
            self.trouble = f"cannot write {self.path}: {error.strerror}; free some space or make it writable"
            return False
        return True


def thinned(rows: Iterable[bytes], size_bytes: int, limit_bytes: int, seq: int, state: Durable) -> bytes:
    """The file anew, about half as large as the limit. rows: its lines, of so many bytes in all, each looked at once.

    seq, state: as of the newest of them. Pure.
    """
    story, older, newest = Story(), list[bytes](), list[bytes]()
    newest_from, at, lines = size_bytes - limit_bytes * NEWEST, 0, 0
    for row in rows:
        event = parse(row)
        if event is not None:
            tell([event], story)
        at += len(row)
        kind = _type(row)
        lines += kind != b"Thinned"
        if at > newest_from and kind != b"Thinned":
            newest.append(row)
        elif kind not in (*ROUTINE, b"Thinned"):
            older.append(row)
    kept = [*_halved(older, int(limit_bytes * OLDER)), *newest]
    story.left_out += lines - len(kept)
    head = {
        "seq": seq,
        "unix_s": story.started_unix_s,
        "type": "Thinned",
        "lines": len(kept),
        "left_out": story.left_out,
        "story": pack(story),
        "state": pack(state),
    }
    return msgspec.json.encode(head) + b"\n" + b"".join(kept)


def _halved(rows: list[bytes], limit_bytes: int) -> list[bytes]:
    """While they are too many, every other one of the type that takes most room goes."""
    while sum(map(len, rows)) > limit_bytes:
        places: dict[bytes, list[int]] = defaultdict(list)
        for at, row in enumerate(rows):
            places[_type(row)].append(at)
        many = max(places.values(), key=lambda ats: sum(len(rows[at]) for at in ats))
        if len(many) < 2:
            break
        gone = set(many[1::2])
        rows = [row for at, row in enumerate(rows) if at not in gone]
    return rows


def _type(row: bytes) -> bytes:
    found = _TYPE.search(row)
    return found[1] if found else b""

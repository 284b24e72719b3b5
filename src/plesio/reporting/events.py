"""events.jsonl: one JSON object a line, one line a fact, in journal order. It is readable, and can be made again.

A long run's begins with a line of the type Thinned (see eventlog.py), which holds the story so far.
Versions are [lineage, number], spans [epoch, start, stop]; every other record is an object by field names.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from plesio.core.facts import AnyFact, Fact
from plesio.errors import PlesioError
from plesio.records import Contribution, Dataset

Event = dict[str, Any]
Unit = tuple[int, int]  # (data epoch, index)

S = TypeVar("S", bound=msgspec.Struct)

_FACTS: dict[str, type[Fact]] = {kind.__name__: kind for kind in get_args(AnyFact)}
TAIL_BYTES = 1 << 20
_SEQ = re.compile(rb'\{"seq":(\d+),')


def event_line(seq: int, unix_s: float, fact: Fact) -> str:
    """One fact of journal blob `seq` as a line, without its newline."""
    event: Event = {"seq": seq, "unix_s": unix_s, "type": type(fact).__name__}
    event.update((name, _plain(value)) for name, value in msgspec.structs.asdict(fact).items())
    return msgspec.json.encode(event).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, (Contribution, Dataset)):
        return {name: _plain(inner) for name, inner in msgspec.structs.asdict(value).items()}
    return msgspec.to_builtins(value)


def pack(state: msgspec.Struct) -> str:
    """A state within a line."""
    return base64.b85encode(msgspec.msgpack.encode(state)).decode()


def unpack(text: str, kind: type[S]) -> S:
    """What `pack` made. Raises PlesioError when it is damaged, or another plesio's."""
    try:
        return msgspec.msgpack.decode(base64.b85decode(text), type=kind)
    except ValueError as error:  # msgspec's are, too
        raise PlesioError(f"the {kind.__name__.lower()} in a thinned events.jsonl is damaged: {error}") from error


def fact_of(event: Event) -> Fact | None:
    """The fact that a line tells, as it was journaled; None when it tells none. Raises PlesioError when it is damaged."""
    kind = _FACTS.get(event.get("type", ""))
    if kind is None:
        return None
    values = dict(event)
    if "contribution" in values:
        values["contribution"] = _row(Contribution, values["contribution"])
    if "dataset" in values:
        values["dataset"] = _row(Dataset, values["dataset"])
    if "loss" in values and values["loss"] is None:
        values["loss"] = math.nan
    try:
        fact: Fact = msgspec.convert([kind.__name__, *_row(kind, values)], kind)
    except msgspec.ValidationError as error:
        raise PlesioError(f"event {event.get('seq')} is no {kind.__name__} of this plesio: {error}") from error
    return fact


def _row(kind: type[msgspec.Struct], values: Event) -> list[Any]:
    """The values in the order of the record's fields; newer fields that a line lacks are at its end."""
    return [values[name] for name in kind.__struct_fields__ if name in values]


def last_seq(path: Path) -> int:
    """The newest journal blob that the file holds whole; 0 for none.

    Cuts a torn last line off, with its blob's other lines, so that appending goes on cleanly.
    """
    if not path.exists():
        return 0
    size_bytes = path.stat().st_size
    return _cut_torn(path, max(0, size_bytes - TAIL_BYTES)) or _cut_torn(path, 0)


def _cut_torn(path: Path, start: int) -> int:
    """`last_seq`, of what follows this position; 0 when no blob begins there."""
    with path.open("rb") as file:
        file.seek(start)
        skipped = len(file.readline()) if start else 0
        whole = file.read().splitlines(keepends=True)
    if whole and not whole[-1].endswith(b"\n"):
        torn = whole.pop()
        same = _SEQ.match(torn)
        seq = int(same[1]) if same else _newest(whole)
        while whole and not torn.startswith(b'{"type"') and _newest(whole[-1:]) == seq:
            whole.pop()
        if not whole and start:
            return 0  # perhaps its blob began before
        with path.open("r+b") as file:
            file.truncate(start + skipped + sum(map(len, whole)))
    return _newest(whole)


def _newest(rows: list[bytes]) -> int:
    return next((int(found[1]) for row in reversed(rows) if (found := _SEQ.match(row))), 0)


def read_events(run_dir: Path) -> list[Event]:
    """All events of a run; none when it has no file. A torn last line is left out."""
    rows = _rows(run_dir / "events.jsonl")
    events: list[Event] = []
    for number, row in enumerate(rows, 1):
        event = parse(row)
        if event is not None:
            events.append(event)
        elif number < len(rows):
            raise PlesioError(f"line {number} of {run_dir / 'events.jsonl'} is damaged; restore the file from a copy")
    return events


def is_finished(run_dir: Path) -> bool:
    """Did the run reach what was asked of it?"""
    return any(event["type"] == "RunFinished" for event in read_events(run_dir))


def read_metrics(run_dir: Path) -> list[Event]:
    """All samples of metrics.jsonl. It is not durable: damaged lines are left out."""
    return [sample for row in _rows(run_dir / "metrics.jsonl") if (sample := parse(row)) is not None]


def parse(row: bytes) -> Event | None:
    """A line as an object; None when it is not one."""
    try:
        return msgspec.json.decode(row, type=Event)
    except msgspec.DecodeError:
        return None


def _rows(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def units_in(spans: Iterable[list[int]]) -> Iterator[Unit]:
    """The units named by spans [epoch, start, stop]."""
    return ((epoch, index) for epoch, start, stop in spans for index in range(start, stop))


def count(spans: Iterable[list[int]]) -> int:
    """How many units the spans name."""
    return sum(stop - start for _, start, stop in spans)

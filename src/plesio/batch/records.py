"""Raw records on their way: packed by who reads the input, unpacked, read and buried by who works on them.

A form says what a raw record is. 'jsonl': a line with a JSON value, 'text': a line; both travel as the bytes that they
were. 'rows': a dict, or the list of a row's fields when they do not fit the header. 'files': {"path", "data"}. 'images':
the same, and becomes {"path", "image"} when it is read: who does that decodes.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from plesio.batch import images

UNREADABLE = "unreadable"  # it is not what the input's format says
RAISED = "raised"  # the function raised
RESULT = "result"  # what the function returned is no JSON
TOO_LARGE = "too large"  # it does not fit into a message
LINES = ("jsonl", "text")
WHOLE = ("files", "images")  # files
MOST_BYTES = 128 << 20  # of one record, and of the results of one batch


def pack(form: str, raws: Sequence[Any]) -> Any:
    """What is sent of them: of lines their bytes, as they were read."""
    if form not in LINES:
        return list(raws)
    return as_array(b"".join(raws))


def unpack(form: str, payload: Any) -> list[Any]:
    """The raw records; lines without their ends."""
    if form not in LINES:
        return list(payload)
    lines: list[Any] = payload.tobytes().split(b"\n")
    lines.pop()
    return lines


def as_array(data: bytes) -> Any:
    """Its bytes. A pool forgets a large array as soon as its client has it, and passes a very large one by shared memory."""
    import numpy

    return numpy.frombuffer(data, numpy.uint8)


def _row(raw: Any) -> Any:
    if type(raw) is list:
        raise ValueError(f"a row of {len(raw)} fields, which is not what the header has")
    return raw


def _image(raw: Any) -> Any:
    try:
        return {"path": raw["path"], "image": images.decode(raw["data"])}
    except ValueError as error:
        raise ValueError(f"{raw['path']}: {error}") from error


READERS: dict[str, Callable[[Any], Any]] = {  # from a raw record to the record; raise ValueError for one that is none
    "jsonl": msgspec.json.Decoder().decode,
    "text": lambda raw: str(raw, "utf-8").rstrip("\r\n"),
    "rows": _row,
    "files": lambda raw: raw,
    "images": _image,
}


def need(form: str) -> None:
    """Raises UserError where no record of this form can be read, for want of a library."""
    if form == "images":
        images.need()


def size_bytes(raw: Any) -> int:
    """About how long a raw record is: what batches are bounded and sorted by."""
    if isinstance(raw, (bytes, str)):
        return len(raw)
    if isinstance(raw, dict):
        return sum(map(size_bytes, raw.values()))
    if isinstance(raw, list):
        return sum(map(size_bytes, raw))
    return 8


def total_bytes(form: str, raws: Sequence[Any]) -> int:
    """Of all of them, about."""
    return sum(map(len if form in LINES else size_bytes, raws))


def dead_line(fn: str, form: str, raw: Any, index: int, kind: str, message: str) -> bytes:
    """A record that has no result, as a line of dead.jsonl. fn: that was to have it. Of a file its path only."""
    try:
        record = raw["path"] if form in WHOLE else READERS[form](raw) if kind != TOO_LARGE else None
    except (ValueError, RecursionError):
        record = str(raw, "utf-8", "replace").rstrip("\r\n") if form in LINES else raw
    said = {"index": index, "record": record, "fn": fn, "error": kind, "message": message}
    return msgspec.json.encode(said, enc_hook=reprlib.repr) + b"\n"

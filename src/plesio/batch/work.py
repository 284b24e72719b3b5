"""What a worker does with a batch of records: reads them, calls the function, and writes its results as JSON lines.

A record whose function raises is dead, with its own error, and the others of its batch are not concerned. What is made of a
class is made once in each worker's process.
"""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from plesio.batch import records
from plesio.errors import UserError
from plesio.runtime.functions import Functions

CHECK = f"{__name__}:check"
APPLY = (f"{__name__}:apply", f"{__name__}:apply_next")  # by stage: what a pool measures of tasks it keeps by name
BY_USER = (Exception, SystemExit)  # what anybody's code may raise, and we outlive
LONGEST = 2000  # characters that are kept of what was raised
_NOTHING = object()


class Prepared(msgspec.Struct, frozen=True):
    """A function that is ready. batched: it takes a list and returns one of the same length."""

    call: Callable[[Any], Any]
    batched: bool


_functions = Functions()
_prepared: dict[tuple[str, bool], Prepared] = {}  # of this process


def prepare(fn: str, batched: bool) -> Prepared:
    """The function of this name; of a class its one instance. Raises NotImportable, UserError, and what its setup raises."""
    known = _prepared.get((fn, batched))
    if known is None:
        known = _prepared[fn, batched] = _prepare(fn, batched)
    return known


def _prepare(fn: str, batched: bool) -> Prepared:
    found: Any = _functions.get(fn)
    if isinstance(found, type):
        found = found()
        if hasattr(found, "setup"):
            found.setup()
        if hasattr(found, "batch"):
            found, batched = found.batch, True
    if not callable(found):
        raise UserError(f"{fn!r} is a class whose instances have neither batch(records) nor __call__(record)")
    call = found if inspect.isroutine(found) or isinstance(found, type) else found.__call__
    if inspect.iscoroutinefunction(call):
        raise UserError(f"{fn!r} is a coroutine function; give a plain one, which may call asyncio.run")
    return Prepared(found, batched)


def check(fn: str, batched: bool, form: str) -> str:
    """What keeps it from being used here for records of this form; '': nothing. Raises NotImportable."""
    try:
        records.need(form)
        prepare(fn, batched)
    except UserError as error:
        if type(error) is not UserError:
            raise
        return str(error)
    except BY_USER as error:
        return f"{fn!r} cannot be set up on a worker: {told(error)}"
    return ""


def apply(fn: str, batched: bool, form: str, batch: int, payload: Any, index: int | list[int]) -> list[Any]:
    """[JSON lines of the results, as an array of bytes; [[position, a line of dead.jsonl] of each dead one]; seconds].

    batch: records that a batched function gets at once; index: of the first in the input, or of each; position: in payload;
    seconds: that it took, without the setup.
    """
    records.need(form)
    prepared = prepare(fn, batched)
    began_s = time.monotonic()
    work = _Work(fn, form, records.unpack(form, payload), index)
    if prepared.batched:
        for first in range(0, len(work.raws), batch):
            work.call_together(prepared.call, range(first, min(first + batch, len(work.raws))))
    else:
        work.call_each(prepared.call)
    work.dead.sort()
    out = b"\n".join([*work.lines, b""])
    if len(out) > records.MOST_BYTES:
        raise MemoryError  # it is halved
    return [records.as_array(out), work.dead, time.monotonic() - began_s]


apply_next = apply


class _Work:
    """The raw records of one call, and what became of them."""

    def __init__(self, fn: str, form: str, raws: list[Any], index: int | list[int]) -> None:
        self.fn = fn
        self.form = form
        self.raws = raws
        self.index = index
        self.lines: list[bytes] = []
        self.dead: list[list[Any]] = []

    def call_each(self, call: Callable[[Any], Any]) -> None:
        """Record by record."""
        read, write, lines = records.READERS[self.form], _write, self.lines
        for position, raw in enumerate(self.raws):
            record = value = _NOTHING
            try:
                record = read(raw)
                value = call(record)
                lines.append(write(value))
            except BY_USER as error:
                kind = records.UNREADABLE if record is _NOTHING else records.RAISED
                self._bury(position, kind if value is _NOTHING else records.RESULT, error)

    def call_together(self, call: Callable[[Any], Any], positions: range) -> None:
        """These at once; when that raises, one by one."""
        read, there, batch = records.READERS[self.form], [], []
        for position in positions:
            try:
                batch.append(read(self.raws[position]))
                there.append(position)
            except BY_USER as error:
                self._bury(position, records.UNREADABLE, error)
        try:
            values = _same_length(call(batch), len(batch)) if batch else []
        except BY_USER:
            values = [_one_of(call, record) for record in batch]
        for position, value in zip(there, values, strict=True):
            if isinstance(value, _Raised):
                self._bury(position, records.RAISED, value.error)
                continue
            try:
                self.lines.append(_write(value))
            except BY_USER as error:
                self._bury(position, records.RESULT, error)

    def _bury(self, position: int, kind: str, error: BaseException) -> None:
        index = self.index + position if isinstance(self.index, int) else self.index[position]
        line = records.dead_line(self.fn, self.form, self.raws[position], index, kind, told(error))
        self.dead.append([position, line])


class _Raised:
    """In place of a result."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _one_of(call: Callable[[Any], Any], record: Any) -> Any:
    try:
        return _same_length(call([record]), 1)[0]
    except BY_USER as error:
        return _Raised(error)


def _same_length(values: Any, count: int) -> Sequence[Any]:
    if not hasattr(values, "__len__") or isinstance(values, (str, bytes, dict)):
        raise TypeError(f"a batched function returns a list, not a {type(values).__name__}")
    if len(values) != count:
        raise ValueError(f"the function returned {len(values)} results for {count} records")
    return list(values)


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no JSON; return plain values, such as its fields in a dict")


_write = msgspec.json.Encoder(enc_hook=_plain).encode


def told(error: BaseException) -> str:
    """What was raised, in a line, and where in the user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = not frames or frames[-1].filename.startswith(str(Path(__file__).parent))
    where = "" if ours else f" ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{type(error).__name__}: {error}"[:LONGEST] + where

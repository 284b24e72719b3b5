"""`map_records`: a function over all records of an input, to a folder, whoever dies. `plesio map` is thin over it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from plesio.batch import inputs, work
from plesio.batch.flow import Call, Flow, Stage
from plesio.batch.inputs import Input, Position
from plesio.batch.output import Header, Output
from plesio.batch.spans import cut
from plesio.core.pool import outcome
from plesio.errors import PlesioError, TaskFailed, UserError
from plesio.tasks import Client, connect
from plesio.tasks.naming import from_anywhere, name_of

BATCH, PART_RECORDS = 64, 100_000
TELL_S = 0.2  # between two tellings of progress


class Progress(msgspec.Struct, frozen=True):
    """Of a run. fraction: of the input, as far as it was read; None: nobody knows. rate: records a second, of this run.

    lacks: tags that no worker offers now, so that nothing can begin: 'gpu=1'.
    """

    records: int
    dead: int
    fraction: float | None
    rate: float
    left_s: float | None
    lacks: str = ""


class Summary(msgspec.Struct, frozen=True):
    """Of a run that is complete. records: of the input, dead ones included; resumed_from: of them, those of earlier runs."""

    records: int
    dead: int
    parts: int
    seconds: float
    rate: float
    resumed_from: int


def map_records(
    fn: str | Callable[..., Any],
    input: str | Path,
    out: str | Path,
    *,
    then: str | Callable[..., Any] | None = None,
    requires: dict[str, float] | None = None,
    then_requires: dict[str, float] | None = None,
    pool: Client | Callable[[], Client] = connect,
    format: str = "",
    batch: int = BATCH,
    batched: bool = False,
    sort_by_length: bool = False,
    restart: bool = False,
    part_records: int = PART_RECORDS,
    progress: Callable[[Progress], object] | None = None,
) -> Summary:
    """Calls fn(record) for every record of the input, and writes what it returns to out/part-*.jsonl, in the input's order.

    fn: a function or a class at the top of a module, or its name, 'package.module:name' or 'path/to/script.py:name'. A
    class is made once a worker process, its setup() called, and then its batch(records), if it has one, or itself.
    input: a file or a folder, a URL of either, '-' for stdin. format: jsonl, text, csv, parquet, files, images; '': as its
    name says. batched: fn takes a list of records and returns a list of the same length. sort_by_length: batches are of
    records of similar length. A record that fn raises for, that is none, or under which workers end is in out/dead.jsonl.
    then: a function as fn, of what fn returned, as JSON has it; what it returns is written. Its tasks are its own, and run
    while fn goes on. requires, then_requires: tags of the workers that fn, and then, are for, {'gpu': 1}.
    Called again, it goes on where it ended; with `restart` from the start. pool: a client, or what makes one when needed.
    Raises UserError, OutputFailed, TaskFailed, WireError.
    """
    if batch < 1 or part_records < 1:
        raise UserError("a batch, and a part, has at least one record")
    began_s = time.monotonic()
    source, output = inputs.find(str(input), format), Output(Path(out), part_records)
    stages = [Stage(from_anywhere(name_of(fn)), batched, source.form, requires or {})]
    if then is not None:
        stages.append(Stage(from_anywhere(name_of(then)), requires=then_requires or {}))
    elif then_requires:
        raise UserError("what a second function requires is said, but there is none; name it with --then")
    if source.fs is None and Path(out).resolve().is_relative_to(Path(source.name).resolve()):
        raise UserError(f"{out} is within the input, and would be read as a part of it; name another --out")
    output.look(_header(stages, source), restart)
    resumed_from = output.found.records
    if not output.found.ended:
        with _client(pool) as client:
            run = _Run(client, source, output, progress, began_s)
            for stage in stages:
                check(client, stage, run.tell)
            run.go(Call(tuple(stages), f"map-{_id(output)}", batch, part_records // 8), sort_by_length)
    seconds = time.monotonic() - began_s
    found = output.found
    rate = (found.records - resumed_from) / seconds
    return Summary(found.records, found.dead, found.parts, round(seconds, 3), round(rate, 1), resumed_from)


@contextlib.contextmanager
def _client(pool: Client | Callable[[], Client]) -> Iterator[Client]:
    if isinstance(pool, Client):
        yield pool
    else:
        with pool() as client:
            yield client


def _header(stages: list[Stage], source: Input) -> Header:
    first, then = stages[0], stages[1].fn if len(stages) > 1 else ""
    return Header("", first.fn, first.batched, source.name, source.format, source.fingerprint(), then)


def _id(output: Output) -> str:
    assert output.found.header is not None, "it was looked at"
    return output.found.header.id


def check(client: Client, stage: Stage, waiting: Callable[[str], object]) -> None:
    """Whether a worker can use the function, which it sets up. Raises UserError when not.

    waiting: called now and then, with the tags that no worker offers.
    """
    future = client.submit(work.CHECK, stage.fn, stage.batched, stage.form, requires=stage.requires)
    try:
        while not future.done():
            waiting(lacking(client, stage.requires))
            with contextlib.suppress(TimeoutError):
                future.exception(TELL_S)
        wrong = future.result()
    except TaskFailed as error:
        if error.kind == outcome.NOT_FOUND:
            raise UserError(error.message) from error
        raise UserError(f"{stage.fn!r} cannot be set up on a worker: {error}") from error
    except BaseException:
        future.cancel()
        raise
    if wrong:
        raise UserError(wrong)


def lacking(client: Client, requires: dict[str, float]) -> str:
    """These tags, when no worker offers them now; else ''."""
    if not requires:
        return ""
    try:
        offered = [row["tags"] for row in client.ask("workers") if row["connected"]]
    except TimeoutError:  # the pool is being started again
        return ""
    if any(all(tags.get(tag, 0.0) >= amount for tag, amount in requires.items()) for tags in offered):
        return ""
    return " ".join(f"{tag}={amount:g}" for tag, amount in requires.items())


class _Run:
    """From where an earlier one ended to the end of the input."""

    def __init__(
        self,
        client: Client,
        source: Input,
        output: Output,
        progress: Callable[[Progress], object] | None,
        began_s: float,
    ) -> None:
        self.client = client
        self.source = source
        self.output = output
        self.progress = progress
        self.began_s = began_s
        self.resumed_from = self.read = output.found.records
        self._told_s = 0.0

    def go(self, call: Call, sort_by_length: bool) -> None:
        """Until all is written. What was written stays, whatever is raised."""
        flow, output = Flow(self.client, call), self.output
        output.begin()
        try:
            flow.cancel()  # what a killed run has left in the pool
            chunks = self._chunks(call.batch)
            pieces = cut(chunks, self.resumed_from, self._position, call.batch, sort_by_length, flow.together)
            for span in flow.run(pieces):
                if span is not None:
                    output.write(span.out, span.dead, span.count, span.after)
                self.tell()
            output.end()
            self.tell(last=True)
        finally:
            output.close()
            with contextlib.suppress(PlesioError):
                flow.cancel()

    def _chunks(self, batch: int) -> Iterator[list[Any]]:
        """Raises UserError, saying where, for what cannot be read."""
        try:
            yield from self.source.read(self.output.found.next, batch)
        except PlesioError:
            raise
        except Exception as error:  # a process edge: whatever the libraries of a format raise
            raise UserError(f"{self.source.name} cannot be read behind its record {self.read}: {error}") from error

    def _position(self, records: int) -> Position:
        self.read = records
        return Position(records, self.source.offset)

    def tell(self, lacks: str = "", last: bool = False) -> None:
        """How far it is, when somebody wants to know, now and then."""
        now_s = time.monotonic()
        if self.progress is None or (now_s - self._told_s < TELL_S and not last):
            return
        self._told_s = now_s
        records, fraction = self.output.records, 1.0 if last else self.source.fraction()
        rate = (records - self.resumed_from) / (now_s - self.began_s)
        left_s = (self.read / fraction - records) / rate if fraction and rate else None
        self.progress(Progress(records, self.output.dead, fraction, rate, left_s, lacks))

"""A run's units with their batches, prepared ahead of the learner by tasks of a pool.

The ledger deals units, and a learner has the next ones before it begins them: those are prepared, at most so many at a
time. What is prepared is a copy of the data: whoever dies, the ledger alone says which unit counts. A batch that is not
there when it is needed, and that nobody has begun, is prepared here: a busy pool slows nobody below what he does alone.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from plesio.data import stage
from plesio.data.source import Source
from plesio.errors import PlesioError
from plesio.runtime import here
from plesio.tasks.naming import name_of

if TYPE_CHECKING:
    from plesio.tasks import Client, Future
    from plesio.training import Run, Unit

AHEAD = 8
PATIENCE_S = 0.05  # between two looks at who prepares what is needed now


def batches(
    run: Run,
    source: Source,
    unit_size: int,
    prepare: Callable[[list[Any], int], Any],
    *,
    client: Client | None = None,
    ahead: int = AHEAD,
    steps: int = 1,
    epochs: int | None = None,
    seed: int = 0,
    priority: int | None = None,
) -> Iterator[tuple[Unit, Any]]:
    """As `run.units(len(source), unit_size, ...)`, each unit with prepare(records, seed of the unit).

    Records are shuffled anew each epoch by `seed`, and shared out among the learners, a unit each; a resumed run goes on
    with the units that do not count yet. The seed of a unit is the same wherever and however often it is prepared.
    prepare: at the top of a module that workers can import. client: of the pool that prepares (`plesio.connect()`);
    None: nothing is prepared ahead. priority: of the preparation; default: that of the run, so that it has nobody's slot
    but a free one. ahead: units under preparation, at most. What fails there is prepared here, which
    is said once. Raises what `prepare` raises here.
    """
    told = here.pool()
    wanted = priority if priority is not None else told.priority if told is not None else 0
    feed = Feed(source, prepare, client, ahead, seed, wanted)
    try:
        for unit in run.units(len(source), unit_size, steps=steps, epochs=epochs, seed=seed):
            feed.look_ahead([unit, *run.upcoming(ahead)])
            yield unit, feed.batch(unit)
    finally:
        feed.close()


class Feed:
    """What is being prepared. Owned by one learner's loop."""

    def __init__(
        self, source: Source, prepare: Callable[[list[Any], int], Any], client: Client | None, ahead: int, seed: int,
        priority: int,
    ) -> None:  # fmt: skip
        self.source, self.prepare, self.client = source, prepare, client
        self.ahead, self.seed, self.priority = ahead, seed, priority
        self.under_way: dict[tuple[int, int], Future] = {}
        self.said = False  # that what others prepare fails

    def look_ahead(self, units: list[Unit]) -> None:
        """These come next, as far as is known; what was begun for others is not wanted any more."""
        if self.client is None:
            return
        wanted = {(unit.epoch, unit.index): unit for unit in units}
        gone = [key for key in self.under_way if key not in wanted]
        self._cancel([self.under_way.pop(key) for key in gone])
        for key, unit in wanted.items():
            if key not in self.under_way and len(self.under_way) < self.ahead:
                self.under_way[key] = self._begin(unit)

    def _begin(self, unit: Unit) -> Future:
        assert self.client is not None
        named = name_of(self.prepare)
        return self.client.submit(
            stage.FUNCTION, self.source.name, self.source.format, named, unit.samples, self.seed_of(unit),
            priority=self.priority,
        )  # fmt: skip

    def seed_of(self, unit: Unit) -> int:
        """Of the chance in this unit's preparation: the same on every machine."""
        said = f"{self.seed} {unit.epoch} {unit.index}".encode()
        return int.from_bytes(hashlib.blake2b(said, digest_size=4).digest())

    def batch(self, unit: Unit) -> Any:
        """What was prepared for it; or prepared now, where that would come sooner."""
        future = self.under_way.pop((unit.epoch, unit.index), None)
        if future is None or not self._comes(future):
            return self.prepare(self.source.__getitems__(unit.samples), self.seed_of(unit))
        return future.result()

    def _comes(self, future: Future) -> bool:
        """Has it come, or is somebody at it, whom one may wait for?"""
        assert self.client is not None
        while not future.done():
            try:
                future.exception(PATIENCE_S)
            except TimeoutError:
                if self.client.ask("task", future.name)["state"] != "leased":
                    self._cancel([future])
                    return False
        error = future.exception()
        if error is not None and not self.said:
            self.said = True
            last = str(error).strip().rpartition("\n")[2]
            print(f"plesio: what the pool was to prepare failed there, and is prepared here: {last}", file=sys.stderr)
        return error is None

    def _cancel(self, futures: list[Future]) -> None:
        assert self.client is not None
        if names := [future.name for future in futures if not future.done()]:
            self.client.cancel(names)

    def close(self) -> None:
        """Nothing more is wanted."""
        if self.client is not None:
            try:
                self._cancel(list(self.under_way.values()))
            except PlesioError:
                return  # the pool is gone, and its tasks with it

"""What a training script uses: `join`, `Run`, `Learner`, `Unit`. The same script runs alone, as plain PyTorch."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from plesio.errors import UserError
from plesio.records import Dataset

if TYPE_CHECKING:
    import torch

    from plesio.runtime.learner import LearnerEngine


class Unit:
    """A range of sample indices that the ledger deals: [start, stop) of a data epoch's shuffled order."""

    def __init__(self, epoch: int, index: int, dataset: Dataset, order: np.ndarray[Any, Any]) -> None:
        self.epoch = epoch
        self.index = index
        self.start = index * dataset.unit_size
        self.stop = min(self.start + dataset.unit_size, dataset.n_samples)
        self.samples = order[self.start : self.stop]  # int64, (stop - start,): which samples these are

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"Unit(epoch={self.epoch}, start={self.start}, stop={self.stop})"


class Learner:
    """A model in training. Alone it does nothing."""

    def __init__(self, run: Run, engine: LearnerEngine | None) -> None:
        self._run = run
        self._engine = engine

    def step(self, tokens: int = 1, loss: float | None = None) -> None:
        """Call it after `optimizer.step()`, once a step. tokens: how much the step learned from (its weight).

        loss: of this step; only shown. May wait, as the strategy wants. Raises UserError when a unit has more
        steps than `run.units(..., steps=)` says.
        """
        self._run._stepped(int(tokens), loss)

    @property
    def version(self) -> int:
        """How many rounds the model holds; in `sync`, the steps so far: where a resumed loop of its own goes on."""
        base = self._engine.book.base if self._engine is not None else None
        return base.number if base is not None else 0


class Run:
    """A run that this process takes part in, or, alone, a run of its own."""

    def __init__(self, settings: Any | None, first: bool) -> None:
        self._settings = settings
        self._engine: LearnerEngine | None = None
        self._steps_per_unit = 1
        self._steps_in_unit = 0
        self._in_unit = False
        self._dataset: Dataset | None = None
        self._seed = 0
        self._alone_next = 0  # alone: the unit after the current one, counted over all epochs
        self.first = first  # true on one learner only: for printing

    @property
    def alone(self) -> bool:
        """Was the script started without plesio?"""
        return self._settings is None

    @property
    def finished(self) -> bool:
        """Is the run over? (For loops that do not use `units`.)"""
        return self._engine is not None and self._engine.arrivals.over

    def learner(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluate: Callable[[torch.nn.Module], float] | None = None,
    ) -> Learner:
        """Takes part with this model: afterwards it holds the run's newest version. Binds `optimizer.step`.

        evaluate: model -> held-out loss; called now and then on one learner with the newest version.
        Raises UserError when the run trains another model.
        """
        if self._settings is None:
            return Learner(self, None)
        if self._engine is not None:
            raise UserError("run.learner(...) was called twice; one process is one learner")
        from plesio.runtime.learner import LearnerEngine

        self._engine = LearnerEngine(self._settings, model, optimizer, evaluate)
        self._engine.join()
        atexit.register(self._engine.leave)
        return Learner(self, self._engine)

    def units(
        self, n_samples: int, unit_size: int, *, steps: int = 1, epochs: int | None = None, seed: int = 0
    ) -> Iterator[Unit]:
        """Deals the data: units of `unit_size` samples out of `n_samples`, shuffled anew each epoch by `seed`.

        steps: optimizer steps in one unit. epochs: default 1; `plesio run --epochs` goes before it, and with
        `--until-tokens` the data is dealt again and again. Each unit goes to one learner, once an epoch.
        """
        if n_samples < 1 or unit_size < 1 or steps < 1:
            raise UserError(
                f"run.units(n_samples={n_samples}, unit_size={unit_size}, steps={steps}): each must be at least 1"
            )
        self._steps_per_unit = steps
        self._dataset, self._seed = Dataset(n_samples, unit_size, self._wanted_epochs(epochs or 1)), seed
        for epoch, index in self._deal(self._dataset):
            self._in_unit, self._steps_in_unit = True, 0
            yield Unit(epoch, index, self._dataset, _order(n_samples, seed, epoch))
            self._in_unit = False
            if self._engine is not None:
                self._engine.end_unit()

    def upcoming(self, count: int) -> list[Unit]:
        """The units that this process has next, up to so many, as far as is known: for who prepares their data.

        They may yet go elsewhere: only what `units` yields counts.
        """
        dataset = self._dataset
        if dataset is None:
            return []
        if self._engine is not None:
            known = list(itertools.islice(self._engine.participant.units, count))
        else:
            last = dataset.units * dataset.epochs
            known = [divmod(n, dataset.units) for n in range(self._alone_next, min(last, self._alone_next + count))]
        return [Unit(e, i, dataset, _order(dataset.n_samples, self._seed, e)) for e, i in known]

    def _wanted_epochs(self, own: int) -> int:
        """What the command says goes before what the script says; 0: until the token target is reached."""
        spec = self._engine.arrivals.spec if self._engine is not None else None
        if spec is None:
            return own
        return spec.epochs if spec.epochs is not None else 0 if spec.until_tokens is not None else own

    def _deal(self, dataset: Dataset) -> Iterator[tuple[int, int]]:
        if self._settings is None:
            for n in range(dataset.epochs * dataset.units):
                self._alone_next = n + 1
                yield divmod(n, dataset.units)
            return
        if self._engine is None:
            raise UserError("run.units(...) came before run.learner(...); call run.learner(model, optimizer) first")
        while (unit := self._engine.next_unit(dataset, self._steps_per_unit)) is not None:
            yield unit

    def _asked_to_leave(self) -> None:
        """SIGTERM, perhaps a preemption notice: the script ends at its next step, and leaves with its work counted."""
        if self._engine is None:
            raise SystemExit(0)
        self._engine.ask_to_leave()

    def _stepped(self, tokens: int, loss: float | None) -> None:
        self._steps_in_unit += 1
        if self._in_unit and self._steps_in_unit > self._steps_per_unit:
            raise UserError(
                f"a unit has had {self._steps_in_unit} steps, but run.units(..., steps={self._steps_per_unit}) says "
                f"{self._steps_per_unit}; tell it how many optimizer steps a unit takes"
            )
        if self._engine is not None:
            ends = self._in_unit and self._steps_in_unit == self._steps_per_unit
            self._engine.step(tokens, loss, ends)


@functools.lru_cache(2)
def _order(n_samples: int, seed: int, epoch: int) -> np.ndarray[Any, Any]:
    """Of the samples in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(n_samples)


@functools.cache
def _token() -> str:
    """Taken out of the environment, so that no process that the script starts has it in its own."""
    return os.environ.pop("PLESIO_TOKEN", "")


def join() -> Run:
    """The run that launched this script; or, when nobody did, a run alone, which starts no process and no socket."""
    address = os.environ.get("PLESIO_COORDINATOR")
    if not address:
        return Run(None, first=True)
    from plesio.runtime.participant import Settings
    from plesio.wire.tls import from_environment

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher, which stops everybody in order
    host, _, port = address.rpartition(":")
    token = _token()
    name = os.environ["PLESIO_NAME"]
    settings = Settings(
        (host, int(port)), token, name, os.environ["PLESIO_INCARNATION"], float(os.environ.get("PLESIO_SLOWDOWN", "1")),
        from_environment(),
    )  # fmt: skip
    run = Run(settings, first=name == "learner-0")
    signal.signal(signal.SIGTERM, lambda signum, frame: run._asked_to_leave())
    return run

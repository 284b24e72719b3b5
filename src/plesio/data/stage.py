"""The task that prepares a unit's batch: on any slot of a pool, from the source and the numbers of its samples alone.

The same unit gives the same batch wherever it runs, and however often: chance comes from `seed`, which names the unit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from plesio.data.source import Source, open_source
from plesio.runtime.functions import Functions

FUNCTION = "plesio.data.stage:prepare_unit"
SOURCES = 8  # open at once in a process
Prepare = Callable[[list[Any], int], Any]

_functions = Functions()


@functools.lru_cache(SOURCES)
def _source(name: str, format: str) -> Source:
    return open_source(name, format)


def prepare_unit(name: str, format: str, prepare: str, samples: Iterable[int], seed: int) -> Any:
    """prepare(records, seed) of these samples. prepare: named as tasks' functions are. Raises what it raises."""
    return _functions.get(prepare)(_source(name, format).__getitems__(samples), seed)

"""Names to classes, loaded only when asked for, so that `import plesio` stays light.

A new codec, strategy, policy, store or launcher is one file and one line here. Codecs may also come from other installed
packages: their entry points are looked at, once, when a name is not known here.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from typing import TYPE_CHECKING, Any

from plesio.errors import UnknownName, UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUPS = {"codec": "plesio.codecs"}  # of entry points, by kind

CODECS: dict[str, str] = {
    "none": "plesio.codecs.cast:Identity",
    "bf16": "plesio.codecs.cast:Bf16",
    "fp16": "plesio.codecs.cast:Fp16",
    "int8": "plesio.codecs.int8:Int8",
    "int4": "plesio.codecs.int4:Int4",
    "int2": "plesio.codecs.int2:Int2",
    "nf4": "plesio.codecs.nf4:NF4",
    "codebook": "plesio.codecs.codebook:Codebook",
    "sign": "plesio.codecs.sign:Sign",
    "topk": "plesio.codecs.topk:TopK",
    "randomk": "plesio.codecs.randomk:RandomK",
    "powersgd": "plesio.codecs.powersgd:PowerSGD",
}

STAGES = CODECS | {"pieces": "plesio.codecs.pieces:Pieces"}  # what packets name

STRATEGIES: dict[str, str] = {
    "sync": "plesio.strategies.presets:Sync",
    "async": "plesio.strategies.presets:Async",
    "localsgd": "plesio.strategies.presets:LocalSGD",
    "diloco": "plesio.strategies.presets:DiLoCo",
    "decoupled": "plesio.strategies.presets:Decoupled",
}

STORES: dict[str, str] = {
    "memory": "plesio.stores.memory:MemoryStore",
    "sqlite": "plesio.stores.sqlite:SqliteStore",
}

ORDERS: dict[str, str] = {
    "fifo": "plesio.policies.fifo:Fifo",
    "priority": "plesio.policies.priority:Priority",
    "aging": "plesio.policies.aging:Aging",
}

PLACEMENTS: dict[str, str] = {
    "least-loaded": "plesio.policies.least_loaded:LeastLoaded",
    "power-of-two": "plesio.policies.power_of_two:PowerOfTwo",
    "rate-aware": "plesio.policies.rate_aware:RateAware",
}

LAUNCHERS: dict[str, str] = {
    "local": "plesio.launchers.local:LocalLauncher",
}


def check(table: dict[str, str], kind: str, name: str) -> None:
    """Raises UnknownName with the nearest known name, if this one is not registered. Loads nothing."""
    if name not in table and name not in _others(kind):
        known = {*table, *_others(kind)}
        close = difflib.get_close_matches(name, known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known))}"
        raise UnknownName(f"{kind} {name!r} is unknown; {mend}")


def load(table: dict[str, str], kind: str, name: str) -> Any:
    """The object registered as `name`. Raises UnknownName with the nearest known name; UserError for a broken package."""
    check(table, kind, name)
    if name not in table:
        return _loaded(kind, name, _others(kind)[name])
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@functools.cache
def _others(kind: str) -> dict[str, list[EntryPoint]]:
    """What other installed packages have, by name."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUPS[kind]) if kind in GROUPS else ():
        found.setdefault(entry.name, []).append(entry)
    return found


def _loaded(kind: str, name: str, entries: list[EntryPoint]) -> Any:
    packages = [entry.dist.name if entry.dist else entry.value for entry in entries]
    if len(entries) > 1:
        raise UserError(f"{kind} {name!r} is in the packages {' and '.join(sorted(packages))}; uninstall all but one")
    try:
        found = entries[0].load()
    except Exception as error:  # another's code
        raise UserError(
            f"{kind} {name!r} of the package {packages[0]!r} cannot be loaded: {error!r}; mend it or uninstall it"
        ) from error
    if getattr(found, "name", None) != name:
        raise UserError(
            f"the package {packages[0]!r} registers {entries[0].value} as {kind} {name!r}, which has not that `name`"
        )
    return found

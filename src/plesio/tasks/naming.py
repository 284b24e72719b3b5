"""Functions by import path, and what a task is asked to be beside its arguments."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from plesio.core.pool.recipe import DEFAULT_QUEUE, Recipe
from plesio.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


class Options(msgspec.Struct, frozen=True):
    """See Client.submit."""

    queue: str = DEFAULT_QUEUE
    priority: int = 0
    timeout_s: float = 0.0
    retries: int = 0
    requires: tuple[tuple[str, float], ...] = ()
    yields_s: float = 0.0


def task(
    *,
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
    timeout_s: float = 0.0,
    retries: int = 0,
    requires: dict[str, float] | None = None,
    yields_s: float = 0.0,
    run: Literal["process", "thread"] = "process",
) -> Callable[[F], F]:
    """A function that says how its tasks are run; called, it is the plain function.

    run: 'thread': many calls at a time in threads of one process, for functions that wait. Coroutines always may.
    The rest: see Client.submit, where it may be said otherwise.
    """
    options = Options(queue, priority, timeout_s, retries, tuple(sorted((requires or {}).items())), yields_s)

    def mark(function: F) -> F:
        function.__plesio_options__ = options  # type: ignore[attr-defined]
        function.__plesio_run__ = run  # type: ignore[attr-defined]
        return function

    return mark


def name_of(function: str | Callable[..., Any]) -> str:
    """'package.module:name', or 'path/to/script.py:name' for one of the script that runs. Raises UserError."""
    if isinstance(function, str):
        module, _, path = function.rpartition(":")
        if not module or not path:
            raise UserError(f"{function!r} names no function; give package.module:function")
        return function
    return _name(function)


def from_anywhere(name: str) -> str:
    """A script that is here is named so that it is found from any folder of a machine that has it there."""
    module, colon, path = name.rpartition(":")
    if module.endswith(".py") and Path(module).is_file():
        return f"{Path(module).resolve()}{colon}{path}"
    return name


@functools.lru_cache(maxsize=1024)
def _name(function: Callable[..., Any]) -> str:
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or not path or "<" in path:
        shown = path or type(function).__name__
        raise UserError(
            f"{shown} cannot be sent to a worker: it is made while the program runs; define it at the top of a module"
        )
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        if file is None:
            raise UserError(f"{path} is defined in an interactive session; put it into a file that workers can import")
        return f"{Path(file).resolve()}:{path}"
    return f"{module}:{path}"


def recipe_of(function: str | Callable[..., Any], changes: dict[str, Any]) -> Recipe:
    """What its tasks have in common. Raises UserError."""
    options = getattr(function, "__plesio_options__", None) or Options()
    said = {key: value for key, value in changes.items() if value is not None}
    if "requires" in said:
        said["requires"] = tuple(sorted((str(tag), float(amount)) for tag, amount in said["requires"].items()))
    if said:
        options = msgspec.structs.replace(options, **said)
    if options.timeout_s < 0 or options.retries < 0 or options.yields_s < 0:
        raise UserError("timeout_s, retries and yields_s are not negative")
    return Recipe(
        name_of(function), options.queue, options.priority, float(options.timeout_s), options.retries, options.requires,
        float(options.yields_s),
    )  # fmt: skip

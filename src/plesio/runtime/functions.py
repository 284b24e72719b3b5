"""From a function's name to the function: 'package.module:name' or 'path/to/script.py:name'. Imported once a process."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from plesio.errors import UserError


class NotImportable(UserError):
    """The function cannot be imported on this worker."""


class Functions:
    """Those that were asked for so far. Owned by one process."""

    def __init__(self) -> None:
        self._known: dict[str, Callable[..., Any]] = {}

    def get(self, name: str) -> Callable[..., Any]:
        """The function. Raises NotImportable, saying what is missing."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _load(name)
        return known

    def is_concurrent(self, name: str) -> bool:
        """A coroutine function, or one that is for threads. Raises NotImportable."""
        function = self.get(name)
        return getattr(function, "__plesio_run__", "") == "thread" or inspect.iscoroutinefunction(function)


def _load(name: str) -> Callable[..., Any]:
    module_name, _, path = name.rpartition(":")
    if not module_name or not path:
        raise NotImportable(f"{name!r} names no function; give package.module:function")
    try:
        with _whole():
            found: Any = _script(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # an import runs anybody's code
        raise NotImportable(
            f"{name!r} cannot be imported on this worker ({type(error).__name__}: {error}); "
            "install it there, or start the worker in the folder where it is"
        ) from error
    if not callable(found):
        raise NotImportable(f"{name!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    """A task is not stopped while it imports: half a module stays, and no later task of this process could use it.

    Signals are held back here, not by the system: it would hand them to another thread, and Python to this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # nothing is raised there
        return
    came: list[int] = []
    try:
        with _held(signal.SIGUSR1, came), _held(signal.SIGALRM, came):
            yield
    finally:
        for one in came:
            signal.raise_signal(one)


@contextlib.contextmanager
def _held(number: int, came: list[int]) -> Iterator[None]:
    """That signal is put down in `came`. Whenever another one raises something, the handler from before comes back."""
    old = signal.getsignal(number)

    def hold(number: int, _: FrameType | None) -> None:
        came.append(number)

    try:
        signal.signal(number, hold)
        yield
    finally:
        if signal.getsignal(number) is hold:  # what is imported may have one of its own
            signal.signal(number, old)


def _script(path: str) -> Any:
    """A script as a module, as if imported: its `if __name__ == "__main__"` part does not run."""
    file = Path(path).resolve()
    name = f"plesio_script_{file.stem}"
    module = sys.modules.get(name)
    if module is None or getattr(module, "__file__", "") != str(file):
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(file.parent))
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def told(error: BaseException) -> str:
    """What a function raised and where, without our own frames."""
    trace, ours = error.__traceback__, str(Path(__file__).parent)
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()

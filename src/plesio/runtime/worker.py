"""One background thread for work in order. Unlike an executor's, it still works while the interpreter is exiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class Worker:
    """Owns a daemon thread. Work must not raise: it reports its own errors."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[..., None], *args: Any) -> None:
        """Does it after all that was submitted before."""
        self._work.put((work, args))

    def wait(self) -> None:
        """Returns when all that was submitted is done."""
        done = threading.Event()
        self.submit(done.set)
        done.wait()

    def stop(self) -> None:
        """Ends the thread after what was submitted."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            item[0](*item[1])

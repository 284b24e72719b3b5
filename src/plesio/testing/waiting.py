"""What every test with real processes needs: a bounded wait, and ports that are free."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

POLL_S = 0.02
FIRST_PORT, PORTS = 10_000, 10_000  # not those that systems give to connections, nor a pool to its runs
_PAIR = itertools.count(os.getpid() * 100)  # processes that ask at the same time ask for others


class Hung(Exception):
    """What was waited for did not happen."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 150.0) -> Any:
    """The first true value. Raises Hung."""
    until_s = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until_s:
            raise Hung(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_S)
    return found


def free_port() -> int:
    """A port whose successor is free too, and which nobody is given by chance before it is used."""
    while True:
        port = FIRST_PORT + 2 * next(_PAIR) % PORTS
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@contextmanager
def kept_port() -> Iterator[int]:
    """A port that nobody else is given meanwhile; a server that allows SO_REUSEADDR, as ours do, may listen there."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield int(kept.getsockname()[1])

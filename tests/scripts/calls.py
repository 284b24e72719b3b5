"""Functions for tests of tasks."""

import os
import signal
import time
from pathlib import Path


def add(a, b=0):
    return a + b


def same(x):
    return x


def nap(seconds):
    time.sleep(seconds)
    return seconds


def boom(text="no"):
    raise ValueError(text)


def leave(code=3):
    os._exit(code)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def eat(megabytes):
    held = bytearray(megabytes << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(30)


def unsendable():
    return object()


def note(path, line, seconds=0.0):
    """An effect that a test can count: one line, in one write."""
    time.sleep(seconds)
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
    return line


def once(path):
    """Fails the first time, for each path."""
    file = Path(path)
    if not file.exists():
        file.touch()
        raise RuntimeError("the first time")
    return "the second time"

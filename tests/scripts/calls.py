"""Functions for tests of tasks."""

import asyncio
import os
import signal
import time
from pathlib import Path

import plesio


def add(a, b=0):
    return a + b


def same(x):
    return x


def nap(seconds):
    time.sleep(seconds)
    return seconds


def passes(gate=""):
    """Waits for that file; for none it has no time to be slow in."""
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    return gate


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


async def doze(seconds):
    await asyncio.sleep(seconds)
    return seconds


async def late():
    raise TimeoutError("its own words")


async def aboom():
    raise ValueError("in a coroutine")


def arrived(folder, i, count):
    """Are they all here?"""
    (Path(folder) / str(i)).touch()
    return len(os.listdir(folder)) >= count


async def meet(folder, i, count):
    """Ends when so many calls are under way at once."""
    while not arrived(folder, i, count):
        await asyncio.sleep(0.01)
    return i


@plesio.task(run="thread")
def meet_in_threads(folder, i, count):
    while not arrived(folder, i, count):
        time.sleep(0.01)
    return i

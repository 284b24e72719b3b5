"""Functions for tests of `plesio map`."""

import os
import signal
import time
from pathlib import Path


def double(record):
    return {"id": record["id"], "twice": 2 * record["id"]}


def same(record):
    return record


def slow(record):
    time.sleep(0.002)
    return double(record)


def picky(record):
    """Some raise, some return what is no JSON."""
    if record["id"] % 10 == 3:
        raise ValueError(f"{record['id']} is not to my taste")
    return object() if record["id"] % 10 == 7 else record["id"]


def deadly(record):
    """One takes its process down."""
    if record["id"] == 37:
        os.kill(os.getpid(), signal.SIGSEGV)
    return record["id"]


def leaves(record):
    raise SystemExit(record["id"])


async def later(record):
    return record


def all_at_once(records):
    if any(record["id"] == 13 for record in records):
        raise ValueError("13 is among them")
    return [record["id"] for record in records]


def too_few(records):
    return records[1:]


def file_size(record):
    return [record["path"], len(record["data"])]


def image_shape(record):
    """Of one of the colours, with which process has decoded it."""
    return [record["path"], list(record["image"].shape), record["image"][0, 0].tolist(), os.getpid()]


def held(record):
    """The records from the tenth on wait for a file, which is named in each."""
    while record["id"] >= 10 and not Path(record["gate"]).exists():
        time.sleep(0.01)
    return record["id"]


def halve(doubled):
    """What `double` returned, undone; with some that raise, and one that takes its process down."""
    if doubled["id"] % 10 == 7:
        raise ValueError(f"{doubled['twice']} is not to my taste")
    if doubled["id"] == 41:
        os.kill(os.getpid(), signal.SIGSEGV)
    return [doubled["id"], doubled["twice"] // 2]


def label(doubled):
    time.sleep(0.001)
    return f"{doubled['id']} is half of {doubled['twice']}"


def held_here(record):
    """As `held`; with where."""
    return [held(record), record["gate"], os.getpid()]


def opens(held):
    """Of what `held_here` returned; from the sixth on it opens the gate."""
    number, gate, where = held
    if number >= 5:
        Path(gate).touch()
    return [number, where, os.getpid()]


class Model:
    """Says, in the folder it runs in, that it was set up."""

    def setup(self):
        with Path("setups").open("a") as file:
            file.write(f"{os.getpid()}\n")

    def batch(self, records):
        return [(record["id"], len(records)) for record in records]


class Callable:
    def __call__(self, record):
        return record["id"]


class Broken:
    def setup(self):
        raise RuntimeError("no such weights")


class Neither:
    pass

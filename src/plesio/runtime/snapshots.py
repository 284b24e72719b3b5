"""Snapshot files: temporary file, fsync, rename, fsync of the folder; then, and only then, the fact."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import msgspec

from plesio.errors import StoreError

_NAME = re.compile(r"snapshot-(\d+)-(\d+)\.safetensors")


class Keep(msgspec.Struct, frozen=True):
    """Which committed snapshots stay: the `last`, and of the older ones the first of `every` so many rounds, thinned
    out to at most `older`: the disk that a run needs does not grow with its length."""

    last: int = 3
    every: int = 10
    older: int = 5


DEFAULT = Keep()


def write(folder: Path, name: str, data: bytes) -> None:
    """Atomic and durable. Raises StoreError naming the file when the disk will not take it."""
    target, temporary = folder / name, folder / (name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {target}: {error.strerror}; free some space or make it writable") from error


def number_of(name: str) -> tuple[int, int] | None:
    """(version's number, lineage) of a snapshot's file name; None: it is another file."""
    found = _NAME.fullmatch(name)
    return (int(found[2]), int(found[1])) if found else None


def clean(folder: Path, committed: str) -> None:
    """On start: deletes what a crash left, half-written files and snapshots that were never committed."""
    for half in (*folder.glob("snapshot-*.tmp"), *folder.glob("model.safetensors.tmp")):
        half.unlink(missing_ok=True)
    newest = number_of(committed)
    for number, name in _found(folder):
        if newest is not None and number[0] >= newest[0] and name != committed:
            (folder / name).unlink(missing_ok=True)


def prune(folder: Path, committed: str, keep: Keep) -> None:
    """Deletes old snapshots. Never the committed one, nor a newer one, which may be about to be committed."""
    newest = number_of(committed)
    if newest is None:
        return
    older = [(number, name) for number, name in _found(folder) if number <= newest]
    kept = chosen([number[0] for number, _ in older], keep)
    for number, name in older:
        if number[0] not in kept and name != committed:
            (folder / name).unlink(missing_ok=True)


def chosen(numbers: list[int], keep: Keep) -> set[int]:
    """Which versions stay: the last ones, and of the older ones the first of every so many rounds.

    When these become too many they thin out: the first of twice as many rounds, and so on. Pure.
    """
    ordered = sorted(set(numbers))
    last, older = ordered[-keep.last :], ordered[: -keep.last]
    width = keep.every
    while True:
        firsts: dict[int, int] = {}
        for number in older:
            firsts.setdefault(number // width, number)
        if len(firsts) <= keep.older:
            return {*last, *firsts.values()}
        width *= 2


def _found(folder: Path) -> list[tuple[tuple[int, int], str]]:
    named = ((number_of(path.name), path.name) for path in folder.glob("snapshot-*.safetensors"))
    return sorted((number, name) for number, name in named if number is not None)

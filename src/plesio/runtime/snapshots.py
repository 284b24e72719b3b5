"""Snapshot files: temporary file, fsync, rename, fsync of the folder; then, and only then, the fact."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from plesio.errors import StoreError

KEEP = 3


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


def prune(folder: Path, committed: str) -> None:
    """Deletes leftovers of a crash and all but the newest few; never the committed one."""
    for orphan in folder.glob("snapshot-*.tmp"):
        orphan.unlink(missing_ok=True)
    files = sorted(folder.glob("snapshot-*.safetensors"), key=lambda p: p.stat().st_mtime)
    for old in files[:-KEEP]:
        if old.name != committed:
            old.unlink(missing_ok=True)

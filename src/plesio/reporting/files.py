"""Writing the files that are to be read: a line at an end, or a whole file, wholly or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def append(path: Path, data: bytes) -> int:
    """At the file's end, all or nothing; returns its size in bytes. Raises OSError when the disk will not take it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(file).st_size
        try:
            written = os.write(file, data)
            while written < len(data):  # a disk that is full takes a part first, and says so at the next attempt
                written += os.write(file, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, before)
            raise
        return before + len(data)
    finally:
        os.close(file)


def replace(path: Path, content: bytes) -> None:
    """No reader, and no crash, sees half of it. Raises OSError, leaving the older file, when the disk will not take it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise

"""Logs of processes stay small: one that is large becomes the older one, `<log>.1`, of which there is one.

At a process's start by a rename. Later by copying and cutting, because the file descriptor is the process's own, and
shared with whatever it forked: what it writes between the last look and the cut, microseconds apart, is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

LIMIT_BYTES = 16 << 20
LOOK_S = 5.0
_COPY_BYTES = 1 << 20


def rotate(log: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Before a process opens it: a large log becomes the older one."""
    with contextlib.suppress(OSError):  # a log that cannot be rotated is still a log
        if log.stat().st_size > limit_bytes:
            log.replace(_older(log))


def cut(log: Path, limit_bytes: int = LIMIT_BYTES) -> bool:
    """While processes append to it (O_APPEND): a large log is copied to the older one and emptied. Was it?"""
    if log.stat().st_size <= limit_bytes:
        return False
    temporary = log.with_name(log.name + ".tmp")
    try:
        with log.open("r+b", buffering=0) as source, temporary.open("wb", buffering=0) as target:
            source.seek(max(0, log.stat().st_size - 2 * limit_bytes))  # of a flood, the newest
            while chunk := source.read(_COPY_BYTES):
                target.write(chunk)
            os.ftruncate(source.fileno(), 0)
        temporary.replace(_older(log))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return True


async def keep_small(folder: Path, limit_bytes: int = LIMIT_BYTES, look_s: float = LOOK_S) -> None:
    """Until cancelled: cuts the logs in a folder. A full disk is no reason to stop a run: it is tried again."""
    while True:
        await asyncio.sleep(look_s)
        for log in folder.glob("*.log"):
            with contextlib.suppress(OSError):
                if log.stat().st_size > limit_bytes:
                    await asyncio.to_thread(cut, log, limit_bytes)


def last_line(log: Path) -> str:
    """What its process said last; '' when there is nothing to read."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def _older(log: Path) -> Path:
    return log.with_name(log.name + ".1")

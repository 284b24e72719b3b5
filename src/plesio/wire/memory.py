"""Memory for what is received: not touched before its bytes arrive, so that what a peer announces costs nothing yet."""

from __future__ import annotations

import mmap

MAPPED_BYTES = 1 << 20
KEPT = 2  # blocks that nobody uses, beside the one that is given


def fresh(size_bytes: int) -> memoryview:
    """Writable memory of its own. Large ones are mapped."""
    return memoryview(_mapped(size_bytes) if size_bytes >= MAPPED_BYTES else bytearray(size_bytes))


def _mapped(size_bytes: int) -> mmap.mmap:
    """Private, whose pages are far cheaper than shared ones, and huge where there are such."""
    block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


class Recycler:
    """Gives large memory that nobody uses any more again, with its pages: to touch pages for the first time costs as
    much as to receive what they hold, and the messages of a run have one size most of the time.

    Owned by one thread; what it gives may be used by any. When it gives memory, it lets go of what nobody uses, but
    for KEPT blocks of that size.
    """

    def __init__(self) -> None:
        self._given: list[mmap.mmap] = []

    def get(self, size_bytes: int) -> memoryview:
        """Writable memory, with anything in it. Given again when no view of it is left, nor of its parts."""
        if size_bytes < MAPPED_BYTES:
            return fresh(size_bytes)
        used, unused = [], []
        for block in self._given:
            if not _unused(block):
                used.append(block)
            elif len(block) == size_bytes:
                unused.append(block)
        block = unused.pop() if unused else _mapped(size_bytes)
        self._given = [*unused[:KEPT], *used, block]
        return memoryview(block)


def _unused(block: mmap.mmap) -> bool:
    """Is there no view of it? (To a mapping with views, Python refuses another size, even the same one.)"""
    try:
        block.resize(len(block))
    except (BufferError, SystemError, OSError):
        return False
    return True

"""Large buffers beside the message: segments, files in a folder that processes of one machine share.

A segment holds the large buffers of one value. Its writer writes it once, its readers map it privately, without a
copy; a page that a reader writes to becomes that reader's own. The folder is on tmpfs, or on a disk whose page cache
then does the same. Other machines cannot read segments: for them a value is encoded without.

Whose a segment is: its writer's, until `settle` says that a task which names it is journaled; then whoever owns the
task drops it. `sweep` deletes what no task names, after any crash, and needs no deadline to know: writer and readers hold
a lock on the file while they live, which the kernel lets go with them.

A dropped segment's file is used again for the next of its size, once no mapping of it is left: the pages of a new file cost
twice the time of the copy. A segment needs no temporary name: its name is random, and told to nobody before it is complete.
Contents are not verified: who may write to the folder is this user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from plesio.errors import SegmentGone, UserError, ValueRefused

THRESHOLD_BYTES = 1 << 20
ALIGNMENT = 64
KEPT_SHARE = 1 / 4  # of the limit: what dropped segments' files, kept for use again, may hold
_HEX = frozenset("0123456789abcdef")
_COUNT = struct.Struct("<q")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Shares:
    """The segments in one folder, as one process uses them; many do at once, and threads too.

    limit_bytes: of all segments in the folder, whoever wrote them, those kept for use again included. Only mappings
    of segments that were dropped meanwhile come on top.
    threshold_bytes: smaller buffers stay in the message.
    fallbacks: values of this process that stayed in their message because there was no room.
    """

    def __init__(self, folder: Path | str, limit_bytes: int, threshold_bytes: int = THRESHOLD_BYTES) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self.threshold_bytes = threshold_bytes
        self.fallbacks = 0
        self._free = self.folder / "free"  # files to use again: <size>-<name>
        self._held: dict[str, int] = {}  # descriptors of segments that this process wrote and nobody else answers for

    def put(self, buffers: Sequence[memoryview]) -> tuple[str, list[int]] | None:
        """Writes a segment of these buffers (of bytes, contiguous); its name, and the offset of each in it.

        None: there is no room. Raises UserError when the folder cannot be used.
        """
        offsets, size = [], 0
        for buffer in buffers:
            offsets.append(size)
            size += len(buffer) + -len(buffer) % ALIGNMENT
        name = os.urandom(16).hex()
        try:
            descriptor = self._make(name, _size_class(size))
            if descriptor is None:
                self.fallbacks += 1
                return None
            self._held[name] = descriptor
            for offset, buffer in zip(offsets, buffers, strict=True):
                _write(descriptor, buffer, offset)
        except OSError as error:
            self._discard(name)
            if error.errno not in _NO_ROOM:
                raise UserError(f"segments cannot be written to {self.folder}: {error}; see who owns it") from error
            self.fallbacks += 1
            return None
        return name, offsets

    def open(self, name: str) -> memoryview:
        """The whole segment, privately mapped: writable, and nobody else sees what is written.

        The mapping lives as long as any view of it, whoever drops the segment, and keeps one file open.
        Raises SegmentGone when it was dropped, ValueRefused for what is no segment, UserError when this process has too
        many open.
        """
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | _OPEN)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_ino != os.stat(path, follow_symlinks=False).st_ino:
                    raise FileNotFoundError(errno.ENOENT, "it was dropped meanwhile")
                return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))  # it keeps the lock
            finally:
                os.close(descriptor)
        except (FileNotFoundError, BlockingIOError) as error:
            raise SegmentGone(f"segment {name} is gone from {self.folder}; compute the value again") from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                mend = "let go of some results, or allow more open files (ulimit -n)"
                raise UserError(f"segment {name} cannot be mapped: {error}; {mend}") from error
            raise ValueRefused(f"segment {name} in {self.folder} cannot be read: {error}") from error

    def settle(self, names: Collection[str]) -> None:
        """The task that names these is journaled: from now on they outlive this process. Idempotent."""
        for name in names:
            if (descriptor := self._held.pop(name, None)) is not None:
                os.close(descriptor)

    def drop(self, names: Collection[str]) -> None:
        """Nobody will open these again; mappings stay. Idempotent. Raises ValueRefused for what is not a name."""
        paths = [self._path(name) for name in names]
        self.settle(names)
        if not paths:
            return
        with self._ledger() as ledger:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self._recycle(path, ledger)

    def sweep(self, keep: Collection[str]) -> int:
        """Deletes segments that are not in `keep` and that no living process writes, has written or reads. How many.

        `keep`: those that live tasks name; no task may be accepted between its taking and the end of this. Also counts the
        folder's bytes anew.
        """
        swept = 0
        with self._ledger() as ledger:
            used = sum(entry.stat().st_size for entry in os.scandir(self._free))
            for entry in list(os.scandir(self.folder)):
                if not _is_name(entry.name):
                    continue
                if entry.name not in keep and not _in_use(entry.path):
                    os.unlink(entry.path)
                    swept += 1
                else:
                    used += entry.stat(follow_symlinks=False).st_size
            ledger.used_bytes = used
        return swept

    def used_bytes(self) -> int:
        """Of all segments in the folder, those kept for use again included."""
        with self._ledger() as ledger:
            return ledger.used_bytes

    def close(self) -> None:
        """Lets go of what was never settled: the next sweep deletes it. Mappings stay. Idempotent."""
        self.settle(list(self._held))

    def _path(self, name: str) -> Path:
        if not _is_name(name):
            raise ValueRefused(f"{name[:40]!r} is not the name of a segment")
        return self.folder / name

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[_Ledger]:
        """Alone among all processes: names and sizes change within it only. Makes the folder. Held for microseconds."""
        path = self.folder / "ledger"
        try:
            descriptor = os.open(path, os.O_RDWR | _OPEN)
        except FileNotFoundError:
            self._free.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self.folder, 0o700)  # refused, as it must be, when the folder is another user's
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
        try:
            if {os.geteuid()} != {os.fstat(descriptor).st_uid, os.stat(self.folder).st_uid}:
                raise PermissionError(errno.EPERM, "another user made it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            count = os.pread(descriptor, _COUNT.size, 0)
            before = _COUNT.unpack(count)[0] if len(count) == _COUNT.size else 0
            ledger = _Ledger(before)
            try:
                yield ledger
            finally:
                if ledger.used_bytes != before:
                    os.pwrite(descriptor, _COUNT.pack(ledger.used_bytes), 0)
        finally:
            os.close(descriptor)

    def _make(self, name: str, size: int) -> int | None:
        """The descriptor of a file of that size, locked, used again or new; None: no room."""
        with self._ledger() as ledger:
            path = self.folder / name
            kept = list(os.scandir(self._free))
            for entry in kept:
                if _kept_size(entry.name) == size and not _in_use(entry.path):
                    os.rename(entry.path, path)
                    return _locked(path, os.O_RDWR)
            for entry in kept:
                if ledger.used_bytes + size <= self.limit_bytes:
                    break
                os.unlink(entry.path)
                ledger.used_bytes -= _kept_size(entry.name)
            if ledger.used_bytes + size > self.limit_bytes:
                return None
            descriptor = _locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.ftruncate(descriptor, size)
            ledger.used_bytes += size
            return descriptor

    def _recycle(self, path: Path, ledger: _Ledger) -> None:
        """Keeps the file for use again, or deletes it when enough are kept."""
        size = os.stat(path, follow_symlinks=False).st_size
        kept = {entry.path: _kept_size(entry.name) for entry in os.scandir(self._free)}
        if sum(kept.values()) + size > self.limit_bytes * KEPT_SHARE:
            for other in [other for other in kept if _in_use(other)]:
                os.unlink(other)
                ledger.used_bytes -= kept.pop(other)
        if sum(kept.values()) + size > self.limit_bytes * KEPT_SHARE:
            os.unlink(path)
            ledger.used_bytes -= size
        else:
            os.rename(path, self._free / f"{size}-{path.name}")

    def _discard(self, name: str) -> None:
        self.settle([name])
        with contextlib.suppress(OSError), self._ledger() as ledger:
            size = os.stat(self.folder / name).st_size
            os.unlink(self.folder / name)
            ledger.used_bytes -= size


class _Ledger:
    """What the folder's ledger says, as long as it is locked."""

    def __init__(self, used_bytes: int) -> None:
        self.used_bytes = used_bytes  # of all segments in the folder


def _is_name(name: str) -> bool:
    return len(name) == 32 and _HEX.issuperset(name)


def _size_class(size: int) -> int:
    """The size of the file: in eight steps from a power of two to the next, so that it fits more often again."""
    step = max(mmap.PAGESIZE, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def _kept_size(name: str) -> int:
    return int(name.partition("-")[0])


def _in_use(path: str) -> bool:
    """Does a living process write, map, or answer for this file?"""
    descriptor = os.open(path, os.O_RDONLY | _OPEN)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | _OPEN, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def _write(descriptor: int, buffer: memoryview, offset: int) -> None:
    """A write, not a copy to a mapping: the page faults of that cost more than the bytes."""
    while buffer:
        written = os.pwrite(descriptor, buffer, offset)
        buffer, offset = buffer[written:], offset + written

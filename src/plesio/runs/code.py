"""A working directory as one file, named by its digest, and back: the script of a run goes where its learners are.

What git would not add stays here; so do hidden folders, environments and runs. It is unpacked once per machine, never over
what is there, and nothing leaves its folder: only plain files with relative names.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from plesio.errors import UserError, WireError

MOST_BYTES = 64 << 20
MOST_FILES = 20_000
LEFT_OUT = ("__pycache__", "node_modules")
DIGEST = re.compile(r"[0-9a-f]{64}")


def pack(folder: Path) -> tuple[str, bytes]:
    """(digest, file): the same for the same files, whenever they were written. Raises UserError."""
    buffer, total = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for count, path in enumerate(sorted(_files(folder)), 1):
            total += path.stat().st_size
            if total > MOST_BYTES or count > MOST_FILES:
                raise UserError(
                    f"{folder} has more than {MOST_BYTES >> 20} MiB or {MOST_FILES} files ({path.relative_to(folder)} is "
                    "one too many); start the run in the folder of its code, keep data elsewhere, or list it in .gitignore"
                )
            archive.addfile(*_member(folder, path))
    data = buffer.getvalue()
    return hashlib.sha256(data).hexdigest(), data


def _member(folder: Path, path: Path) -> tuple[tarfile.TarInfo, io.BytesIO]:
    content = path.read_bytes()
    info = tarfile.TarInfo(path.relative_to(folder).as_posix())
    info.size, info.mode = len(content), 0o755 if os.access(path, os.X_OK) else 0o644
    return info, io.BytesIO(content)


def _files(folder: Path) -> Iterator[Path]:
    listed = _known_to_git(folder)
    for path in _walk(folder) if listed is None else listed:
        if path.is_file() and not path.is_symlink():
            yield path


def _known_to_git(folder: Path) -> list[Path] | None:
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        said = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [folder / os.fsdecode(name) for name in said.split(b"\0") if name]


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if not _is_left_out(here / name) and here / name != folder / "runs"]
        yield from (here / name for name in files if not name.startswith(".") and not name.endswith(".pyc"))


def _is_left_out(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in LEFT_OUT or (folder / "pyvenv.cfg").exists()


def unpacked(digest: str, shelf: Path, fetch: Callable[[str], bytes]) -> Path:
    """The folder with these files; the first who wants it on this machine fetches it. Raises WireError, UserError."""
    check(digest)
    target = shelf / digest
    if target.is_dir():
        return target
    shelf.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = fetch(digest)
    if hashlib.sha256(data).hexdigest() != digest:
        raise WireError(f"what was sent as code {digest[:12]} has another digest")
    made = Path(tempfile.mkdtemp(dir=shelf, prefix="unpacking-"))
    try:
        unpack(data, made)
        with contextlib.suppress(OSError):  # somebody was faster
            made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def unpack(data: bytes, folder: Path) -> None:
    """Into an empty folder. Raises UserError on anything that is not a plain file inside it."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            total = 0
            for count, member in enumerate(archive, 1):
                total += member.size
                name = PurePosixPath(member.name)
                inside = bool(name.parts) and not name.is_absolute() and ".." not in name.parts
                if not member.isreg() or not inside or total > MOST_BYTES or count > MOST_FILES:
                    raise UserError(f"{member.name!r} has no place in the code of a run")
                archive.extract(member, folder, filter="data")
    except tarfile.TarError as error:
        raise UserError(f"this is not the code of a run: {error}") from error


def check(digest: str) -> None:
    """Raises UserError when it is none."""
    if DIGEST.fullmatch(digest) is None:
        raise UserError(f"{digest!r} is not a digest")

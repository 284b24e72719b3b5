"""The code of a run travels whole, is the same for the same files, and nothing in it leaves its folder."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from plesio.errors import UserError, WireError
from plesio.runs import code


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return sorted(archive.getnames())


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "pkg").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')\n")
    (folder / "pkg" / "data.bin").write_bytes(bytes(range(256)) * 100)
    return folder


def test_what_is_packed_is_what_is_unpacked(source: Path, tmp_path: Path) -> None:
    digest, data = code.pack(source)
    folder = code.unpacked(digest, tmp_path / "shelf", lambda asked: data)
    assert tree(folder) == tree(source) and folder.name == digest


def test_the_digest_is_of_the_files_alone(source: Path) -> None:
    first, _ = code.pack(source)
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    assert code.pack(source)[0] == first
    (source / "train.py").write_text("print('other')\n")
    assert code.pack(source)[0] != first


def test_what_is_hidden_an_environment_or_a_run_stays(source: Path) -> None:
    for name in (
        ".git/config", ".env", "runs/r/model", "node_modules/x.js", "__pycache__/x.pyc", "env/pyvenv.cfg", "env/lib/x.py",
    ):  # fmt: skip
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    (source / "pkg" / "runs").mkdir()
    (source / "pkg" / "runs" / "code.py").write_text("of the user's own")
    _, data = code.pack(source)
    assert names(data) == ["pkg/data.bin", "pkg/runs/code.py", "train.py"]


def test_git_says_what_travels_where_there_is_git(source: Path) -> None:
    (source / ".gitignore").write_text("*.bin\n")
    subprocess.run(["git", "init", "-q"], cwd=source, check=True)
    _, data = code.pack(source)
    assert names(data) == [".gitignore", "train.py"]


def test_too_much_is_refused_with_the_file_that_is_too_much(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="data.bin"):
        code.pack(source)


def test_it_is_fetched_once_a_machine(source: Path, tmp_path: Path) -> None:
    digest, data = code.pack(source)
    asked: list[str] = []

    def fetch(wanted: str) -> bytes:
        asked.append(wanted)
        return data

    for _ in range(3):
        code.unpacked(digest, tmp_path / "shelf", fetch)
    assert asked == [digest] and os.listdir(tmp_path / "shelf") == [digest]


def test_what_was_damaged_is_not_unpacked(source: Path, tmp_path: Path) -> None:
    digest, data = code.pack(source)
    with pytest.raises(WireError, match="digest"):
        code.unpacked(digest, tmp_path / "shelf", lambda _: data[:-1] + b"x")
    assert os.listdir(tmp_path / "shelf") == []


@pytest.mark.parametrize("digest", ["", "..", "../x", "A" * 64, "0" * 63])
def test_only_a_digest_names_code(digest: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a digest"):
        code.unpacked(digest, tmp_path / "shelf", lambda _: b"")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, 4 if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(b"evil"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        member("/etc/evil"), member("../evil"), member("a/../../evil"), member("link", tarfile.SYMTYPE, "/etc"),
        member("hard", tarfile.LNKTYPE, "/etc/passwd"), member("device", tarfile.CHRTYPE), member("pipe", tarfile.FIFOTYPE),
        b"no archive at all" * 100,
    ],
)  # fmt: skip
def test_nothing_leaves_its_folder(data: bytes, tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    with pytest.raises(UserError):
        code.unpack(data, inside)
    assert tree(tmp_path) == {}


def test_more_than_is_allowed_is_not_unpacked(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = code.pack(source)
    monkeypatch.setattr(code, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="no place"):
        code.unpack(data, tmp_path)

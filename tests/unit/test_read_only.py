"""A run's folder that cannot be written any more."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from plesio.cli import launch
from plesio.core.spec import RunSpec
from plesio.errors import StoreError, UserError
from plesio.runtime import snapshots
from plesio.strategies.presets import Sync

SPEC = RunSpec(run="r", learners=1, schedule=Sync(), script="train.py")


@pytest.mark.parametrize(("resume", "mend"), [(True, "make it writable"), (False, "choose another folder with --runs")])
def test_neither_a_run_nor_a_resume_begins(
    resume: bool, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    run_dir = tmp_path if resume else tmp_path / "new"
    with pytest.raises(UserError, match=f"cannot write to .*Read-only file system; {mend}"):
        launch.execute(SPEC, run_dir, launch.Options(), resume=resume)


def test_a_snapshot_names_the_file_and_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreError, match="snapshot-1-1.safetensors: Read-only file system; .* make it writable"):
        snapshots.write(tmp_path, "snapshot-1-1.safetensors", b"x")

"""The folder of a run: what a crash may leave of it, and what a later run makes of that."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from plesio.batch.inputs import Position
from plesio.batch.output import Header, Output
from plesio.errors import OutputFailed, UserError

WHAT = ("mod:fn", False, "/in.jsonl", "jsonl", "abc")


def opened(folder: Path, *what: object, restart: bool = False) -> Output:
    output = Output(folder, 10)
    output.look(Header("", *(what or WHAT)), restart)  # type: ignore[arg-type]
    output.begin()
    return output


def write(output: Output, stop: int) -> None:
    """Records as far as `stop`, by fives; each fifth one is dead."""
    for first in range(output.records, stop, 5):
        out = b"".join(b"%d\n" % i for i in range(first, first + 4))
        output.write(out, [b"dead %d\n" % (first + 4)], 5, Position(first + 5, 7 * (first + 5)))


def contents(folder: Path) -> tuple[bytes, bytes]:
    """(all parts, dead.jsonl)."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("part-*"))), (folder / "dead.jsonl").read_bytes()


def whole(folder: Path) -> tuple[bytes, bytes]:
    output = opened(folder)
    write(output, 50)
    output.end()
    output.close()
    return contents(folder)


def test_parts_are_of_the_size_that_was_said_and_a_finished_run_is_known(tmp_path: Path) -> None:
    out, dead = whole(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("part-*")) == [f"part-{n:05}.jsonl" for n in range(5)]
    assert out.count(b"\n") == 40 and dead.count(b"\n") == 10
    output = Output(tmp_path, 10)
    output.look(Header("", *WHAT), False)
    found = output.found
    assert found.ended and (found.records, found.dead, found.parts, found.next) == (50, 10, 5, Position(50, 350))


def test_whatever_a_crash_leaves_the_next_run_ends_as_if_there_had_been_none(tmp_path: Path) -> None:
    wanted = whole(tmp_path / "whole")
    folder = tmp_path / "cut"
    output = opened(folder)
    states = []
    for stop in range(5, 50, 5):
        write(output, stop)
        for file in (output._part, output._dead):
            if file is not None:
                file.flush()
        shutil.copytree(folder, tmp_path / f"state-{stop}")
        states.append(tmp_path / f"state-{stop}")
    for state in states:
        manifest = (state / "manifest.jsonl").read_bytes()
        for torn in (0, 1, 20):  # the last line of the manifest is not whole
            again = state.with_name(f"{state.name}-{torn}")
            shutil.copytree(state, again)
            (again / "manifest.jsonl").write_bytes(manifest[: len(manifest) - torn])
            next_run = opened(again)
            assert next_run.found.next.records == next_run.records
            write(next_run, 50)
            next_run.end()
            next_run.close()
            assert contents(again) == wanted, again.name


def test_who_stops_in_order_keeps_all_that_was_written(tmp_path: Path) -> None:
    output = opened(tmp_path)
    write(output, 15)
    output.close()
    assert opened(tmp_path).records == 15


class Interrupted:
    """A file in which Ctrl-C comes when something has been written."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: bytes) -> None:
        self.file.write(data)
        raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("file", ["_part", "_dead"])
@pytest.mark.parametrize("begun", [0, 5])
def test_what_ctrl_c_leaves_half_written_is_not_kept_and_nothing_is_there_twice(
    tmp_path: Path, begun: int, file: str
) -> None:
    wanted, folder = whole(tmp_path / "whole"), tmp_path / "cut"
    output = opened(folder)
    write(output, 10 + begun)
    if output._part is None:
        output._part = (folder / "part.tmp").open("wb")
    setattr(output, file, Interrupted(getattr(output, file)))
    with pytest.raises(KeyboardInterrupt):
        write(output, 50)
    output.close()
    assert not (folder / "part.tmp").exists()
    next_run = opened(folder)
    assert next_run.records == 10 + begun
    write(next_run, 50)
    next_run.end()
    next_run.close()
    assert contents(folder) == wanted


class InterruptedAtItsEnd:
    """A file after whose closing Ctrl-C comes."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def close(self) -> None:
        self.file.close()
        raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_ctrl_c_when_a_part_is_closed_keeps_it(tmp_path: Path) -> None:
    output = opened(tmp_path)
    write(output, 5)
    file: Any = InterruptedAtItsEnd(output._part)
    output._part = file
    with pytest.raises(KeyboardInterrupt):
        write(output, 10)
    output.close()
    assert opened(tmp_path).records == 10


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            ("mod:other", False, "/in.jsonl", "jsonl", "abc"),
            r"another function \(mod:fn\); --restart, or another --out",
        ),
        (("mod:fn", True, "/in.jsonl", "jsonl", "abc"), "another function"),
        (("mod:fn", False, "/in.jsonl", "jsonl", "abc", "mod:then"), r"another function \(mod:fn\);"),
        (("mod:fn", False, "/other.jsonl", "jsonl", "abc"), "another input"),
        (("mod:fn", False, "/in.jsonl", "text", "abc"), "another format"),
        (("mod:fn", False, "/in.jsonl", "jsonl", "abd"), "changed since"),
    ],
)
def test_what_another_run_wrote_is_not_gone_on_with(what: tuple[object, ...], says: str, tmp_path: Path) -> None:
    before = whole(tmp_path)
    with pytest.raises(UserError, match=says):
        opened(tmp_path, *what)
    assert contents(tmp_path) == before
    restarted = opened(tmp_path, *what, restart=True)
    assert restarted.records == 0 and contents(tmp_path) == (b"", b"")


def test_with_a_second_function_it_is_another_run(tmp_path: Path) -> None:
    opened(tmp_path, *WHAT, "mod:post").close()
    opened(tmp_path, *WHAT, "mod:post").close()
    with pytest.raises(UserError, match=r"another function \(mod:fn --then mod:post\)"):
        opened(tmp_path)


def test_a_manifest_that_names_no_second_function_is_of_a_run_without_one(tmp_path: Path) -> None:
    whole(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    said = manifest.read_text()
    assert ',"then":""' in said
    manifest.write_text(said.replace(',"then":""', ""))
    assert opened(tmp_path).found.ended


def test_a_folder_with_files_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for restart in (False, True):
        with pytest.raises(UserError, match=r"no output of plesio map \(thesis.tex\)"):
            opened(tmp_path, restart=restart)
    (tmp_path / "manifest.jsonl").write_text('{"somebody": "else"}\n')
    for restart in (False, True):
        with pytest.raises(UserError, match="is no manifest of plesio map"):
            opened(tmp_path, restart=restart)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_put_beside_the_output_later_stays(tmp_path: Path) -> None:
    whole(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    opened(tmp_path, restart=True).close()
    assert (tmp_path / "notes.txt").exists()


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(UserError, match="another plesio map writes"):
        opened(tmp_path)
    first.close()
    opened(tmp_path)


def test_what_cannot_be_written_is_told_with_the_folder_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFailed, match=r"file.* cannot be written: Not a directory"):
        opened(tmp_path / "file" / "out")
    output = opened(tmp_path / "out")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputFailed, match=r"out cannot be written: No space left on device; what is finished stays"):
        write(output, 20)
    output.close()
    monkeypatch.undo()
    assert opened(tmp_path / "out").records == 0

"""Logs stay small, and the newest lines stay readable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plesio.launchers import logs
from plesio.launchers.base import ProcessSpec
from plesio.launchers.local import LocalLauncher


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "learner-0.log"


@pytest.fixture
def writer(log: Path) -> Iterator[int]:
    """A descriptor as a child's: opened once, appended to for ever."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield descriptor
    os.close(descriptor)


def older(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def test_a_small_log_is_left_alone(log: Path, writer: int) -> None:
    os.write(writer, b"line\n")
    logs.rotate(log, 100)
    assert not logs.cut(log, 100)
    assert log.read_bytes() == b"line\n" and not older(log).exists()


def test_nothing_happens_where_there_is_no_log(log: Path) -> None:
    logs.rotate(log, 100)
    assert not log.exists()


def test_a_start_makes_a_large_log_the_older_one(log: Path) -> None:
    for content in (b"a" * 200, b"b" * 200):
        log.write_bytes(content)
        logs.rotate(log, 100)
        assert not log.exists() and older(log).read_bytes() == content


def test_a_log_is_cut_under_its_writer_which_goes_on(log: Path, writer: int) -> None:
    lines = [b"line %d\n" % n for n in range(1000)]
    for line in lines:
        os.write(writer, line)
        logs.cut(log, 2000)
    whole = older(log).read_bytes() + log.read_bytes()
    assert b"".join(lines).endswith(whole) and whole.endswith(lines[-1]), "the newest lines, in order, none missing"
    assert len(whole) > 2000 and log.stat().st_size <= 2000 + 20
    assert not list(log.parent.glob("*.tmp"))


def test_of_a_flood_the_newest_is_kept(log: Path, writer: int) -> None:
    os.write(writer, b"".join(b"%09d\n" % n for n in range(1000)))
    assert logs.cut(log, 1000)
    assert older(log).read_bytes() == b"".join(b"%09d\n" % n for n in range(800, 1000))


def test_a_cut_that_fails_loses_nothing(log: Path, writer: int) -> None:
    os.write(writer, b"x" * 200)
    log.with_name(log.name + ".tmp").mkdir()  # in its way
    with pytest.raises(OSError):
        logs.cut(log, 100)
    assert log.stat().st_size == 200


def test_a_process_that_talks_without_end_has_bounded_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real child of the launcher, with a low limit; it ends when its log has been cut twice."""
    script = tmp_path / "talk.py"
    script.write_text(
        "import os, sys, time\n"
        "cuts, was, number, until = 0, 0, 0, time.monotonic() + 60\n"
        "while cuts < 2 and time.monotonic() < until:\n"
        "    print('line', number := number + 1)\n"
        "    size = os.fstat(1).st_size\n"
        "    cuts, was = cuts + (size < was), size\n"
        "    time.sleep(0.0002)\n"
        "print('the last line', cuts)\n"
    )
    keep_small = logs.keep_small
    monkeypatch.setattr(logs, "keep_small", lambda folder: keep_small(folder, limit_bytes=2000, look_s=0.02))

    async def play() -> int:
        launcher = LocalLauncher(tmp_path / "logs")
        try:
            await launcher.start(ProcessSpec(name="talker", script=str(script), fresh=True))
            return (await asyncio.wait_for(launcher.wait_exit(), 90)).code
        finally:
            await launcher.close()

    assert asyncio.run(play()) == 0
    log = tmp_path / "logs" / "talker.log"
    with contextlib.suppress(FileNotFoundError):
        assert older(log).stat().st_size > 0
    said = older(log).read_text() + log.read_text()
    assert said.endswith("the last line 2\n")


def test_a_started_process_rotates_a_large_log_of_an_earlier_one(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"old\n" + b"x" * logs.LIMIT_BYTES)
    program = f"from plesio.launchers import child; child._log_to({str(log)!r}); print('new')"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert log.read_text() == "new\n" and older(log).read_bytes().startswith(b"old\n")

"""events.jsonl stays bounded and says so; what is rare stays in it; a full disk loses nothing of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from plesio.core import facts as f
from plesio.core.state import Durable
from plesio.records import Version
from plesio.reporting import eventlog, events
from plesio.reporting.eventlog import EventLog
from plesio.reporting.events import last_seq, read_events
from plesio.reporting.files import append
from plesio.reporting.log import lines

LIMIT_BYTES = 20_000


def merged(seq: int) -> tuple[int, float, list[f.Fact]]:
    """What a long run is full of; now and then something rare."""
    routine: f.Fact = f.VersionMerged(Version(1, seq)) if seq % 2 else f.PeerRefused("x", "token")
    return seq, float(seq), [f.SynchronizerSeen(f"s{seq}") if seq % 500 == 0 else routine]


def test_it_stays_bounded_keeps_what_is_rare_and_says_what_it_left_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path, LIMIT_BYTES)
    log.open([], 0)
    for seq in range(1, 5001):
        log.add(*merged(seq))
        log.thin_if_large(Durable())
        assert log.size_bytes == log.path.stat().st_size <= LIMIT_BYTES + 200
    kept = read_events(tmp_path)
    assert kept[0]["type"] == "Thinned" and last_seq(log.path) == 5000
    assert len(kept) - 1 + kept[0]["left_out"] == 5001
    assert [e["seq"] for e in kept if e["type"] == "SynchronizerSeen"] == list(range(500, 5001, 500))
    assert [e["seq"] for e in kept[-20:]] == list(range(4981, 5001)), "the newest are all there"
    said = list(lines(tmp_path))
    assert f"{kept[0]['left_out']} lines of the older part are left out" in said[0]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_restart_goes_on_where_a_thinned_file_ends(tmp_path: Path) -> None:
    log = EventLog(tmp_path, LIMIT_BYTES)
    log.open([], 0)
    for seq in range(1, 1001):
        log.add(*merged(seq))
        log.thin_if_large(Durable())
    with log.path.open("ab") as file:
        file.write(b'{"seq":1001,"unix')
    log = EventLog(tmp_path, LIMIT_BYTES)
    log.open((merged(seq) for seq in range(990, 1003)), 1002)
    assert log.written == last_seq(log.path) == 1002
    seqs = [e["seq"] for e in read_events(tmp_path)[1:] if "seq" in e]
    assert len(seqs) == len(set(seqs)) and seqs[-3:] == [1000, 1001, 1002]


def test_what_follows_a_power_cut_that_the_file_survived_and_the_journal_did_not_is_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.open((merged(seq) for seq in range(1, 10)), 9)
    log = EventLog(tmp_path)
    log.open((merged(seq) for seq in range(1, 6)), 5)
    log.add(*merged(6))
    assert [e.get("seq") for e in read_events(tmp_path)] == [*range(1, 10), None, None, 6]


@pytest.mark.parametrize("room", [0, 30])
def test_what_a_full_disk_kept_out_is_written_when_there_is_room(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """room: bytes of a line that the disk takes before it is full."""
    log = EventLog(tmp_path)
    log.open([merged(1)], 1)
    whole = log.path.read_bytes()
    write = os.write
    given = [room]

    def full(file: int, data: bytes) -> int:
        if not given[0]:
            raise OSError(28, os.strerror(28))
        given[0] = 0
        return write(file, data[:room])

    monkeypatch.setattr(os, "write", full)
    log.add(*merged(2))
    log.add(*merged(3))
    log.thin_if_large(Durable())
    monkeypatch.setattr(os, "write", write)
    assert log.written == 1 and "No space left" in log.trouble and "free some space" in log.trouble
    assert log.path.read_bytes() == whole, "not half a line"
    log.add(*merged(4))
    assert log.written == 1, "nothing out of order"
    log.catch_up(merged(seq) for seq in (1, 2, 3, 4))
    assert (log.written, log.trouble) == (4, "")
    assert [e.get("seq") for e in read_events(tmp_path)] == [1, None, 2, 3, 4]


def test_a_start_on_a_full_disk_is_told_later(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone")
    log.open([merged(1)], 1)
    assert log.trouble
    (tmp_path / "gone").mkdir()
    log.catch_up([merged(1), merged(2)])
    assert [e["type"] for e in read_events(tmp_path / "gone")].count("CoordinatorStarted") == 1


def test_a_file_that_cannot_be_thinned_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(eventlog, "replace", refuse)
    log = EventLog(tmp_path, LIMIT_BYTES)
    log.open([], 0)
    for seq in range(1, 1001):
        log.add(*merged(seq))
        log.thin_if_large(Durable())
    assert log.written == 1000 and log.size_bytes > LIMIT_BYTES and not log.trouble
    monkeypatch.undo()
    for seq in range(1001, 1501):
        log.add(*merged(seq))
        log.thin_if_large(Durable())
    assert log.size_bytes <= LIMIT_BYTES


@pytest.mark.parametrize("tail_bytes", [1, 100, 1000, 10_000, 1 << 20])
def test_the_newest_blob_is_found_without_reading_the_whole_file(
    tail_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "TAIL_BYTES", tail_bytes)
    log = EventLog(tmp_path)
    log.open((merged(seq) for seq in range(1, 21)), 20)
    twice = [f.SynchronizerSeen("a"), f.SynchronizerSeen("b")]
    log.add(21, 1.0, twice)
    whole = log.path.read_bytes()
    assert last_seq(log.path) == 21 and log.path.read_bytes() == whole
    log.path.write_bytes(whole[:-5])
    assert last_seq(log.path) == 20
    assert [e.get("seq") for e in read_events(tmp_path)] == [*range(1, 21), None], "neither line of the torn blob"


def test_append_is_all_or_nothing(tmp_path: Path) -> None:
    assert append(tmp_path / "x", b"one\n") == 4 and append(tmp_path / "x", b"two\n") == 8
    with pytest.raises(OSError, match="No space left"):
        append(Path("/dev/full"), json.dumps({}).encode())

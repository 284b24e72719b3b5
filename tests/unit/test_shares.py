"""Segments: large buffers read by another process, through kills, a limit, files used again, and hostile names."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plesio.errors import SegmentGone, UserError, ValueRefused
from plesio.values import Shares, decode, encode, encode_call, refs, segments
from plesio.values import shares as module
from plesio.values.encoding import Ref

MB = 1 << 20
LIMIT = 64 * MB


@pytest.fixture
def shares(tmp_path: Path) -> Shares:
    return Shares(tmp_path / "pool" / "shares", LIMIT)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process with `shares` on the same folder that runs code; it ends with the test."""
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        start = (
            "import os, signal, sys, numpy as np\n"
            "from plesio.values import Shares, decode, encode, segments\n"
            f"shares = Shares({str(tmp_path / 'pool' / 'shares')!r}, {LIMIT})\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", start + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def names(shares: Shares) -> set[str]:
    return {path.name for path in shares.folder.iterdir()} - {"free", "ledger"}


def kept(shares: Shares) -> list[Path]:
    return list((shares.folder / "free").iterdir())


def on_disk(shares: Shares) -> int:
    return sum(path.stat().st_size for path in [*(shares.folder / name for name in names(shares)), *kept(shares)])


def full(size_mb: float, value: int = 1) -> np.ndarray[Any, Any]:
    return np.full(int(size_mb * MB), value, np.uint8)


def test_large_buffers_go_to_one_segment_and_the_message_is_small(shares: Shares) -> None:
    value = {
        "a": (np.arange(MB, dtype="f4"), np.arange(10)), "t": torch.ones(3, MB, dtype=torch.bfloat16),
        "f": np.asfortranarray(np.ones((1024, 1025))), "mid": np.ones(2000),
    }  # fmt: skip
    data = encode(value, shares)
    assert len(data) < 20_000
    assert len(segments(data)) == 1 and names(shares) == set(segments(data))
    back = decode(data, shares)
    assert all(np.array_equal(a, b) for a, b in zip(back["a"], value["a"], strict=True))
    assert back["t"].equal(value["t"]) and back["f"].flags.f_contiguous and np.array_equal(back["f"], value["f"])
    assert shares.fallbacks == 0
    with pytest.raises(ValueRefused, match="only its own machine can read it"):
        decode(data)


def test_a_call_names_its_refs_beside_its_segment(shares: Shares) -> None:
    data, needed = encode_call((Ref(3), full(2)), {"a": Ref(4)}, shares)
    assert needed == refs(data) == (3, 4) and len(segments(data)) == 1


def test_small_values_make_no_folder(shares: Shares) -> None:
    assert segments(encode([1, np.ones(1000), full(0.9)], shares)) == ()
    assert not shares.folder.exists()


def test_the_folder_is_this_user_s_alone(shares: Shares) -> None:
    encode(full(1), shares)
    assert shares.folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in shares.folder.iterdir())


def test_another_process_reads_it_and_what_it_writes_is_its_own(shares: Shares, child: Any) -> None:
    data = encode([full(4, 7)], shares)
    reader = child(
        f"value = decode(bytes.fromhex({data.hex()!r}), shares)[0]\n"
        "assert (value == 7).all(); value[:] = 8; print(int(value.sum()), flush=True)\n"
        "sys.stdin.readline(); assert (value == 8).all(); print('still', flush=True)"
    )
    assert int(reader.stdout.readline()) == 8 * 4 * MB
    first, second = decode(data, shares)[0], decode(data, shares)[0]
    first[:] = 9
    assert (second == 7).all() and (decode(data, shares)[0] == 7).all()
    shares.drop(segments(data))
    reader.stdin.write("\n")
    reader.stdin.flush()
    assert reader.stdout.readline() == "still\n", "a mapping outlives the segment"
    assert reader.wait(60) == 0


def test_a_dropped_segment_is_gone(shares: Shares) -> None:
    data = encode(full(2), shares)
    shares.drop(segments(data))
    shares.drop(segments(data))
    with pytest.raises(SegmentGone, match="is gone from"):
        decode(data, shares)


def test_a_file_is_used_again_but_never_under_a_mapping(shares: Shares) -> None:
    first = encode(full(3, 1), shares)
    mapped = decode(first, shares)
    shares.drop(segments(first))
    second = encode(full(3, 2), shares)
    assert len(kept(shares)) == 1, "mapped: kept, and not taken"
    assert (mapped == 1).all()
    inode = kept(shares)[0].stat().st_ino
    del mapped
    third = encode(full(3 - 1 / 100, 3), shares)
    assert not kept(shares) and (shares.folder / segments(third)[0]).stat().st_ino == inode
    assert (decode(third, shares) == 3).all() and (decode(second, shares) == 2).all()
    assert shares.used_bytes() == on_disk(shares)


def test_a_file_is_not_used_again_while_its_writer_answers_for_it(shares: Shares, child: Any) -> None:
    writer = child("print(*segments(encode(np.ones(1 << 20), shares)), flush=True); sys.stdin.readline()")
    shares.drop([writer.stdout.readline().strip()])
    assert len(kept(shares)) == 1
    encode(np.ones(1 << 20), shares)
    assert len(kept(shares)) == 1


def test_views_of_a_mapping_hold_it(shares: Shares) -> None:
    data = encode({"t": torch.full((MB,), 5.0), "a": full(2, 6)}, shares)
    part = decode(data, shares)["t"][10:20]
    shares.drop(segments(data))
    encode({"t": torch.full((MB,), 1.0), "a": full(2, 1)}, shares)
    assert part.tolist() == [5.0] * 10


def test_the_limit_holds_and_what_has_no_room_stays_in_its_message(shares: Shares) -> None:
    sent = [encode(full(10, number), shares) for number in range(10)]
    inline = [data for data in sent if not segments(data)]
    assert shares.fallbacks == len(inline) == 4
    assert shares.used_bytes() == on_disk(shares) <= LIMIT
    assert all((decode(data, shares) == number).all() for number, data in enumerate(sent))
    shares.drop([name for data in sent for name in segments(data)])
    assert on_disk(shares) == shares.used_bytes() <= LIMIT / 4, "a part is kept"
    assert segments(encode(full(60), shares)), "which makes room when it must"
    assert on_disk(shares) == shares.used_bytes() <= LIMIT


def test_the_limit_counts_what_other_processes_wrote(shares: Shares, child: Any) -> None:
    other = child("encode(np.ones(6 << 20), shares); print(flush=True); sys.stdin.readline()")
    other.stdout.readline()
    assert not segments(encode(full(20), shares)) and segments(encode(full(10), shares))


def test_a_full_disk_is_a_fallback_that_leaves_nothing(shares: Shares, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(full(1), shares)
    before = names(shares), shares.used_bytes()
    real = os.pwrite

    def no_room(descriptor: int, data: Any, offset: int) -> int:
        if len(data) < 1000:
            return real(descriptor, data, offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    data = encode(full(5, 3), shares)
    assert shares.fallbacks == 1 and segments(data) == () and (decode(data) == 3).all()
    assert (names(shares), shares.used_bytes()) == before


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="segments cannot be written to"):
        encode(full(1), Shares(tmp_path / "file", LIMIT))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_user_s_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "a", tmp_path / "b"):
        path.mkdir(mode=0o777)
        (path / "free").mkdir()
        (path / "ledger").touch()
    os.chown(tmp_path / "a", 1234, -1)
    os.chown(tmp_path / "b" / "ledger", 1234, -1)
    for path in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(UserError, match="another user made it"):
            encode(full(1), Shares(path, LIMIT))


HOSTILE = [
    "../../../etc/passwd",
    "",
    "ledger",
    "free",
    "a" * 31,
    "a" * 33,
    "A" * 32,
    "0" * 31 + "\n",
    "0" * 31 + "/",
    "٠" * 32,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_opens_and_drops_nothing(shares: Shares, name: str) -> None:
    encode(full(1), shares)
    for use in (shares.open, lambda name: shares.drop([name])):
        with pytest.raises(ValueRefused, match="is not the name of a segment"):
            use(name)
    data = encode(full(1), shares)
    hostile = data.replace(segments(data)[0].encode(), (name.encode() * 32)[:32] or b"." * 32)
    with pytest.raises(ValueRefused):
        decode(hostile, shares)
    assert len(names(shares)) == 2


def test_a_link_or_a_pipe_under_a_segment_s_name_is_refused(shares: Shares, tmp_path: Path) -> None:
    encode(full(1), shares)
    (tmp_path / "secret").write_bytes(bytes(2 * MB))
    (shares.folder / ("a" * 32)).symlink_to(tmp_path / "secret")
    os.mkfifo(shares.folder / ("b" * 32))
    (shares.folder / ("c" * 32)).touch()
    for letter in "abc":
        with pytest.raises(ValueRefused):
            shares.open(letter * 32)


def test_a_buffer_beyond_its_segment_is_refused(shares: Shares) -> None:
    small, large = encode(full(1), shares), encode(full(8), shares)
    hostile = large.replace(segments(large)[0].encode(), segments(small)[0].encode())
    with pytest.raises(ValueRefused, match="of which came"):
        decode(hostile, shares)


def test_too_many_open_files_are_no_fault_of_the_value(shares: Shares) -> None:
    data = encode(full(1), shares)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(UserError, match="allow more open files"):
            decode(data, shares)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sweep_keeps_what_tasks_name_and_what_the_living_use(shares: Shares, child: Any) -> None:
    writer = child("print(*segments(encode(np.ones(1 << 20), shares)), flush=True); sys.stdin.readline()")
    unsettled = writer.stdout.readline().strip()
    named, forgotten, read = (segments(encode(full(2, number), shares))[0] for number in range(3))
    shares.settle([named, forgotten, read])
    mapping = shares.open(read)
    assert shares.sweep({named}) == 1
    assert names(shares) == {named, read, unsettled}
    writer.kill()
    writer.wait(60)
    del mapping
    assert shares.sweep({named}) == 2
    assert names(shares) == {named} and shares.used_bytes() == on_disk(shares)


def test_what_a_process_wrote_and_never_settled_ends_with_it(shares: Shares) -> None:
    encode(full(2), shares)
    assert shares.sweep(()) == 0
    shares.close()
    assert shares.sweep(()) == 1 and names(shares) == set() and shares.used_bytes() == 0


@pytest.mark.parametrize("point", ["pwrite", "ftruncate", "open"])
def test_a_writer_killed_midway_leaves_what_the_next_sweep_deletes(shares: Shares, child: Any, point: str) -> None:
    settled = encode(full(2, 5), shares)
    shares.settle(segments(settled))
    writer = child(
        f"real, count = os.{point}, 0\n"
        "def halfway(*args, **kwargs):\n"
        "    global count\n"
        "    count += 1\n"
        f"    if '{point}' == 'pwrite' and len(args[1]) > 1000: args = (args[0], args[1][:1 << 20], args[2])\n"
        "    done = real(*args, **kwargs)\n"
        "    if count == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return done\n"
        f"os.{point} = halfway\n"
        "for _ in range(3): encode(np.ones(1 << 20), shares)\n"
        "print('not killed')"
    )
    out, _ = writer.communicate(timeout=120)
    assert (writer.returncode, out) == (-signal.SIGKILL, "")
    shares.sweep(set(segments(settled)))
    assert names(shares) == set(segments(settled))
    assert shares.used_bytes() == on_disk(shares)
    assert (decode(settled, shares) == 5).all()


def test_many_processes_and_threads_at_once_keep_every_mapping_right(shares: Shares, child: Any) -> None:
    code = """
import random, threading
def work(seed):
    rng, mine = random.Random(seed), []
    for _ in range(60):
        number = rng.randrange(255)
        data = encode(np.full(rng.choice((1, 2, 3)) << 20, number, np.uint8), shares)
        mine.append((number, decode(data, shares)))
        shares.drop(segments(data))
        if len(mine) > 3:
            number, array = mine.pop(rng.randrange(len(mine)))
            assert (array == number).all(), "changed under a mapping"
    done.append(seed)
done = []
threads = [threading.Thread(target=work, args=(os.getpid() + n,)) for n in range(2)]
for t in threads: t.start()
for t in threads: t.join()
assert len(done) == 2
"""
    processes = [child(code) for _ in range(3)]
    most = 0
    while any(process.poll() is None for process in processes):
        if shares.folder.exists():
            most = max(most, shares.used_bytes())
        threading.Event().wait(0.01)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert shares.used_bytes() == on_disk(shares) and most <= LIMIT
    assert shares.sweep(()) == 0 == len(names(shares))


def test_size_classes_waste_an_eighth_at_most() -> None:
    for size in range(1, 5 * MB, 4999):
        chosen = module._size_class(size)
        assert size <= chosen <= max(size * 9 / 8, size + 4096) and chosen % 4096 == 0

"""Which snapshots stay: the committed one always, a few of the newest, and a few spread over the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plesio.errors import StoreError
from plesio.runtime import snapshots
from plesio.runtime.snapshots import Keep


def name(number: int, lineage: int = 1) -> str:
    return f"snapshot-{lineage}-{number}.safetensors"


def put(folder: Path, *names: str) -> None:
    for one in names:
        snapshots.write(folder, one, b"x")


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_ones_and_every_so_many_rounds_stay(tmp_path: Path) -> None:
    put(tmp_path, *(name(n) for n in range(0, 60, 4)))
    snapshots.prune(tmp_path, name(56), Keep(last=3, every=20, older=5))
    assert left(tmp_path) == {name(n) for n in (0, 20, 40, 48, 52, 56)}


def test_the_committed_one_and_newer_ones_stay_however_many(tmp_path: Path) -> None:
    put(tmp_path, *(name(n) for n in range(20)))
    snapshots.prune(tmp_path, name(10), Keep(last=1, every=1000, older=1))
    assert left(tmp_path) == {name(n) for n in (0, *range(10, 20))}


def test_the_order_is_that_of_versions_not_of_the_clock(tmp_path: Path) -> None:
    put(tmp_path, name(100), name(9), name(20), name(30))
    snapshots.prune(tmp_path, name(100), Keep(last=2, every=1000, older=0 + 1))
    assert left(tmp_path) == {name(100), name(30), name(9)}


def test_files_that_are_not_snapshots_are_left_alone(tmp_path: Path) -> None:
    others = {"model.safetensors", "snapshot-mine.safetensors", "snapshot-1-2.safetensors.bak", "journal.db"}
    for one in others:
        (tmp_path / one).write_bytes(b"x")
    put(tmp_path, *(name(n) for n in range(9)))
    snapshots.prune(tmp_path, name(8), Keep(last=1, every=100, older=1))
    snapshots.clean(tmp_path, name(8))
    assert left(tmp_path) == others | {name(0), name(8)}


def test_a_start_deletes_what_a_crash_left(tmp_path: Path) -> None:
    put(tmp_path, name(4), name(8), name(8, 2), name(12), name(16))
    (tmp_path / (name(20) + ".tmp")).write_bytes(b"half")
    snapshots.clean(tmp_path, name(8))
    assert left(tmp_path) == {name(4), name(8)}


def test_a_start_without_a_committed_version_deletes_no_whole_snapshot(tmp_path: Path) -> None:
    put(tmp_path, name(0))
    (tmp_path / (name(1) + ".tmp")).write_bytes(b"half")
    snapshots.clean(tmp_path, "")
    assert left(tmp_path) == {name(0)}


keeps = st.builds(Keep, last=st.integers(1, 4), every=st.integers(1, 30), older=st.integers(1, 5))


@given(st.lists(st.integers(1, 40), max_size=80), keeps)
def test_what_stays_is_bounded_and_has_the_newest_and_the_first(steps: list[int], keep: Keep) -> None:
    number, kept = 0, {0}
    for step in steps:
        number += step
        before, kept = kept, snapshots.chosen([*kept, number], keep)
        assert number in kept and 0 in kept
        assert kept <= {*before, number} and len(kept) <= keep.last + keep.older


def test_the_older_ones_are_spread_over_the_run() -> None:
    kept: set[int] = set()
    for number in range(0, 5000, 7):
        kept = snapshots.chosen([*kept, number], snapshots.DEFAULT)
    ordered = sorted(kept)
    assert len(ordered) >= 5 and max(b - a for a, b in zip(ordered, ordered[1:], strict=False)) < 5000 / 2


def test_a_disk_that_takes_no_more_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / name(1)).mkdir()  # in its way
    with pytest.raises(StoreError, match="cannot write"):
        snapshots.write(tmp_path, name(1), b"x")
    assert left(tmp_path) == {name(1)}

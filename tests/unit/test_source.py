"""Records by number: the same as reading the whole input in order, for every format."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plesio.data import open_source
from plesio.errors import UserError

ROWS = [{"name": f"row {i}", "n": str(i)} for i in range(50)]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_of_json_are_their_values(tmp_path: Path) -> None:
    source = open_source(str(lines(tmp_path / "a.jsonl", ROWS)))
    assert len(source) == 50 and source[7] == ROWS[7] and source[-1] == ROWS[-1]
    assert source.__getitems__([3, 1, 3]) == [ROWS[3], ROWS[1], ROWS[3]]


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)), max_size=12)),
    end=st.booleans(),
)
def test_text_is_its_lines_blank_ones_too(
    texts: list[str], end: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "a.txt"
    path.write_bytes("\n".join(texts).encode() + b"\n" * end)
    expected = path.read_bytes().decode().split("\n")
    if expected[-1] == "":
        expected.pop()
    source = open_source(str(path))
    assert [source[i] for i in range(len(source))] == expected


def test_blank_lines_of_json_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n\n  \n2\r\n\n3")
    source = open_source(str(path))
    assert [source[i] for i in range(len(source))] == [1, 2, 3]


def test_rows_of_csv_and_parquet_are_dicts(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "n"])
        writer.writeheader()
        writer.writerows(ROWS)
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=7)
    for name in ("a.csv", "a.parquet"):
        source = open_source(str(tmp_path / name))
        assert len(source) == 50 and [source[i] for i in (49, 0, 13, 14)] == [ROWS[i] for i in (49, 0, 13, 14)]


def test_a_folder_of_files_is_their_bytes(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
    source = open_source(str(tmp_path))
    assert [source[i] for i in range(3)] == [{"path": f"{i}.png", "data": bytes([i])} for i in range(3)]


def test_several_files_are_one_input(tmp_path: Path) -> None:
    for part in range(3):
        lines(tmp_path / f"{part}.jsonl", [[part, i] for i in range(part + 1)])
    source = open_source(str(tmp_path))
    assert [source[i] for i in range(len(source))] == [[0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2]]


def test_compressed_and_remote_lines_are_held(tmp_path: Path) -> None:
    import fsspec

    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(f"{i}\n" for i in range(9))
    with fsspec.open("memory://source/a.jsonl", "wb") as there:
        there.write(b"5\n6\n")
    assert open_source(str(tmp_path / "a.jsonl.gz"))[8] == 8
    assert open_source("memory://source/a.jsonl")[1] == 6


def test_it_is_a_dataset_of_torch(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    source = open_source(str(lines(tmp_path / "a.jsonl", list(range(10)))))
    loader: DataLoader[Any] = DataLoader(source, batch_size=4, collate_fn=list)  # type: ignore[arg-type]
    assert list(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('1\n{"torn\n')
    source = open_source(str(path))
    with pytest.raises(IndexError):
        source[2]
    with pytest.raises(UserError, match="record 1 of .*a.jsonl cannot be read"):
        source[1]
    with pytest.raises(UserError, match="no input"):
        open_source(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="piped in"):
        open_source("-")

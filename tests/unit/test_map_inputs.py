"""Records out of each format, from the start and from where an earlier run ended."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from plesio.batch import records
from plesio.batch.inputs import Input, Position, find
from plesio.errors import UserError

ROWS = [{"id": i, "text": f"line {i}\nand 'more', \"quoted\""} for i in range(25)]
START = Position()
PLAIN = [f"line {i}" for i in range(25)]


def make(folder: Path, name: str) -> Path:
    """The rows in the format that the name tells."""
    path = folder / name
    if name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=10)
    elif name.endswith(".txt"):
        path.write_text("\n".join(PLAIN))
    else:
        text = "\n \n".join(map(json.dumps, ROWS)).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def read(source: Input, start: Position = START, count: int = 4) -> list[Any]:
    """All records from there, as functions get them."""
    raws = [raw for chunk in source.read(start, count) for raw in chunk]
    return [records.READERS[source.form](raw) for raw in records.unpack(source.form, records.pack(source.form, raws))]


def wanted(name: str) -> list[Any]:
    if name.endswith(".csv"):
        return [{"id": str(row["id"]), "text": row["text"]} for row in ROWS]
    return list(PLAIN) if name.endswith(".txt") else ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.csv", "a.parquet", "a.txt"])
def test_every_format_gives_its_records_and_goes_on_anywhere(name: str, tmp_path: Path) -> None:
    path = make(tmp_path, name)
    assert read(find(str(path))) == read(find(f"file://{path}")) == wanted(name)
    source, number = find(str(path)), 0
    for chunk in source.read(Position(), 7):
        number += len(chunk)
        assert len(chunk) <= 7
        assert read(find(str(path)), Position(number, source.offset)) == wanted(name)[number:]
    assert number == 25


def test_a_folder_of_one_format_is_its_records_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'"{name}1"\n"{name}2"')
    found = read(find(str(tmp_path)))
    assert found == [f"{name}{i}" for name in ("a.jsonl", "b.jsonl", "sub/c.jsonl") for i in (1, 2)]
    assert read(find(str(tmp_path)), Position(3)) == found[3:]


def test_another_folder_s_records_are_its_files(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"1")
    (tmp_path / "two.txt").write_bytes(b"22")
    found = read(find(str(tmp_path)))
    assert found == [{"path": "one.png", "data": b"1"}, {"path": "two.txt", "data": b"22"}]
    assert read(find(str(tmp_path)), Position(1)) == found[1:]
    (tmp_path / "one.png").unlink()
    assert read(find(str(tmp_path))) == ["22"]
    assert read(find(str(tmp_path), "files")) == found[1:]


def test_a_file_elsewhere_is_read_like_one_here(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://there/in.jsonl", "wb") as file:
        file.write(make(tmp_path, "a.jsonl").read_bytes())
    assert read(find("memory://there/in.jsonl")) == read(find("memory://there")) == ROWS
    assert read(find("memory://there/in.jsonl"), Position(20)) == ROWS[20:]


def test_stdin_is_jsonl_unless_it_is_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for format, data, found in (("", b'{"a": 1}\n2', [{"a": 1}, 2]), ("text", b"x\n\ny\n", ["x", "", "y"])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert read(find("-", format)) == found
    with pytest.raises(UserError, match="not parquet"):
        find("-", "parquet")


def test_a_row_that_does_not_fit_its_header_is_no_record_and_the_others_are(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a,b\n1,2\n3\n\n4,5\n")
    source = find(str(path))
    raws = [raw for chunk in source.read(Position(), 10) for raw in chunk]
    assert raws == [{"a": "1", "b": "2"}, ["3"], {"a": "4", "b": "5"}]
    with pytest.raises(ValueError, match="a row of 1 fields"):
        records.READERS[source.form](raws[1])


def test_an_input_is_known_again_until_it_changes(tmp_path: Path) -> None:
    path = make(tmp_path, "a.jsonl")
    before = find(str(path)).fingerprint()
    assert find(str(path)).fingerprint() == before
    path.write_bytes(path.read_bytes().replace(b"line 3", b"line X"))
    changed = find(str(path)).fingerprint()
    path.write_bytes(path.read_bytes() + b"{}\n")
    assert len({before, changed, find(str(path)).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("name", "format", "says"),
    [
        ("missing.jsonl", "", "there is no input"),
        ("what.bin", "", "say --format"),
        ("what.bin", "xml", "is unknown; it is one of jsonl"),
        ("empty", "", "holds no file"),
        ("nothing://there", "", "cannot be opened"),
    ],
)
def test_what_is_no_input_is_told(name: str, format: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "what.bin").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=says):
        find(name if "://" in name else str(tmp_path / name), format)


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, "a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"plesio\[data\]"):
        read(find(str(path)))

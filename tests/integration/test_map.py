"""`plesio map` with real processes: what a user sees of formats, dead records, kills, resumption and mistakes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import plesio
from plesio.batch import Progress, map_records
from plesio.errors import TaskFailed, UserError
from plesio.tasks import Client
from plesio.testing.poolcrew import PoolCrew, children
from plesio.testing.waiting import wait_for

MAPPED = str(Path(__file__).parents[1] / "scripts" / "mapped.py")
PLESIO = [sys.executable, "-m", "plesio"]
WAIT_S = 150.0


def fn(name: str) -> str:
    return f"{MAPPED}:{name}"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def client(pool: Path) -> Iterator[Client]:
    """Of a pool with two workers, for the whole file."""
    with plesio.connect(folder=pool, workers=2) as client:
        yield client


def make(path: Path, count: int, **more: Any) -> Path:
    path.write_text("".join(json.dumps({"id": i, **more}) + "\n" for i in range(count)))
    return path


def results(out: Path) -> list[Any]:
    """Of all parts, in order."""
    return [json.loads(line) for path in sorted(out.glob("part-*")) for line in path.read_text().splitlines()]


def dead(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "dead.jsonl").read_text().splitlines()]


def parts_told(out: Path) -> int:
    """How many parts the manifest tells: behind them a killed run goes on."""
    manifest = out / "manifest.jsonl"
    return manifest.read_bytes().count(b"\n") - 1 if manifest.exists() else 0


def command(cwd: Path, *words: str, said: str = "", code: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of plesio map."""
    done = subprocess.run(
        [*PLESIO, "map", *words], cwd=cwd, input=said, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


def test_every_record_is_in_the_output_once_and_in_order(client: Client, tmp_path: Path) -> None:
    told: list[Progress] = []
    summary = map_records(
        fn("double"), make(tmp_path / "in.jsonl", 1000), tmp_path / "out", pool=client, batch=7, part_records=300,
        progress=told.append,
    )  # fmt: skip
    assert results(tmp_path / "out") == [{"id": i, "twice": 2 * i} for i in range(1000)]
    assert (summary.records, summary.dead, summary.parts, summary.resumed_from) == (1000, 0, 4, 0)
    assert dead(tmp_path / "out") == [] and told[-1].records == 1000 and told[-1].fraction == 1.0
    wait_for(lambda: client.ask("counts")["running"] == 0, "no task is left", WAIT_S)


def test_rows_of_csv_and_parquet_lines_and_files_are_records(client: Client, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": i, "x": i / 2} for i in range(50)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_text("id,x\n" + "".join(f"{row['id']},{row['x']}\n" for row in rows))
    (tmp_path / "in.txt").write_text("one\n\ntwo")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.bin").write_bytes(bytes(5000))
    for name, wanted in (
        ("in.parquet", rows),
        ("in.csv", [{key: str(value) for key, value in row.items()} for row in rows]),
        ("in.txt", ["one", "", "two"]),
    ):
        map_records(fn("same"), tmp_path / name, tmp_path / f"out-{name}", pool=client, batch=9)
        assert results(tmp_path / f"out-{name}") == wanted
    map_records(fn("file_size"), tmp_path / "files", tmp_path / "out-files", pool=client)
    assert results(tmp_path / "out-files") == [["a.bin", 5000]]


def test_images_are_decoded_by_the_workers_and_one_that_is_broken_is_dead(client: Client, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB" if i % 2 else "L", (3 + i, 2), 7).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"not an image")
    summary = map_records(fn("image_shape"), folder, tmp_path / "out", pool=client, format="images", batch=2)
    found = results(tmp_path / "out")
    assert [row[:3] for row in found] == [
        [f"{i:02}.png", [2, 3 + i, 3], [7, 0, 0] if i % 2 else [7, 7, 7]] for i in range(12) if i != 5
    ]
    assert os.getpid() not in [row[3] for row in found] and summary.dead == 1
    [row] = dead(tmp_path / "out")
    assert (row["index"], row["record"], row["error"]) == (5, "05.png", "unreadable")
    assert row["message"].startswith("ValueError: 05.png: it is none of PNG")


@pytest.mark.parametrize("sort_by_length", [False, True])
def test_dead_records_are_set_aside_with_their_error_and_the_rest_goes_on(
    client: Client, tmp_path: Path, sort_by_length: bool
) -> None:
    source = make(tmp_path / "in.jsonl", 40)
    source.write_text(source.read_text().replace('{"id": 5}', '{"id": 5').replace('{"id": 6}', "\n{}"))
    summary = map_records(fn("picky"), source, tmp_path / "out", pool=client, batch=8, sort_by_length=sort_by_length)
    gone = dead(tmp_path / "out")
    assert [row["index"] for row in gone] == [3, 5, 6, 7, 13, 17, 23, 27, 33, 37]
    assert results(tmp_path / "out") == [i for i in range(40) if i not in [row["index"] for row in gone]]
    assert (summary.records, summary.dead) == (40, 10)
    by = {row["index"]: row for row in gone}
    assert by[3]["record"] == {"id": 3} and by[3]["error"] == "raised"
    assert by[3]["message"].startswith("ValueError: 3 is not to my taste") and "mapped.py:" in by[3]["message"]
    assert by[5]["record"] == '{"id": 5' and by[5]["error"] == "unreadable"
    assert by[6]["record"] == {} and by[6]["message"].startswith("KeyError")
    assert by[7]["error"] == "result" and "is no JSON" in by[7]["message"]


def test_a_function_that_exits_does_not_end_its_worker(client: Client, tmp_path: Path) -> None:
    map_records(fn("leaves"), make(tmp_path / "in.jsonl", 3), tmp_path / "out", pool=client)
    assert [row["message"].partition(" (")[0] for row in dead(tmp_path / "out")] == [
        f"SystemExit: {i}" for i in range(3)
    ]


def test_a_record_that_kills_its_worker_is_found_and_the_others_have_their_results(
    client: Client, tmp_path: Path
) -> None:
    map_records(fn("deadly"), make(tmp_path / "in.jsonl", 60), tmp_path / "out", pool=client, batch=4)
    assert results(tmp_path / "out") == [i for i in range(60) if i != 37]
    [row] = dead(tmp_path / "out")
    assert (row["index"], row["record"], row["error"]) == (37, {"id": 37}, "crashed") and "SIGSEGV" in row["message"]


def test_what_does_not_fit_into_a_message_is_dead(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"id": i, "x": "x" * 999 * (i == 5)}) + "\n" for i in range(9)))
    monkeypatch.setattr("plesio.batch.records.MOST_BYTES", 500)
    map_records(fn("double"), source, tmp_path / "out", pool=client, batch=9)
    assert [row["id"] for row in results(tmp_path / "out")] == [0, 1, 2, 3, 4, 6, 7, 8]
    [row] = dead(tmp_path / "out")
    assert (row["index"], row["record"], row["error"]) == (5, None, "too large")


def test_a_batched_function_that_raises_is_called_record_by_record(client: Client, tmp_path: Path) -> None:
    source = make(tmp_path / "in.jsonl", 30)
    map_records(fn("all_at_once"), source, tmp_path / "out", pool=client, batch=10, batched=True)
    assert results(tmp_path / "out") == [i for i in range(30) if i != 13]
    assert [row["index"] for row in dead(tmp_path / "out")] == [13]
    map_records(fn("too_few"), source, tmp_path / "few", pool=client, batch=10, batched=True)
    assert len(dead(tmp_path / "few")) == 30
    assert dead(tmp_path / "few")[0]["message"] == "ValueError: the function returned 0 results for 1 records"


def test_a_class_is_set_up_once_a_worker_and_gets_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = make(tmp_path / "in.jsonl", 640)
    with plesio.connect(folder="pool", workers=2) as client:
        map_records(fn("Model"), source, "out", pool=client, batch=8)
        map_records(fn("Callable"), source, "plain", pool=client)
    assert results(tmp_path / "out") == [[i, 8] for i in range(640)] and results(tmp_path / "plain") == list(range(640))
    pids = Path("setups").read_text().split()
    assert len(pids) == len(set(pids)) <= 2


def test_sorted_by_length_a_batch_is_of_alike_records_and_the_order_stays(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"id": i, "x": "x" * (i * 7919 % 101)}) + "\n" for i in range(9000)))
    map_records(fn("double"), source, tmp_path / "out", pool=client, batch=100, sort_by_length=True)
    assert [row["id"] for row in results(tmp_path / "out")] == list(range(9000))


def test_what_the_first_function_returns_the_second_gets_and_who_made_a_record_dead_is_told(
    client: Client, tmp_path: Path
) -> None:
    source = make(tmp_path / "in.jsonl", 60)
    source.write_text(source.read_text().replace('{"id": 5}', '{"id": 5').replace('{"id": 6}', "{}"))
    summary = map_records(
        fn("double"), source, tmp_path / "out", then=fn("halve"), pool=client, batch=4, part_records=20
    )
    gone = dead(tmp_path / "out")
    assert [row["index"] for row in gone] == [5, 6, 7, 17, 27, 37, 41, 47, 57] and summary.dead == 9
    assert results(tmp_path / "out") == [[i, i] for i in range(60) if i not in [row["index"] for row in gone]]
    by = {row["index"]: row for row in gone}
    assert (by[5]["fn"], by[5]["error"]) == (fn("double"), "unreadable")
    assert (by[6]["fn"], by[6]["error"], by[6]["record"]) == (fn("double"), "raised", {})
    assert (by[7]["fn"], by[7]["error"], by[7]["record"]) == (fn("halve"), "raised", {"id": 7, "twice": 14})
    assert by[7]["message"].startswith("ValueError: 14 is not to my taste")
    assert (by[41]["fn"], by[41]["error"], by[41]["record"]) == (fn("halve"), "crashed", {"id": 41, "twice": 82})


def test_the_second_function_goes_on_beside_the_first_each_where_it_belongs(tmp_path: Path) -> None:
    source = make(tmp_path / "in.jsonl", 200, gate=str(tmp_path / "gate"))
    with PoolCrew(tmp_path / "pool") as crew:
        crew.start_node("large", slots=2, gpu=1)
        crew.start_node("small", slots=1)
        client = crew.client()
        crew.wait_for_slots(client, 3)
        map_records(
            fn("held_here"), source, tmp_path / "out", then=fn("opens"), requires={"gpu": 1}, pool=client, batch=5
        )
        large, small = (children(crew.nodes[name].pid) for name in ("large", "small"))
        client.close()
    found = results(tmp_path / "out")
    assert [row[0] for row in found] == list(range(200)), "the first would have waited for ever for the second"
    assert {row[1] for row in found} <= set(large) and {row[2] for row in found} <= {*large, *small}


def test_the_second_function_has_only_the_workers_that_it_requires(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    source = make(tmp_path / "in.jsonl", 100, gate=str(tmp_path / "gate"))
    with PoolCrew(tmp_path / "pool") as crew:
        crew.start_node("any")
        crew.start_node("post", post=1)
        client = crew.client()
        crew.wait_for_slots(client, 2)
        map_records(
            fn("held_here"), source, tmp_path / "out", then=fn("opens"), then_requires={"post": 1}, pool=client, batch=5
        )
        post = children(crew.nodes["post"].pid)
        client.close()
    assert {row[2] for row in results(tmp_path / "out")} == set(post)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mapped_nowhere:fn", "cannot be imported on this worker"),
        (fn("nothing"), "has no attribute 'nothing'"),
        ("double", r"give package\.module:function"),
        (fn("later"), "is a coroutine function"),
        (fn("Broken"), "cannot be set up on a worker: RuntimeError: no such weights"),
        (fn("Neither"), "neither batch"),
    ],
)
def test_a_function_that_cannot_be_used_is_told_at_once_and_nothing_is_written(
    client: Client, tmp_path: Path, name: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        map_records(name, make(tmp_path / "in.jsonl", 3), tmp_path / "out", pool=client)
    assert not (tmp_path / "out").exists()


def test_a_tag_that_no_worker_offers_is_told_until_one_joins(tmp_path: Path) -> None:
    told: list[str] = []

    def join(progress: Progress) -> None:
        if progress.lacks and "large" not in crew.nodes:
            crew.start_node("large", gpu=2)
        told.append(progress.lacks)

    with PoolCrew(tmp_path / "pool") as crew:
        crew.start_node("small", gpu=1)
        client = crew.client()
        crew.wait_for_slots(client, 1)
        source = make(tmp_path / "in.jsonl", 3)
        map_records(fn("same"), source, tmp_path / "out", requires={"gpu": 2}, pool=client, progress=join)
        client.close()
    assert set(told) == {"gpu=2", ""} and told[-1] == "" and len(results(tmp_path / "out")) == 3


def test_a_second_function_that_cannot_be_used_is_told_before_the_first_is_called(
    client: Client, tmp_path: Path
) -> None:
    source = make(tmp_path / "in.jsonl", 3)
    with pytest.raises(UserError, match="no such weights"):
        map_records(fn("double"), source, tmp_path / "out", then=fn("Broken"), pool=client)
    with pytest.raises(UserError, match="name it with --then"):
        map_records(fn("double"), source, tmp_path / "out", then_requires={"gpu": 1}, pool=client)
    assert not (tmp_path / "out").exists()


def test_an_input_that_breaks_off_is_told_with_its_place(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(b"a\n" + b"1\n" * 30_000 + b"\xff\xff\n")
    with pytest.raises(UserError, match=r"in.csv cannot be read behind its record \d+: .*utf-8"):
        map_records(fn("same"), source, tmp_path / "out", pool=client)


def test_cancelled_tasks_end_the_run_and_not_the_records(client: Client, tmp_path: Path) -> None:
    source = make(tmp_path / "in.jsonl", 40, gate=str(tmp_path / "gate"))

    def cancel(progress: Progress) -> None:
        if progress.records and (rows := client.ask("tasks", "leased")):
            client.cancel([row["id"] for row in rows])

    with pytest.raises(TaskFailed, match="somebody cancelled"):
        map_records(fn("held"), source, tmp_path / "out", pool=client, batch=10, progress=cancel)
    (tmp_path / "gate").touch()
    map_records(fn("held"), source, tmp_path / "out", pool=client, batch=10)
    assert results(tmp_path / "out") == list(range(40)) and dead(tmp_path / "out") == []


def test_the_command_maps_a_file_and_stdin_and_says_the_sum(client: Client, pool: Path, tmp_path: Path) -> None:
    make(tmp_path / "in.jsonl", 100)
    where = ["--dir", str(pool)]
    (tmp_path / "mine.py").write_text("def f(record): return record['id']\n")
    out, _ = command(tmp_path, "mine.py:f", "in.jsonl", "--out", "out", *where, "--json", "--part-records", "30")
    summary = json.loads(out)
    assert {key: summary[key] for key in ("records", "dead", "resumed_from")} == {
        "records": 100, "dead": 0, "resumed_from": 0,
    }  # fmt: skip
    assert summary["parts"] == 2 and summary["rate"] > 0 and summary["seconds"] > 0
    out, err = command(tmp_path, "mine.py:f", "in.jsonl", "--out", "out", *where)
    assert out == "" and "100 were there before" in err
    said = (tmp_path / "in.jsonl").read_text()
    out, _ = command(tmp_path, "mine.py:f", "-", "--out", "piped", *where, "--json", said=said)
    assert json.loads(out)["records"] == 100 and results(tmp_path / "piped") == results(tmp_path / "out")
    _, err = command(tmp_path, "mine.py:f", "-", "--out", "out", *where, code=2)
    assert "another input" in err and "--restart" in err
    command(tmp_path, "mine.py:f", "-", "--out", "out", *where, "--restart", said='{"id": 7}\n')
    assert results(tmp_path / "out") == [7] and len(list((tmp_path / "out").glob("part-*"))) == 1


def test_a_mistake_is_one_line_and_starts_no_pool(tmp_path: Path, typed_in: Callable[..., Any]) -> None:
    make(tmp_path / "in.jsonl", 3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for words, says in (
        (["math:gcd", "missing.jsonl", "--out", "out"], "there is no input"),
        (["math:gcd", "in.jsonl", "--out", "full"], "thesis.tex"),
        (["math:gcd", ".", "--out", "out"], "is within the input"),
        (["math:gcd", "in.jsonl", "--out", "out", "--on", "there:1"], "--token-file"),
        (["math:gcd", "in.jsonl", "--out", "out", "--token-file", "x"], "--on HOST:PORT"),
    ):
        err = typed_in(tmp_path, "map", *words, code=2)
        assert says in err and len(err.splitlines()) == 1, err
    err = typed_in(tmp_path, "map", "math:gcd", "in.jsonl", "--out", "full/thesis.tex/out", code=1)
    assert "cannot be written: Not a directory" in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "runs").exists()


def test_a_pool_of_its_own_that_cannot_write_its_journal_is_told_of_in_words(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "x": "x" * 100}) + "\n" for i in range(20_000)))
    failed = subprocess.run(
        [*PLESIO, "map", fn("same"), "in.jsonl", "--out", "out"], cwd=tmp_path, capture_output=True, text=True,
        timeout=WAIT_S, check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )  # fmt: skip
    assert failed.returncode == 1 and "Traceback" not in failed.stderr, failed.stderr
    assert "the journal" in failed.stderr.splitlines()[-1] and "disk" in failed.stderr.splitlines()[-1]


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(client: Client, pool: Path, tmp_path: Path) -> None:
    rows = [{"id": i, "x": "x" * (100 if i >= 10_000 else 0)} for i in range(20_000)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [fn("same"), "in.jsonl", "--out", "out", "--dir", str(pool), "--part-records", "5000", "--batch", "50"]
    limit = 200_000  # a file of more is refused, as a full disk refuses it
    failed = subprocess.run(
        [*PLESIO, "map", *words], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    *progress, last = failed.stderr.splitlines()
    assert failed.returncode == 1 and "out cannot be written: File too large" in last, failed.stderr
    assert all(" read" in line or "waiting for a worker" in line for line in progress), failed.stderr
    finished = sum(part.read_bytes().count(b"\n") for part in (tmp_path / "out").glob("part-*"))
    _, err = command(tmp_path, *words)
    assert finished >= 10_000 and f"{finished:,} were there before" in err and results(tmp_path / "out") == rows


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A command that goes on, in a session of its own."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PLESIO, "map", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=WAIT_S)


def test_a_killed_command_goes_on_where_its_last_part_ends(
    client: Client, pool: Path, tmp_path: Path, start: Start
) -> None:
    gate = tmp_path / "gate"
    make(tmp_path / "in.jsonl", 40, gate=str(gate))
    words = [fn("held"), "in.jsonl", "--out", "out", "--dir", str(pool), "--batch", "5", "--part-records", "5"]
    killed = start(*words)
    wait_for(lambda: parts_told(tmp_path / "out") == 2, "two parts", WAIT_S)
    wait_for(lambda: client.ask("counts")["running"] == 2, "the next ones wait for the gate", WAIT_S)
    killed.kill()
    killed.communicate(timeout=WAIT_S)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    gate.touch()
    out, _ = command(tmp_path, *words, "--json")
    assert json.loads(out)["resumed_from"] == 10 and json.loads(out)["records"] == 40
    assert results(tmp_path / "out") == list(range(40))
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time_ns for name, time_ns in before.items())


def test_ctrl_c_cancels_what_is_under_way_keeps_what_is_written_and_says_how_to_go_on(
    client: Client, pool: Path, tmp_path: Path, start: Start
) -> None:
    gate = tmp_path / "gate"
    make(tmp_path / "in.jsonl", 40, gate=str(gate))
    words = [fn("held"), "in.jsonl", "--out", "out", "--dir", str(pool), "--batch", "5"]
    stopped = start(*words)
    assert stopped.stderr is not None
    while "records, " not in (line := stopped.stderr.readline()):  # something is written
        assert "waiting for a worker" in line, line
    wait_for(lambda: client.ask("counts")["running"] == 2, "the next ones wait for the gate", WAIT_S)
    os.killpg(stopped.pid, signal.SIGINT)
    _, err = stopped.communicate(timeout=WAIT_S)
    assert stopped.returncode == 130 and "the same command goes on with it" in err and "Traceback" not in err
    wait_for(lambda: client.ask("counts")["running"] == client.ask("counts")["waiting"] == 0, "nothing is left", WAIT_S)
    kept = len(results(tmp_path / "out"))  # the second task's results may have been on their way when it was stopped
    assert kept in (5, 10) and results(tmp_path / "out") == list(range(kept))
    assert not (tmp_path / "out" / "part.tmp").exists()
    gate.touch()
    _, err = command(tmp_path, *words)
    assert f"{kept} were there before" in err and results(tmp_path / "out") == list(range(40))


def test_a_killed_command_with_a_second_function_goes_on_and_another_second_one_is_refused(
    client: Client, pool: Path, tmp_path: Path, start: Start
) -> None:
    gate = tmp_path / "gate"
    make(tmp_path / "in.jsonl", 40, gate=str(gate))
    words = [fn("same"), "in.jsonl", "--out", "out", "--dir", str(pool), "--batch", "10", "--part-records", "10"]
    killed = start(*words, "--then", fn("held"))
    wait_for(lambda: parts_told(tmp_path / "out") == 1, "a part", WAIT_S)
    wait_for(lambda: client.ask("counts")["running"], "the next ones, in one task or more, wait for the gate", WAIT_S)
    killed.kill()
    killed.communicate(timeout=WAIT_S)
    _, err = command(tmp_path, *words, code=2)
    assert f"another function ({fn('same')} --then {fn('held')})" in err
    gate.touch()
    _, err = command(tmp_path, *words, "--then", fn("held"))
    assert "10 were there before" in err and results(tmp_path / "out") == list(range(40))


@pytest.mark.parametrize("then", [None, fn("label")])
def test_with_a_worker_and_the_coordinator_killed_the_output_is_the_undisturbed_one(
    tmp_path: Path, then: str | None
) -> None:
    source = make(tmp_path / "in.jsonl", 2000)
    with PoolCrew(tmp_path / "pool") as crew:
        crew.start_node("a", slots=2)
        client = crew.client()
        crew.wait_for_slots(client, 2)
        map_records(fn("double"), source, tmp_path / "calm", then=then, pool=client, batch=20)
        kills = [(300, "slot"), (1000, "coordinator")]

        def disturb(progress: Progress) -> None:
            while kills and progress.records >= kills[0][0]:
                fault = kills.pop(0)[1]
                if fault == "coordinator":
                    crew.kill_coordinator()
                else:
                    os.kill(children(crew.nodes["a"].pid)[0], signal.SIGKILL)

        map_records(
            fn("slow"), source, tmp_path / "out", then=then, pool=client, batch=20, part_records=500, progress=disturb
        )
        assert not kills
        client.close()
    calm, out = (b"".join(p.read_bytes() for p in sorted((tmp_path / x).glob("part-*"))) for x in ("calm", "out"))
    assert out == calm and dead(tmp_path / "out") == []

"""Batches that slots of a pool prepare: the same as one's own, whoever dies, and there in time or prepared here."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plesio
from plesio.data import batches, open_source
from plesio.data.feed import Feed
from plesio.tasks import Client
from plesio.testing.poolcrew import children
from plesio.testing.poolup import PoolUp, descendants
from plesio.testing.waiting import wait_for
from plesio.training.run import Run

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"x": i / 256, "y": 2 * i / 256}) + "\n" for i in range(256)))
    return str(path)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with plesio.connect(folder=tmp_path_factory.mktemp("p"), workers=2) as client:
        yield client


@pytest.fixture
def client(pool: Client) -> Client:
    """Of a pool whose slots are there, and idle: what an earlier test cancelled has ended, and whom it killed is back."""
    wait_for(lambda: [row["tasks"] for row in pool.ask("workers") if row["connected"]] == [0, 0], "two idle slots")
    assert pool.submit("math:sqrt", 4).result(60) == 2
    return pool


def noisy(records: list[Any], seed: int) -> Any:
    """Chance comes from the seed alone; and who prepared it."""
    noise = np.random.default_rng(seed).normal(size=len(records))
    return np.array([r["x"] for r in records]) + noise, os.getpid()


def pick(records: list[Any], seed: int) -> Any:
    if any(r["x"] == 0.5 for r in records):
        raise ValueError("this record is bad")
    return len(records)


def test_a_batch_is_the_same_wherever_it_was_prepared(source: str, client: Client) -> None:
    alone = [batch for _, (batch, _) in batches(Run(None, True), open_source(source), 8, noisy, epochs=2, seed=3)]
    fed = list(batches(Run(None, True), open_source(source), 8, noisy, client=client, epochs=2, seed=3))
    assert len(fed) == len(alone) == 64
    assert all(np.array_equal(a, b) for a, (_, (b, _)) in zip(alone, fed, strict=True))
    assert {who for _, (_, who) in fed} - {os.getpid()}, "nobody else prepared anything"


def test_each_epoch_and_unit_has_chance_of_its_own(source: str) -> None:
    fed = [batch for _, (batch, _) in batches(Run(None, True), open_source(source), 256, noisy, epochs=2)]
    assert not np.array_equal(np.sort(fed[0]), np.sort(fed[1]))


def test_slots_that_are_killed_cost_no_batch(source: str, client: Client) -> None:
    seen = []
    for n, (unit, (_, who)) in enumerate(batches(Run(None, True), open_source(source), 4, noisy, client=client)):
        seen.append(unit.index)
        if n in (10, 25, 40) and who != os.getpid():
            os.kill(who, signal.SIGKILL)
    assert seen == list(range(64))


def test_what_raises_there_is_raised_here(
    source: str, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(None, True)
    feed = Feed(open_source(source), pick, client, 8, 0, 0)
    with pytest.raises(ValueError, match="this record is bad"):
        for unit in run.units(256, 8):
            feed.look_ahead([unit])
            feed.under_way[unit.epoch, unit.index].exception(60)  # it is there, or has failed there
            feed.batch(unit)
    assert capsys.readouterr().err.count("failed there, and is prepared here: ValueError: this record is bad") == 1


def test_a_pool_that_is_busy_holds_up_nobody(source: str, client: Client) -> None:
    held = [client.submit("time:sleep", 600, priority=9) for _ in range(2)]
    fed = list(batches(Run(None, True), open_source(source), 64, noisy, client=client))
    assert [who for _, (_, who) in fed] == [os.getpid()] * 4
    client.cancel([task.name for task in held])
    assert all(isinstance(task.exception(60), Exception) for task in held)


def test_what_is_not_wanted_any_more_is_cancelled(source: str, client: Client) -> None:
    held = [client.submit("time:sleep", 600, priority=9) for _ in range(2)]
    run = Run(None, True)
    feed = Feed(open_source(source), noisy, client, 4, 0, 1)
    units = iter(run.units(256, 8))
    feed.look_ahead([next(units), *run.upcoming(8)])
    assert len(feed.under_way) == 4
    futures = list(feed.under_way.values())
    feed.look_ahead([])
    assert all(isinstance(future.exception(60), Exception) and future.cancelled() for future in futures)
    client.cancel([task.name for task in held])


def brightness(records: list[Any], seed: int) -> Any:
    return np.stack([r["image"] for r in records]).mean((1, 2, 3)), os.getpid()


def test_images_are_decoded_by_whoever_prepares_them(tmp_path: Path, client: Client) -> None:
    from PIL import Image

    for i in range(64):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i:02}.png")
    source = open_source(str(tmp_path), "images")
    fed = list(batches(Run(None, True), source, 4, brightness, client=client, seed=1))
    assert all(np.array_equal(batch, unit.samples) for unit, (batch, _) in fed) and len(fed) == 16
    assert {who for _, (_, who) in fed} - {os.getpid()}, "nobody else decoded anything"


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_run_whose_batches_others_prepare_loses_and_repeats_no_unit(source: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.environ |= {"FEEDING": str(log), "FEEDING_SOURCE": source}
    with PoolUp(tmp_path, workers=3) as pool:
        shutil.copy(SCRIPTS / "feeding.py", pool.code)
        run = pool.command(
            "run", "--on", str(pool.folder), "--name", "fed", "--learners", "1", "--strategy", "decoupled(every=4)",
            "--start-rounds", "2", "feeding.py",
        )  # fmt: skip
        for tokens in (100, 250):
            pool.wait_for_tokens("fed", tokens)
            assert pool.process is not None
            joined = [pid for pid in descendants(pool.process.pid) if b"plesio\0join" in cmdline(pid)]
            busy = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in joined}
            idle = [pid for pid in children(pool.process.pid) if pid not in busy and b"up\0" in cmdline(pid)]
            os.kill(idle[-1], signal.SIGKILL)
        _, words = run.communicate(timeout=180)
        assert run.returncode == 0, words
        units = json.loads((pool.folder / "runs" / "fed" / "summary.json").read_text())["units"]
    rows = [line.split() for line in log.read_text().splitlines()]
    assert units["applied"] == 64 and units["lost"] == units["duplicated"] == 0
    assert {(epoch, index) for epoch, index, _ in rows} == {(str(e), str(i)) for e in range(2) for i in range(32)}
    assert any(own == "False" for _, _, own in rows), "nobody prepared anything for it"


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

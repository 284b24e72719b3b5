"""A training run on a pool whose processes are killed one after the other: every unit is applied once, and it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plesio.testing.poolcrew import children
from plesio.testing.poolup import PoolUp, descendants
from plesio.testing.waiting import wait_for

STEADY = Path(__file__).parents[1] / "scripts" / "steady.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolUp]:
    with PoolUp(tmp_path) as pool:
        shutil.copy(STEADY, pool.code)
        yield pool


def running(pool: PoolUp, *words: str) -> list[int]:
    """Processes of the pool in whose command these words are."""
    assert pool.process is not None
    found = []
    for pid in descendants(pool.process.pid):
        path = Path(f"/proc/{pid}/cmdline")
        line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace") if path.exists() else ""
        if all(word in line for word in words):
            found.append(pid)
    return found


def kill(pids: list[int]) -> None:
    assert pids, "there is nobody to kill"
    os.kill(pids[0], signal.SIGKILL)


def the_supervisor(pool: PoolUp) -> None:
    kill(running(pool, "plesio.runs.supervisor"))


def a_learners_command(pool: PoolUp) -> None:
    kill(running(pool, "plesio join"))


def a_learners_slot(pool: PoolUp) -> None:
    [joined, *_] = running(pool, "plesio join")
    kill([int(Path(f"/proc/{joined}/stat").read_text().rpartition(")")[2].split()[1])])


def the_pools_own_slot(pool: PoolUp) -> None:
    [supervisor] = running(pool, "plesio.runs.supervisor")
    kill([int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])])


def the_pools_coordinator(pool: PoolUp) -> None:
    assert pool.process is not None
    kill(children(pool.process.pid)[:1])


def the_whole_pool(pool: PoolUp) -> None:
    pool.kill()
    pool.up()


def the_pool_in_order(pool: PoolUp) -> None:
    assert pool.down() == 0
    pool.up()


@pytest.mark.parametrize(
    "faults",
    [
        [the_supervisor, a_learners_command, the_pools_coordinator],
        [a_learners_slot, the_pools_own_slot],
        [the_whole_pool, the_pool_in_order],
    ],
    ids=lambda faults: " and ".join(fault.__name__ for fault in faults),
)
def test_every_unit_is_applied_once_whoever_is_killed(pool: PoolUp, faults: list[Callable[[PoolUp], None]]) -> None:
    begun = pool.command(
        "run", "--on", str(pool.folder), "--name", "r", "--detach", "--strategy", "decoupled(every=8)", "--start-rounds",
        "4", "steady.py",
    )  # fmt: skip
    assert begun.wait(60) == 0
    for number, fault in enumerate(faults):
        pool.wait_for_tokens("r", 500 + 2500 * number)
        wait_for(lambda: len(running(pool, "plesio join")) == 2, "both learners are there", 60)
        fault(pool)
    row = pool.wait_for_run("r", "finished", "failed", "stopped", limit_s=200)
    assert row["state"] == "finished", row
    units = json.loads((pool.folder / "runs" / "r" / "summary.json").read_text())["units"]
    assert units["applied"] + units["partial"] == 1024 and units["lost"] == units["duplicated"] == 0

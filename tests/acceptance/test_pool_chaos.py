"""Seeded schedules of real faults under tasks and messages; `make pool-chaos` runs fifty of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.testing import poolchaos
from plesio.testing.poolcrew import PoolCrew
from plesio.testing.poolverdict import read_facts, troubles
from plesio.testing.waiting import wait_for

CALLS = str(Path(__file__).parents[1] / "scripts" / "calls.py")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_task_is_lost_or_recorded_twice(seed: int, tmp_path: Path) -> None:
    assert poolchaos.run_tasks(seed, tmp_path)["troubles"] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_acknowledged_message_arrives_in_order(seed: int, tmp_path: Path) -> None:
    assert poolchaos.run_messages(seed, tmp_path)["troubles"] == []


@pytest.mark.slow
def test_with_one_of_two_nodes_killed_all_tasks_end_with_no_setting_touched(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    with PoolCrew(tmp_path) as crew:
        crew.start_node("a")
        crew.start_node("b")
        client = crew.client()
        crew.wait_for_slots(client, 2)
        futures = [client.submit(f"{CALLS}:note", str(effects), i, 0.05) for i in range(200)]
        wait_for(lambda: effects.exists() and effects.read_text().count("\n") >= 50, "a quarter is done")
        crew.kill_node("b")
        assert client.gather(futures, 60) == list(range(200))
        client.close()
    assert troubles(read_facts(tmp_path)) == []

"""Five seeded schedules of real faults; `make chaos` runs twenty."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.testing import chaos
from plesio.testing.schedules import KINDS, schedule

SEEDS = range(5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> float:
    row = chaos.undisturbed("decoupled", tmp_path_factory.mktemp("undisturbed"))
    assert row["outcome"] == "passed", row
    loss: float = row["loss"]
    assert loss < 0.5 * chaos.chaos_train.loss_of(None), "it learns"
    return loss


def test_the_five_hold_every_kind() -> None:
    assert {fault.kind for seed in SEEDS for fault in schedule(seed).faults} == set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_or_counted_twice_whatever_dies(seed: int, undisturbed: float, tmp_path: Path) -> None:
    plan = schedule(seed)
    assert plan.strategy == "decoupled", "one undisturbed run is enough"
    row = chaos.perform(plan, undisturbed, tmp_path)
    assert row["outcome"] == "passed", row

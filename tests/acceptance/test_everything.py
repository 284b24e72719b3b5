"""A run, a map, queues, a lock and urgent tasks on one pool whose processes are killed: each keeps its promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.testing.everything import Everything


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("seed", [1])
def test_one_pool_under_everything_at_once(seed: int, tmp_path: Path) -> None:
    row = Everything(seed, tmp_path).run()
    assert row["killed"] and not row["problems"], row

"""Twenty thousand seeded faults against the shipped core, with every invariant checked after every event."""

from __future__ import annotations

import pytest

from plesio.sim.cluster import Cluster
from plesio.strategies.presets import Decoupled, Sync

FAULTS_A_RUN = 40
RUNS_A_PART = 130
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_no_fault_breaks_an_invariant_or_stops_the_run(part: int) -> None:
    injected = 0
    for seed in range(part * RUNS_A_PART, (part + 1) * RUNS_A_PART):
        schedule = Sync() if seed % 2 else Decoupled(every=4, start_rounds=5)
        steps = 1 + 2 * (seed // 2 % 2)
        cluster = Cluster(seed, schedule, learners=2 + seed % 3, units=60, steps=steps, faults=FAULTS_A_RUN)
        try:
            cluster.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        injected += sum(cluster.faults.counts.values())
    print(f"{injected} faults")
    assert injected >= 20_000 / PARTS

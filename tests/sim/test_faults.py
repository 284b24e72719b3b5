"""Twenty thousand seeded faults against the shipped core, with every invariant checked after every event."""

from __future__ import annotations

import pytest

from plesio.sim.cluster import Cluster
from plesio.strategies.text import parse

SCHEDULES = [
    parse(text, every=4)
    for text in (
        "sync",
        "sync until rounds=5; decoupled",
        "async",
        "sync until tokens=9; async(overlap=1) until tokens=40; localsgd",
        "decoupled until tokens=30; sync until rounds=30; async until rounds=40; sync",
    )
]
FAULTS_A_RUN = 40
RUNS_A_PART = 130
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_no_fault_breaks_an_invariant_or_stops_the_run(part: int) -> None:
    injected = 0
    for seed in range(part * RUNS_A_PART, (part + 1) * RUNS_A_PART):
        schedule = SCHEDULES[seed % len(SCHEDULES)]
        steps = 1 + 2 * (seed // 2 % 2)
        cluster = Cluster(seed, schedule, learners=2 + seed % 3, units=60, steps=steps, faults=FAULTS_A_RUN)
        try:
            cluster.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        injected += sum(cluster.faults.counts.values())
    print(f"{injected} faults")
    assert injected >= 20_000 / PARTS

"""Seeded faults: kills, crash points, pauses, broken connections, delays, repeats."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from plesio.sim.world import Killed, Process

if TYPE_CHECKING:
    from plesio.sim.cluster import Cluster

KINDS = {
    "kill learner": 4,
    "kill synchronizer": 2,
    "kill coordinator": 2,
    "break connection": 6,
    "pause learner": 2,
    "leave": 1,
}


class Faults:
    """Owns what is still to be injected; counts what was."""

    def __init__(self, cluster: Cluster, budget: int, rate: float) -> None:
        self.cluster = cluster
        self.rng = cluster.world.rng
        self.budget = budget
        self.rate = rate  # per event
        self.counts: Counter[str] = Counter()

    def _take(self, kind: str) -> None:
        self.budget -= 1
        self.counts[kind] += 1

    def before_event(self) -> None:
        """Perhaps a fault, between any two events."""
        if self.budget > 0 and self.rng.random() < self.rate:
            self.inject(self.rng.choices(list(KINDS), list(KINDS.values()))[0])

    def point(self, process: Process, where: str) -> None:
        """Perhaps the process dies at this very instruction."""
        if self.budget > 0 and self.rng.random() < self.rate * 0.5:
            self._take(f"crash {where}")
            self.cluster.kill(process)
            raise Killed

    def weather(self) -> tuple[float, int]:
        """(seconds, copies) of one message."""
        chance = self.rng.random()
        if self.budget > 0 and chance < self.rate:
            self._take("delay")
            return self.rng.uniform(0.2, 3.0), 1
        if self.budget > 0 and chance < 2 * self.rate:
            self._take("repeat")
            return self.rng.uniform(0.001, 0.02), 2
        return self.rng.uniform(0.001, 0.02), 1

    def inject(self, kind: str) -> None:
        """This fault, if it is possible now."""
        cluster = self.cluster
        learners = [x for x in cluster.learners.values() if x.alive and not x.paused]
        if kind == "break connection":
            up = sorted(cluster.network.connections, key=lambda c: (c.kind, c.client.name))
            if up:
                self._take(kind)
                self.rng.choice(up).abort()
        elif kind in ("kill learner", "pause learner", "leave"):
            if not learners:
                return
            victim = self.rng.choice(learners)
            self._take(kind)
            if kind == "kill learner":
                cluster.kill(victim)
            elif kind == "pause learner":
                victim.paused = True
                cluster.world.at(self.rng.choice((0.3, 3.0, 20.0)), victim.resume)
            else:
                victim.leave()
        else:
            process = cluster.synchronizer if kind == "kill synchronizer" else cluster.coordinator
            if process is not None and process.alive:
                self._take(kind)
                cluster.kill(process)

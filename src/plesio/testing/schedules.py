"""Which faults a chaos schedule injects, at which progress and into whom: derived from its seed alone. Pure.

Four seeds in a row, from a multiple of 4 on, hold every kind once; which kinds meet in one schedule changes, and so does
the strategy, every four seeds. Each schedule has one of the four kinds that take long.
"""

from __future__ import annotations

import random

import msgspec

LEARNERS = 3
KINDS = (
    "kill learner",
    "kill synchronizer",
    "kill coordinator",
    "stop learner",
    "stop synchronizer",
    "stop coordinator",
    "several at once",
    "reset in a chunk",
    "all and resume",
    "joiner killed while it pulls state",
    "newcomer that restarts twice",
    "stale generation comes back",
)
A_BLOCK = 4  # seeds that share the kinds out
SHORT, LONG = KINDS[:-A_BLOCK], KINDS[-A_BLOCK:]
STRATEGIES = ("decoupled", "decoupled", "sync", "diloco", "localsgd")  # of the first block, the second, ...
SLOTS = ((0.02, 0.15), (0.25, 0.4), (0.5, 0.62))  # parts of the run's progress, for the faults of a schedule
LATE = 0.93  # the others have to run out of work


class Fault(msgspec.Struct, frozen=True):
    """One fault of a schedule."""

    kind: str
    at: float  # when this share of all the run's tokens is merged
    victims: tuple[str, ...] = ()  # processes of the run, by name
    lasts_s: float = 0.0  # of a SIGSTOP; of a newcomer's life
    where: float = 0.0  # after which share of a chunk, or of a state
    way: str = ""  # a variant of it


class Schedule(msgspec.Struct, frozen=True):
    """The faults of one seed, in order."""

    seed: int
    strategy: str
    faults: tuple[Fault, ...]


def schedule(seed: int) -> Schedule:
    """The same seed, the same schedule."""
    deal = random.Random(f"kinds {seed // A_BLOCK}")
    short, long = deal.sample(SHORT, len(SHORT)), deal.sample(LONG, len(LONG))
    mine = seed % A_BLOCK
    chosen = [long[mine], *short[2 * mine : 2 * mine + 2]]
    rng = random.Random(f"schedule {seed}")
    if chosen[0] == "all and resume":  # the others need time: first
        rng.shuffle(chosen)
    late = seed // A_BLOCK % 2 == 1
    faults = [_fault(rng, kind, slot, late) for kind, slot in zip(chosen, SLOTS, strict=True)]
    strategy = STRATEGIES[seed // A_BLOCK % len(STRATEGIES)]
    return Schedule(seed, strategy, tuple(sorted(faults, key=lambda fault: fault.at)))


def _fault(rng: random.Random, kind: str, slot: tuple[float, float], late: bool) -> Fault:
    at, lasts_s, where = round(rng.uniform(*slot), 3), round(rng.uniform(1.0, 4.0), 2), round(rng.uniform(0.1, 0.9), 2)
    learner = f"learner-{rng.randrange(LEARNERS)}"
    verb, _, target = kind.partition(" ")
    if verb in ("kill", "stop"):
        victim = learner if target == "learner" else target
        return Fault(kind, at, (victim,), lasts_s if verb == "stop" else 0.0)
    if kind == "several at once":
        others = [f"learner-{i}" for i in range(LEARNERS)] + ["coordinator", "synchronizer"]
        return Fault(kind, at, tuple(sorted(rng.sample(others, rng.randint(2, 4)))))
    if kind == "reset in a chunk":
        return Fault(kind, at, where=where, way=rng.choice(("up", "down")))
    if kind == "joiner killed while it pulls state":
        return Fault(kind, at, where=where, way=rng.choice(("process", "machine")))
    if kind == "newcomer that restarts twice":
        return Fault(kind, at, lasts_s=round(0.1 * lasts_s, 2))
    if kind == "stale generation comes back":
        return Fault(kind, LATE, (learner,), way="silent") if late else Fault(kind, at, way="replaced")
    return Fault(kind, at)

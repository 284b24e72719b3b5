"""A map under a seeded schedule of kills: its output is that of an undisturbed one, byte for byte."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from plesio.batch import Progress, map_records
from plesio.testing.poolcrew import PoolCrew
from plesio.testing.poolverdict import read_facts, troubles

MAPPED = str(Path(__file__).parents[1] / "scripts" / "mapped.py")
RECORDS, KILLS = 12_000, 10
FAULTS = ("slot", "slot", "node", "coordinator")


def output(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.glob("part-*")))


class Chaos:
    """Strikes when so many records are done."""

    def __init__(self, crew: PoolCrew, rng: random.Random) -> None:
        self.crew = crew
        self.rng = rng
        at = sorted(rng.sample(range(RECORDS // 20, RECORDS * 6 // 10), KILLS))  # sorted windows end in leaps
        self.plan = [*zip(at, ["coordinator", *rng.choices(FAULTS, k=KILLS - 1)], strict=True)]

    def __call__(self, progress: Progress) -> None:
        if self.plan and progress.records >= self.plan[0][0]:
            _, fault = self.plan.pop(0)
            if fault == "coordinator":
                self.crew.kill_coordinator()
            elif fault == "slot":
                self.crew.kill_slot(self.rng)
            else:
                self.crew.kill_node(self.rng.choice(sorted(self.crew.nodes)))
                self.crew.start_node(f"n{len(self.plan)}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "then", "sort_by_length"),
    [(0, None, False), (1, None, True), (0, f"{MAPPED}:label", True), (1, f"{MAPPED}:label", False)],
)
def test_ten_kills_change_no_byte_of_the_output(
    seed: int, then: str | None, sort_by_length: bool, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    lines = (json.dumps({"id": i, "x": "x" * (i * 7919 % 101)}) for i in range(RECORDS))
    source.write_text("\n".join(lines))
    with PoolCrew(tmp_path / "pool") as crew:
        crew.start_node("a")
        crew.start_node("b")
        client = crew.client()
        crew.wait_for_slots(client, 2)
        map_records(f"{MAPPED}:double", source, tmp_path / "calm", then=then, pool=client)
        chaos = Chaos(crew, random.Random(seed))
        summary = map_records(
            f"{MAPPED}:slow", source, tmp_path / "out", then=then, pool=client, part_records=1000, progress=chaos,
            sort_by_length=sort_by_length,
        )  # fmt: skip
        assert chaos.plan == [] and (summary.records, summary.dead) == (RECORDS, 0)
        client.close()
    assert output(tmp_path / "out") == output(tmp_path / "calm")
    assert output(tmp_path / "out").count(b"\n") == RECORDS
    assert troubles(read_facts(tmp_path / "pool")) == []

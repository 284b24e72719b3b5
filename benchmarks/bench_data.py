"""Preprocessing as slow as the training step, on other slots: units a second beside the same run on prepared data.

One learner under `plesio run`, a step of 40 ms (paced), a preparation of 40 ms (paced): on data that is ready, prepared by
two slots of a pool ahead of the learner, and prepared by the learner itself. The three in turns; medians of the ratios of a
round. Writes benchmarks/results/data.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOW = ("ready", "pool", "here")
UNITS, UNIT = 320, 32


def run(how: str, folder: Path) -> float:
    """Units a second."""
    environ = {**os.environ, "FED": how, "FED_SOURCE": str(folder / "data.jsonl"), "FED_POOL": str(folder / "pool")}
    name = f"{how}-{len(list(folder.glob(f'{how}-*')))}"
    command = [
        sys.executable, "-m", "plesio", "run", "--runs", str(folder), "--name", name, "--learners", "1",
        "--start-rounds", "0", str(ROOT / "benchmarks" / "scripts" / "fed.py"),
    ]  # fmt: skip
    subprocess.run(command, env=environ, check=True, capture_output=True, timeout=300)
    told = json.loads((folder / name / "logs" / "learner-0.log").read_text().strip().splitlines()[-1])
    return told["units"] / told["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "data.json")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {how: [] for how in HOW}
    before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="plesio-bench-") as temporary:
        folder = Path(temporary)
        rng = random.Random(0)
        rows = ({"x": [rng.gauss(0, 1) for _ in range(16)], "y": rng.gauss(0, 1)} for _ in range(UNITS * UNIT))
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for number in range(args.rounds):
            for how in HOW[number % 3 :] + HOW[: number % 3]:
                rates[how].append(run(how, folder))
                print(f"{how}: {rates[how][-1]:.2f} units a second", file=sys.stderr, flush=True)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": "units a second of one learner: data ready, prepared by other slots, prepared by itself",
        "units_per_s": {how: {"median": statistics.median(found), "rounds": found} for how, found in rates.items()},
        "ratios": {
            how: statistics.median(a / b for a, b in zip(rates[how], rates["ready"], strict=True)) for how in HOW[1:]
        },
        "load_before_and_after": [before, os.getloadavg()],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    print(json.dumps(result["ratios"]))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""CPU seconds of all processes per committed token: `plesio run` (Decoupled H=30, int8, 2 learners) against the bare script.

Interleaved A B A B in one run, median of the ratios; writes benchmarks/results/overhead.json. The bare side is two
processes of the same script, alone, at the same time, on as many tokens each as one learner commits on average.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "gpt.py"
BATCH, CONTEXT = 8, 128


def cpu_s() -> float:
    """CPU seconds of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bare(samples: int) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of two bare scripts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--batch", str(BATCH), "--max-samples", str(samples), "--generate", "0"]
    before, began_s = cpu_s(), time.monotonic()
    pair = [subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) for _ in range(2)]
    for process in pair:
        assert process.wait(900) == 0
    return cpu_s() - before, time.monotonic() - began_s


def plesio(samples: int, start_rounds: int) -> tuple[float, float, int]:
    """(CPU seconds of every process, wall seconds, committed tokens)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "plesio",
            "run",
            "--json",
            "--runs",
            folder,
            "--learners",
            "2",
            "--every",
            "30",
        ]
        command += ["--codec", "int8", "--start-rounds", str(start_rounds), str(SCRIPT)]
        command += ["--batch", str(BATCH), "--max-samples", str(2 * samples), "--generate", "0"]
        before, began_s = cpu_s(), time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=900)
        return cpu_s() - before, time.monotonic() - began_s, int(json.loads(done.stdout)["tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240, help="steps of each learner")
    parser.add_argument("--start-rounds", type=int, default=0)
    args = parser.parse_args()
    samples = args.steps * BATCH
    rows = []
    for number in range(args.pairs):
        bare_cpu_s, bare_wall_s = bare(samples)
        plesio_cpu_s, plesio_wall_s, tokens = plesio(samples, args.start_rounds)
        per_token = (plesio_cpu_s / tokens) / (bare_cpu_s / (2 * samples * CONTEXT))
        rows.append({
            "bare_cpu_s": bare_cpu_s, "plesio_cpu_s": plesio_cpu_s, "committed_tokens": tokens,
            "cpu_ratio_per_token": per_token, "wall_ratio": plesio_wall_s / bare_wall_s,
        })  # fmt: skip
        print(f"pair {number}: CPU per committed token x{per_token:.4f}", file=sys.stderr, flush=True)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": "Decoupled(H=30, int8), 2 learners, 3.3M-parameter GPT, all processes, against two bare scripts",
        "steps_per_learner": args.steps,
        "start_rounds": args.start_rounds,
        "median_cpu_ratio_per_token": statistics.median(r["cpu_ratio_per_token"] for r in rows),
        "pairs": rows,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    path = ROOT / "benchmarks" / "results" / "overhead.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

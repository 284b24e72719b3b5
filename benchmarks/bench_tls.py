"""Does TLS cost anything on a link of 100 Mbit/s? Pairs of runs with and without --tls, interleaved.

Each run: `plesio run --listen` with a learner on machine a, `plesio join` on machine b (network namespaces, tbf), paced
steps, pushes of 1 MB; both learners begin together. Compared: utilisation (the part of a learner's main thread's time
that is not spent waiting or inside plesio), held-out loss, bytes as plesio counts them (before encryption) and as the
link carried them. Writes benchmarks/results/tls.json.
Needs `ip`, `tc` and root, or: .ci/with-namespaces python benchmarks/bench_tls.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from plesio.reporting.events import read_events, read_metrics
from plesio.testing.machines import BURST, QUEUE, Machines

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "scripts" / "paced.py"
PLESIO = [sys.executable, "-m", "plesio"]
RATE = "100mbit"
WIDTH = 30_000  # 34 parameters each: a push in int8 is of 1 MB
STEP_S = 0.05
EVERY = 16
LEARNERS = ("learner-0", "far")
WARM_STEPS = 2 * EVERY
UNIT = 4  # tokens of a step of that script


def utilisation(run_dir: Path, name: str) -> float:
    """From a sample after the warm-up to the last one."""
    samples = [row["learners"][name] for row in read_metrics(run_dir) if name in row["learners"]]
    first = next(x for x in samples if x["steps"] >= WARM_STEPS)
    busy_s, wait_s = (samples[-1][key] - first[key] for key in ("busy_s", "wait_s"))
    return float(busy_s / (busy_s + wait_s))


def one(machines: Machines, folder: Path, name: str, steps: int, tls: bool) -> dict[str, Any]:
    """A run and its figures."""
    run_dir, go = folder / "runs" / name, folder / f"go-{name}"
    script = [str(SCRIPT), str(STEP_S), str(WIDTH), str(go)]
    shared = ["--token-file", "secret"]
    words = ["run", "--json", "--name", name, "--learners", "1", "--epochs", "100"]
    words += [
        "--until-tokens",
        str(2 * steps * UNIT),
        "--every",
        str(EVERY),
        "--start-rounds",
        "0",
        "--listen",
        "0.0.0.0:7700",
        *shared,
        *side("trainer", tls),
        *script,
    ]
    main = machines.start("a", [*PLESIO, *words], folder)
    others = [main]
    try:
        wait(lambda: bool(read_events(run_dir)), others)
        before = machines.sent_bytes("b")
        join = ["join", f"{machines.address('a')}:7700", *shared, *side("far", tls), "--name", "far", *script]
        others.append(machines.start("b", [*PLESIO, *join], folder))
        wait(lambda: ready(run_dir), others)
        go.touch()
        out, said = main.communicate(timeout=400)
        if main.returncode:
            raise SystemExit(said[-2000:])
        others[1].communicate(timeout=60)
        after = machines.sent_bytes("b")
    finally:
        for process in others:
            process.kill()
    summary = json.loads(out)
    pushes = [e["contribution"] for e in read_events(run_dir) if e["type"] == "ContributionAccepted"]
    far = sum(p["contributor"] == "far" for p in pushes)
    last = [row["learners"]["far"] for row in read_metrics(run_dir) if "far" in row["learners"]][-1]
    return {
        "tls": tls,
        "utilisation": {x: round(utilisation(run_dir, x), 4) for x in LEARNERS},
        "val_loss": summary["val_loss"],
        "tokens": summary["tokens"],
        "wall_s": summary["wall_s"],
        "pushes": len(pushes),
        "bytes_a_push": round(statistics.fmean(p["size_bytes"] for p in pushes)),
        "far_up_bytes_a_push": round(last["up_bytes"] / far),
        "link_up_bytes_a_push": round((after[0] - before[0]) / far),
        "wire_bytes": summary["wire_bytes"],
        "load": os.getloadavg()[0],
    }


def side(stem: str, tls: bool) -> list[str]:
    """The option, for one machine."""
    return ["--tls", f"certs/{stem}.pem,certs/{stem}-key.pem,certs/ca.pem"] if tls else []


def ready(run_dir: Path) -> bool:
    """Do both learners have a model?"""
    rows = read_metrics(run_dir)
    return bool(rows) and all((rows[-1]["learners"].get(name) or {}).get("base") for name in LEARNERS)


def wait(condition: Any, processes: list[subprocess.Popen[str]]) -> None:
    """Until it holds."""
    until_s = time.monotonic() + 90
    while not condition():
        for process in processes:
            if process.poll() is not None:
                raise SystemExit(f"ended too early: {process.communicate()[1][-2000:]}")
        if time.monotonic() > until_s:
            raise SystemExit("the run did not begin within 90 s")
        time.sleep(0.1)


def compare(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the pairs; differences and ratios are TLS to without, of one pair."""

    def ratio(key: str) -> float:
        return round(statistics.median(b[key] / a[key] for a, b in pairs), 4)

    def spread(values: list[float]) -> list[float]:
        return [round(min(values), 4), round(max(values), 4)]

    result: dict[str, Any] = {
        key: ratio(key) for key in ("bytes_a_push", "far_up_bytes_a_push", "link_up_bytes_a_push")
    }
    for name in LEARNERS:
        plain, tls = ([x["utilisation"][name] for x in side] for side in zip(*pairs, strict=True))
        result[f"utilisation_{name}"] = {
            "without": round(statistics.median(plain), 4), "tls": round(statistics.median(tls), 4),
            "median_difference": round(statistics.median(b - a for a, b in zip(plain, tls, strict=True)), 4),
            "spread_without": spread(plain), "spread_tls": spread(tls),
        }  # fmt: skip
    plain, tls = ([x["val_loss"] for x in side] for side in zip(*pairs, strict=True))
    result["val_loss"] = {
        "without": round(statistics.median(plain), 4), "tls": round(statistics.median(tls), 4),
        "spread_without": spread(plain), "spread_tls": spread(tls),
    }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=240, help="of each learner")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    parser.add_argument("--keep", action="store_true", help="leave benchmarks/results as it is")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(1))  # the machines are deleted
    machines, pairs = Machines("ab"), []
    try:
        machines.build()
        machines.slow_down("b", RATE)
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            command = [*PLESIO, "cert", "certs", "--host", "trainer", "--node", "far"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            for number in range(args.pairs):
                order = (False, True) if number % 2 == 0 else (True, False)
                found = {tls: one(machines, folder, f"{number}-{tls}", args.steps, tls) for tls in order}
                pairs.append((found[False], found[True]))
                print(f"pair {number}: {[x['utilisation'] for x in pairs[-1]]}", file=sys.stderr, flush=True)
    finally:
        machines.close()
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": f"Decoupled(H={EVERY}, int8), 2 learners on 2 machines; {RATE}, tbf, burst {BURST}, queue {QUEUE}",
        "tls_to_without": compare(pairs),
        "pairs": pairs,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    print(json.dumps(result["tls_to_without"], indent=1), file=sys.stderr)
    if not args.keep:
        path = ROOT / "benchmarks" / "results" / "tls.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

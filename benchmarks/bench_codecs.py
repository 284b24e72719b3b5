"""plesio's codecs beside torch's own, bitsandbytes' and hivemind's, on one thread, and beside a copy of memory.

Rounds alternate between `plesio bench codecs` and the peers, each of which has an environment of its own. Ratios are of
medians over rounds. gbps: of bytes read and written, of the tensor and what was made of it. torch's threads rest when
they have nothing to do. Before the rounds: what the first use of a codec in a process takes. Writes
benchmarks/results/codecs.json. With --device cuda only plesio's, on a GPU, into codecs_gpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_S = 1200.0  # of one measurement; the first makes a peer's environment
PEERS = ("torch", "bitsandbytes", "hivemind")
FIRST = ("int8", "int4", "nf4", "codebook(16)", "sign", "topk(1/64)", "topk(1/64)+int2", "sr(int4)")
PROCESSES = 7  # of each
RESTING = {"GOMP_SPINCOUNT": "0"}  # else torch's threads keep their cores busy for 10 ms after each of its operations
RIVALS = {  # what of theirs does the same as what of ours
    "int8": ("torch: quantize_per_channel", "bitsandbytes: blockwise 8 bit", "hivemind: uniform 8 bit"),
    "nf4": ("bitsandbytes: nf4",),
    "topk(1/64)": ("torch: topk 1/64",),
    "codebook(16)": ("hivemind: quantile 8 bit",),
}


def told(*words: str) -> dict[str, Any]:
    """What `plesio bench codecs` says."""
    command = [sys.executable, "-m", "plesio", "bench", "codecs", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S, env=os.environ | RESTING)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ours(values: int, threads: int) -> dict[str, dict[str, Any]]:
    """Rows by codec."""
    return {row["codec"]: row for row in told("--values", str(values), "--threads", str(threads))["rows"]}


def theirs(peer: str, values: int) -> dict[str, dict[str, Any]]:
    """Rows by name."""
    words = [sys.executable, str(ROOT / "benchmarks" / "peers" / "codecs_peer.py"), peer, str(values), "5"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S)
    rows: dict[str, dict[str, Any]] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    for row in rows.values():
        traffic = 4 * values + row["bytes"]
        row |= {f"{way}_gbps": round(traffic / row.pop(f"{way}_s") / 1e9, 3) for way in ("encode", "decode")}
        row["bytes_ratio"] = round(4 * values / row.pop("bytes"), 3)
    return {f"{peer}: {name}": row for name, row in rows.items()}


def first_uses() -> dict[str, float]:
    """By codec the seconds from its import to the first tensor there and back, loops from the disk: medians of processes."""
    found = {}
    for codec in FIRST:
        words = [sys.executable, str(ROOT / "benchmarks" / "scripts" / "first_use.py"), codec]
        told = [
            float(subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S).stdout)
            for _ in range(PROCESSES + 1)
        ]
        found[codec] = round(statistics.median(told[1:]), 3)  # the first may have compiled
    return found


def middle(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of each figure of each row the median."""
    return {
        name: {
            key: round(statistics.median(found[name][key] for found in rounds), 4)
            if isinstance(value, float)
            else value
            for key, value in row.items()
        }
        for name, row in rounds[0].items()
    }


def where() -> dict[str, Any]:
    """The machine and the commit."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    return {"machine": machine, "commit": git.stdout.strip()}


def on_gpu(device: str, values: int, out: Path) -> None:
    """Writes the one measurement there is."""
    found = told("--device", device, "--values", str(values))
    what = "normally distributed float32 on a GPU; ratios: of a copy's bytes a second there; packets are the host's"
    out.write_text(json.dumps({"what": what, **found, **where()}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, help="2^24 on CPUs, 2^28 on a GPU, where less does not fill it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    gpu, results = args.device != "cpu", ROOT / "benchmarks" / "results"
    args.values = args.values or 1 << (28 if gpu else 24)
    args.out = args.out or results / ("codecs_gpu.json" if gpu else "codecs.json")
    if gpu:
        on_gpu(args.device, args.values, args.out)
        return
    before, one, two, others = os.getloadavg(), [], [], []
    first = first_uses()
    for number in range(args.rounds):
        one.append(ours(args.values, 1))
        others.append({name: row for peer in PEERS for name, row in theirs(peer, args.values).items()})
        two.append(ours(args.values, 2))
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    rows, peers, both = middle(one), middle(others), middle(two)
    faster = {
        codec: {
            rival: {
                way: round(rows[codec][f"{way}_gbps"] / peers[rival][f"{way}_gbps"], 2) for way in ("encode", "decode")
            }
            for rival in rivals
        }
        for codec, rivals in RIVALS.items()
    }
    result = {
        "what": "normally distributed float32, encoded and decoded, medians of rounds; ratios: of a copy's bytes a second",
        "values": args.values,
        "rounds": args.rounds,
        "one_thread": list(rows.values()),
        "two_threads": list(both.values()),
        "two_by_one": {
            codec: {way: round(both[codec][f"{way}_gbps"] / row[f"{way}_gbps"], 2) for way in ("encode", "decode")}
            for codec, row in rows.items()
        },
        "first_use_s": first,
        "peers": peers,
        "times_a_peer": faster,
        "load_before_and_after": [before, os.getloadavg()],
        **where(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"times_a_peer": faster, "two_by_one": result["two_by_one"], "first_use_s": first}))


if __name__ == "__main__":
    main()

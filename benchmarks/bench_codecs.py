"""plesio's codecs beside torch's own, bitsandbytes' and hivemind's, on one thread, and beside a copy of memory.

Rounds alternate between `plesio bench codecs` and the peers, each of which has an environment of its own. Ratios are of
medians over rounds. gbps: of bytes read and written, of the tensor and what was made of it. Writes
benchmarks/results/codecs.json.
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
RIVALS = {  # what of theirs does the same as what of ours
    "int8": ("torch: quantize_per_channel", "bitsandbytes: blockwise 8 bit", "hivemind: uniform 8 bit"),
    "nf4": ("bitsandbytes: nf4",),
    "topk(1/64)": ("torch: topk 1/64",),
    "codebook(16)": ("hivemind: quantile 8 bit",),
}


def ours(values: int, threads: int) -> dict[str, dict[str, Any]]:
    """Rows by codec."""
    words = [sys.executable, "-m", "plesio", "bench", "codecs", "--values", str(values), "--threads", str(threads), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=LIMIT_S)
    return {row["codec"]: row for row in json.loads(done.stdout)["rows"]}


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


def middle(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of each figure of each row the median."""
    return {
        name: {
            key: round(statistics.median(found[name][key] for found in rounds), 4) if isinstance(value, float) else value
            for key, value in row.items()
        }
        for name, row in rounds[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=1 << 24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "codecs.json")
    args = parser.parse_args()
    before, one, two, others = os.getloadavg(), [], [], []
    for number in range(args.rounds):
        one.append(ours(args.values, 1))
        others.append({name: row for peer in PEERS for name, row in theirs(peer, args.values).items()})
        two.append(ours(args.values, 2))
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    rows, peers, both = middle(one), middle(others), middle(two)
    faster = {
        codec: {
            rival: {way: round(rows[codec][f"{way}_gbps"] / peers[rival][f"{way}_gbps"], 2) for way in ("encode", "decode")}
            for rival in rivals
        }
        for codec, rivals in RIVALS.items()
    }
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
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
        "peers": peers,
        "times_a_peer": faster,
        "load_before_and_after": [before, os.getloadavg()],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"times_a_peer": faster, "two_by_one": result["two_by_one"]}))


if __name__ == "__main__":
    main()

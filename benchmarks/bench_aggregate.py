"""A synchronizer's round: pushes of int8 merged into a model with one Nesterov step, beside a copy and naive torch.

Rounds alternate between the product's own step (runtime.outerstate.OuterState.step), a copy of as many values, and the naive
way: each push decoded to a new tensor, their mean, torch.optim.SGD. Each number of threads has a process of its own.
Traffic: each packet read once, parameters and momentum read and written once. limit_gbps: of bytes that the copy reads and
writes; fraction: of that; cpu_fraction: by processor time, which others' work on the machine disturbs less. Medians over
rounds. Writes benchmarks/results/aggregate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plesio.codecs import Packet, parse
from plesio.codecs.base import memory
from plesio.runtime.outerstate import OuterState
from plesio.strategies.base import Outer

ROOT = Path(__file__).parents[1]
LIMIT_S = 1200.0  # of one process
BLOCK = 256
RULE = Outer(lr=0.7, momentum=0.9)
NAIVE_ROUNDS = 3  # it takes as long as 50 of the others


def room(values: int, value: float) -> Tensor:
    """(values,) float32."""
    return memory(4 * values).view(torch.float32).fill_(value)


def pushes(values: int, learners: int) -> list[Packet]:
    """Of int8, as they come off the wire."""
    draw, codec, found = torch.Generator().manual_seed(0), parse(f"int8({BLOCK})"), []
    for _ in range(learners):
        packet, _ = codec.encode(torch.randn(values, generator=draw), None)
        found.append(Packet.from_bytes(bytearray(packet.to_bytes())))
    return found


def server(values: int) -> OuterState:
    """One that holds a model of ones."""
    state = OuterState("none")
    state.theta, state.momentum = room(values, 1.0), room(values, 0.0)
    return state


class Naive:
    """Torch operations as one would write them, a new tensor each. values: a multiple of BLOCK."""

    def __init__(self, values: int) -> None:
        self.theta = room(values, 1.0).requires_grad_()
        self.optimizer = torch.optim.SGD([self.theta], RULE.rate(1), RULE.momentum, nesterov=True)

    def step(self, packets: list[Packet]) -> None:
        """With the mean of the packets."""
        blocks, decoded = len(self.theta) // BLOCK, []
        for packet in packets:
            raw = torch.frombuffer(packet.payload, dtype=torch.uint8)
            scales, codes = raw[: 4 * blocks].view(torch.float32), raw[4 * blocks :].view(torch.int8)
            decoded.append((codes.view(blocks, BLOCK).float() * scales[:, None]).view(-1))
        self.theta.grad = torch.stack(decoded).mean(0)
        self.optimizer.step()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, seconds of this process's processors)."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def measured(values: int, learners: int, rounds: int, threads: int) -> dict[str, Any]:
    """One row."""
    torch.set_num_threads(threads)
    packets, state, naive = pushes(values, learners), server(values), Naive(values)
    source, copied = room(values, 1.0), room(values, 0.0)
    ways: dict[str, Callable[[], Any]] = {
        "fused": lambda: state.step(RULE, packets, [1 / learners] * learners, learners),
        "copy": lambda: copied.copy_(source),
        "naive": lambda: naive.step(packets),
    }
    for way in ways.values():  # loops are compiled, memory is there
        way()
    torch.testing.assert_close(state.theta, naive.theta.detach(), rtol=1e-5, atol=1e-5)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            if name != "naive" or number < NAIVE_ROUNDS:
                took[name].append(timed(way))
    wall_s, cpu_s = ({name: statistics.median(one[at] for one in each) for name, each in took.items()} for at in (0, 1))
    traffic = sum(len(packet.payload) for packet in packets) + 16 * values
    return {
        "threads": threads,
        "traffic_bytes": traffic,
        "updates_per_s": round(1 / wall_s["fused"], 2),
        "gbps": round(traffic / wall_s["fused"] / 1e9, 2),
        "limit_gbps": round(8 * values / wall_s["copy"] / 1e9, 2),
        "fraction": round(traffic / wall_s["fused"] / (8 * values / wall_s["copy"]), 3),
        "cpu_fraction": round(traffic / cpu_s["fused"] / (8 * values / cpu_s["copy"]), 3),
        "naive_updates_per_s": round(1 / wall_s["naive"], 3),
        "times_naive": round(wall_s["naive"] / wall_s["fused"], 1),
        "times_naive_cpu": round(cpu_s["naive"] / cpu_s["fused"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=100_000_000 // BLOCK * BLOCK)
    parser.add_argument("--learners", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, help="measure here, and print the row")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "aggregate.json")
    args = parser.parse_args()
    if args.threads:
        print(json.dumps(measured(args.values, args.learners, args.rounds, args.threads)))
        return
    before, rows = os.getloadavg(), []
    for threads in (1, 2):
        words = [sys.executable, __file__, *(f"--{k}={getattr(args, k)}" for k in ("values", "learners", "rounds"))]
        done = subprocess.run([*words, f"--threads={threads}"], stdout=subprocess.PIPE, check=True, timeout=LIMIT_S)
        rows.append(json.loads(done.stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": f"{args.learners} pushes of int8({BLOCK}) into float32 parameters with one Nesterov step, float32 sums",
        "values": args.values,
        "rounds": args.rounds,
        "rows": rows,
        "load_before_and_after": [before, os.getloadavg()],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "torch": torch.__version__,
        "commit": git.stdout.strip(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

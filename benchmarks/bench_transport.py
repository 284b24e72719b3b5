"""Bytes per second of plesio's bulk channel, process to process over loopback, beside a plain socket, gloo and ZeroMQ.

Measured is the shipped path: a learner's `Bulk` on one side and a synchronizer's `Subscriber` and `Assembler` on the
other, over authenticated channels, in parts. 'plain' is the fastest that Python has: a blocking `sendall`, and
`recv_into` memory that is there already ('waitall': the same with MSG_WAITALL). All transports take turns in every
round, in an order that rotates; a ratio is one to the plain socket of the same round, and medians are shown. One size
after another, as a run has messages of few sizes: memory is used again, as the plain socket's is.
Writes benchmarks/results/transport.json. Needs pyzmq: pip install -e '.[bench]'.

stream: messages back to back, until the last one is acknowledged. single: one message, until it is acknowledged.
up: from the learner; down: to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import transports

from plesio.testing.waiting import free_port

ROOT = Path(__file__).parents[1]
MB = transports.MB
SIZES_MB = (1, 16, 256)
STREAM_BYTES = 256 * MB  # of a stream, in each round
CLIENTS: dict[str, type[transports.Client]] = {
    "plain": transports.Plain,
    "waitall": transports.Waitall,
    "plesio": transports.Plesio,
    "gloo": transports.Gloo,
    "zeromq": transports.ZeroMQ,
}
GOAL = 0.9


def serve(name: str, port: int) -> None:
    """The server process: says where it listens, and serves one client."""
    if name == "gloo":
        print(port, flush=True)
        transports.serve_gloo(port)
    elif name == "zeromq":
        transports.serve_zeromq(lambda bound: print(bound, flush=True))
    else:
        listener = socket.create_server((transports.HOST, 0))
        print(listener.getsockname()[1], flush=True)
        if name == "plesio":
            asyncio.run(transports.serve_plesio(listener))
        else:
            transports.serve_plain(listener, CLIENTS[name].flags)  # type: ignore[attr-defined]


class Pair:
    """A client here and its server process."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, "--serve", name, "--port", str(free_port())]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the server of {name} did not start")
        self.client: Any = CLIENTS[name](int(line))

    def close(self) -> None:
        """Ends both."""
        self.client.close()
        self.process.wait(20)


def measure(names: list[str], rounds: int) -> list[dict[str, Any]]:
    """A row a size, way and shape; bytes per second, one number a round."""
    pairs = {name: Pair(name) for name in names}
    cases = [(mb, way, shape) for mb in SIZES_MB for way in ("up", "down") for shape in ("stream", "single")]
    rows: list[dict[str, Any]] = [
        {"size_mb": mb, "way": way, "shape": shape, "rates": {name: [] for name in names}} for mb, way, shape in cases
    ]
    try:
        for mb, number in ((mb, number) for mb in SIZES_MB for number in range(-1, rounds)):  # the first one warms up
            for at, row in enumerate(row for row in rows if row["size_mb"] == mb):
                size = mb * MB
                count = STREAM_BYTES // size if row["shape"] == "stream" else 1
                turn = (number + at) % len(names)
                for name in names[turn:] + names[:turn]:
                    again = 5 if count == 1 and size < STREAM_BYTES else 1
                    spent_s = statistics.median(pairs[name].client.move(row["way"], count, size) for _ in range(again))
                    if number >= 0:
                        row["rates"][name].append(count * size / spent_s)
            print(f"{mb} MB: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for pair in pairs.values():
            pair.close()
    return rows


def digest(row: dict[str, Any]) -> dict[str, Any]:
    """Medians of a row: GB/s, and the ratio to the plain socket of the same round."""
    rates = row["rates"]
    return {
        "size_mb": row["size_mb"], "way": row["way"], "shape": row["shape"],
        "gb_per_s": {name: round(statistics.median(x) / 1e9, 3) for name, x in rates.items()},
        "best_gb_per_s": {name: round(max(x) / 1e9, 3) for name, x in rates.items()},
        "to_plain": {
            name: round(statistics.median(a / b for a, b in zip(x, rates["plain"], strict=True)), 3)
            for name, x in rates.items()
        },
    }  # fmt: skip


def table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """For people."""
    lines = [f"{'':>7} {'':>5} {'':>7}" + "".join(f"{name + ' GB/s':>14} {'ratio':>6}" for name in names)]
    for row in rows:
        cells = "".join(f"{row['gb_per_s'][name]:14.2f} {row['to_plain'][name]:6.2f}" for name in names)
        lines.append(f"{row['size_mb']:>4} MB {row['way']:>5} {row['shape']:>7}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--transports", default=",".join(CLIENTS), help="'plain' must be one of them")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    parser.add_argument("--keep", action="store_true", help="leave benchmarks/results as it is")
    parser.add_argument("--serve", choices=list(CLIENTS), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.port)
        return
    names = args.transports.split(",")
    before = os.getloadavg()
    rows = [digest(row) for row in measure(names, args.rounds)]
    print(table(rows, names), file=sys.stderr)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    streams = [row["to_plain"]["plesio"] for row in rows if row["shape"] == "stream"]
    result = {
        "what": "process to process over loopback; stream: 256 MB back to back, single: one message acknowledged",
        "goal": GOAL,
        "least_plesio_stream_to_plain": min(streams),
        "rounds": args.rounds,
        "rows": rows,
        "niceness": os.nice(0),
        "load_before_and_after": [before, os.getloadavg()],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    if not args.keep:
        path = ROOT / "benchmarks" / "results" / "transport.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

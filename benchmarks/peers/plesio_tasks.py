"""plesio's side: runs `plesio bench tasks --json --workers 2`, which measures the same figures of itself.

It prints one JSON object with the keys that figures.measure has, and some of a second run with `--sync full`. With
--kill it is a peer as the others are: a coordinator and two nodes of one slot, no setting touched.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import children
import figures


def plesio() -> str:
    """The command beside this Python, or the one on the path."""
    beside = Path(sys.executable).parent / "plesio"
    found = str(beside) if beside.exists() else shutil.which("plesio")
    if found is None:
        raise SystemExit("the command plesio is missing; make setup, and run this with .venv/bin/python")
    return found


class PlesioPeer:
    """See figures.Peer; for `disturb` only."""

    name = "plesio"

    def __init__(self) -> None:
        self.crew: Any = None
        self.client: Any = None

    def start_nodes(self, folder: Path, variant: str) -> list[int]:
        from plesio.testing.poolcrew import PoolCrew

        self.crew = PoolCrew(folder / "pool")
        self.crew.start_host()
        for name in ("a", "b"):
            self.crew.start_node(name)
        self.client = self.crew.client()
        return [node.pid for node in self.crew.nodes.values()]

    def send(self, path: str, count: int) -> list[Any]:
        function = f"{Path(figures.__file__).resolve()}:leave_effect"
        return [self.client.submit(function, path, number) for number in range(count)]

    def unfinished(self, tasks: list[Any]) -> list[Any]:
        return [task for task in tasks if not task.done()]

    def stop(self) -> None:
        if self.client is not None:
            self.client.close()
        if self.crew is not None:
            self.crew.__exit__()


def bench(command: list[str]) -> dict[str, Any]:
    """What it printed, run in a folder of its own."""
    with children.folder() as folder:
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=folder, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--kill", action="store_true", help="kill a node instead of measuring speed")
    args = parser.parse_args()
    command = [plesio(), "bench", "tasks", "--json", "--tasks", str(args.tasks), "--workers", "2"]
    if args.kill:
        with children.folder() as folder:
            peer = PlesioPeer()
            try:
                found = figures.disturb(peer, "defaults", folder)
            finally:
                peer.stop()
        print(json.dumps({"system": "plesio", "kill": [found]}), flush=True)
        return
    found, full = bench(command), bench([*command, "--sync", "full"])
    found |= {f"{name}_full": full[name] for name in ("tasks_per_s", "p50_ms")}
    print(json.dumps({"system": "plesio", **found}), flush=True)


if __name__ == "__main__":
    main()

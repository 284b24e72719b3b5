"""plesio's side: runs `plesio bench tasks --json --workers 2`, which measures the same figures of itself.

It prints one JSON object with the keys that figures.measure has; with --kill, `{"kill": [...]}` with an object like
the one of figures.disturb for each variant of settings.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import children


def plesio() -> str:
    """The command beside this Python, or the one on the path."""
    beside = Path(sys.executable).parent / "plesio"
    found = str(beside) if beside.exists() else shutil.which("plesio")
    if found is None:
        raise SystemExit("the command plesio is missing; make setup, and run this with .venv/bin/python")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--kill", action="store_true", help="kill a node instead of measuring speed")
    args = parser.parse_args()
    command = [plesio(), "bench", "tasks", "--json", "--tasks", str(args.tasks), "--workers", "2"]
    if args.kill:
        command.append("--kill")
    with children.folder() as folder:
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=folder, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    print(json.dumps({"system": "plesio", **json.loads(done.stdout)}), flush=True)


if __name__ == "__main__":
    main()

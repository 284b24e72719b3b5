"""No-op tasks with results on two worker processes: plesio beside Ray, Dramatiq and Celery, each as its guide advises.

Every round runs every system in turn, in an order that rotates, from nothing started; medians and the spread are
shown. What a figure is: peers/figures.py; a system's settings: its file in peers/, which runs alone too. Every peer has
a virtual environment of its own, made on the first use; redis-server must be installed (apt-get install redis-server).
Writes benchmarks/results/tasks.json.

--kill: 200 tasks of 50 ms on two nodes of one worker each, one of them killed (-9) after a quarter; 30 s later, how
many have no result, how many had their effect twice or never, and the time to the last result beside that of an
undisturbed run, to 0.05 s. Writes benchmarks/results/tasks_kill.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers import children

ROOT = Path(__file__).parents[1]
SYSTEMS = ("plesio", "ray", "dramatiq", "celery")
FIGURES = (
    "tasks_per_s", "tasks_per_s_without_journal", "p50_ms", "p99_ms", "first_result_s", "idle_rss_mb", "idle_pss_mb",
    "tasks_per_s_full", "p50_ms_full",
)  # fmt: skip
KILL_FIGURES = ("not_done", "effects_twice", "effects_never", "undisturbed_s", "disturbed_s")
LIMIT_S = 900.0  # of a system's turn, making its environment included
GRACE_S = 15.0


def run(name: str, options: list[str], folder: Path) -> dict[str, Any]:
    """A system's turn: what its script printed. Whatever it makes is below the folder."""
    command = [sys.executable, str(ROOT / "benchmarks" / "peers" / f"{name}_tasks.py"), *options]
    environ = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environ)
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    except BaseException as error:
        children.begin_cleaning()
        process.terminate()  # it tidies up by itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        if isinstance(error, subprocess.TimeoutExpired):
            raise SystemExit(f"{name} did not end within {LIMIT_S:.0f} s") from error
        raise
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}; its own words are above")
    result: dict[str, Any] = json.loads(said)
    return result


def measure(
    names: list[str], rounds: int, options: dict[str, list[str]], folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """What each system printed, one object a round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(run(name, options[name], folder))
            print(f"round {number + 1} of {rounds}: {json.dumps(found[name][-1])}", file=sys.stderr, flush=True)
    return found


def spread(values: list[float | None]) -> dict[str, Any]:
    """None, if one is missing: a run that did not finish has no median."""
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return {"median": None, "least": None, "most": None, "rounds": values}
    return {"median": round(statistics.median(there), 3), "least": min(there), "most": max(there), "rounds": values}


def digest(objects: list[dict[str, Any]], figures: tuple[str, ...]) -> dict[str, Any]:
    """A system's rounds, or a variant's: the spread of each figure, and what is the same in all of them."""
    same = {key: value for key, value in objects[0].items() if key not in figures}
    return {**same, **{name: spread([each.get(name) for each in objects]) for name in figures}}


def ratios(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of the ratios of the same round."""

    def ratio(other: str, figure: str) -> float:
        pairs = zip(found["plesio"], found[other], strict=True)
        return round(statistics.median(mine[figure] / its[figure] for mine, its in pairs), 3)

    peers = [name for name in found if name != "plesio"]
    if "plesio" not in found or not peers:
        return {}
    best = max(peers, key=lambda name: statistics.median(each["tasks_per_s"] for each in found[name]))
    result: dict[str, Any] = {"best_peer": best, "plesio_to_best_peer_tasks_per_s": ratio(best, "tasks_per_s")}
    return result | ({"plesio_to_ray_p50": ratio("ray", "p50_ms")} if "ray" in found else {})


def table(rows: dict[str, dict[str, Any]], figures: tuple[str, ...]) -> str:
    """For people: the median, and the least and the most."""
    lines = [f"{'':>30}" + "".join(f"{name:>33}" for name in rows)]
    for figure in figures:
        cells = ""
        for row in rows.values():
            cell = row[figure]
            shown = [value for value in cell["rounds"] if value is not None]
            if cell["median"] is None:
                text = f"none in {len(cell['rounds']) - len(shown)} of {len(cell['rounds'])}"
            else:
                text = f"{cell['median']:g} ({cell['least']:g} .. {cell['most']:g})"
            cells += f"{text:>33}"
        lines.append(f"{figure:>30}{cells}")
    return "\n".join(lines)


def variants(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """With --kill: a row for each variant of settings of each system."""
    rows = {}
    for name, objects in found.items():
        for at, first in enumerate(objects[0]["kill"]):
            rows[f"{name}, {first['variant']}"] = digest([each["kill"][at] for each in objects], KILL_FIGURES)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SYSTEMS), help="some of the systems, with commas between")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--kill", action="store_true", help="kill a node instead of measuring speed")
    parser.add_argument("--envs", type=Path, help="where the peers' virtual environments are; default: a cache folder")
    parser.add_argument("--out", type=Path, help="default: tasks.json or tasks_kill.json in benchmarks/results")
    parser.add_argument("--json", action="store_true", help="the result on stdout too")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := [name for name in names if name not in SYSTEMS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    options = {name: ["--tasks", str(args.tasks)] + ["--kill"] * args.kill for name in names}
    for name in names:
        if args.envs and name != "plesio":
            options[name] += ["--env", str(args.envs / name)]
    before = os.getloadavg()
    with children.folder() as folder:
        found = measure(names, args.rounds, options, folder)
    figures = KILL_FIGURES if args.kill else FIGURES
    rows = variants(found) if args.kill else {name: digest(objects, FIGURES) for name, objects in found.items()}
    print(table(rows, figures), file=sys.stderr)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": "a node killed -9 among 200 tasks" if args.kill else "no-op tasks with results, two worker processes",
        "tasks": None if args.kill else args.tasks,
        "rounds": args.rounds,
        "ratios": {} if args.kill else ratios(found),
        "systems": rows,
        "niceness": os.nice(0),
        "load_before_and_after": [before, os.getloadavg()],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    print(json.dumps(result["ratios"]), file=sys.stderr)
    out = args.out or ROOT / "benchmarks" / "results" / ("tasks_kill.json" if args.kill else "tasks.json")
    out.write_text(json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

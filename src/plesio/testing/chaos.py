"""Seeded schedules of real faults against a real run: `python -m plesio.testing.chaos`.

Each schedule trains a small model with three learners (and joiners), kills, stops and cuts real processes and
connections from outside, and then holds what is left against the journal and against an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plesio.reporting.events import read_events
from plesio.testing import chaos_train, verdict
from plesio.testing.injector import Bite, DidNotBite, Stage
from plesio.testing.schedules import KINDS, Schedule, schedule
from plesio.testing.troupe import marked
from plesio.testing.waiting import Hung, free_port, wait_for
from plesio.version import VERSION

TOLERANCE = 0.05  # of the undisturbed run's held-out loss
ATTEMPTS = 3  # a schedule one of whose faults did not bite is run again so often
Row = dict[str, Any]


def perform(plan: Schedule, reference_loss: float | None, folder: Path) -> Row:
    """Runs one schedule until its faults bite; a row of the results. reference_loss: None for the reference itself."""
    missed: list[str] = []
    for attempt in range(ATTEMPTS):
        inside = folder / f"seed-{plan.seed}-{attempt}"
        inside.mkdir(parents=True)
        row = {**attempt_once(plan, reference_loss, inside), "missed": missed}
        if row["problems"] or not row["did_not_bite"]:
            break  # a run that is wrong is not repeated, whatever its faults did
        missed.append(row["did_not_bite"])
    if row.pop("did_not_bite") and not row["problems"]:
        row.update(outcome="failed", problems=["faults did not bite"])
    return row


def attempt_once(plan: Schedule, reference_loss: float | None, folder: Path) -> Row:
    """One run with its faults."""
    began_s = time.monotonic()
    mark = f"chaos-{folder.name}-{time.time_ns()}"
    stage = Stage(folder, mark, free_port(), plan.strategy)
    bites: list[Bite] = []
    wrong: list[str] = []
    did_not_bite = ""
    try:
        try:
            for fault in plan.faults:
                stage.prepare(fault)
            for fault in plan.faults:
                bites.append(stage.inject(fault))
        except DidNotBite as error:
            did_not_bite = str(error)
        wrong += exits(stage)
    except Hung as error:
        wrong.append(str(error))
    finally:
        left = leftovers(mark) if not wrong else []
        stage.close()
    wrong += left
    events = read_events(stage.run_dir)
    wrong += verdict.problems(stage.run_dir) + verdict.traces_missing(events, bites)
    model = stage.run_dir / "model.safetensors"
    loss = chaos_train.loss_of(model) if model.exists() else None
    if loss is None:
        wrong.append("the run left no model")
    elif reference_loss is not None and abs(loss / reference_loss - 1) > TOLERANCE:
        wrong.append(f"held-out loss {loss:.4f} is not within 5 % of the undisturbed {reference_loss:.4f}")
    return {
        "seed": plan.seed,
        "strategy": plan.strategy,
        "faults": [{"kind": b.kind, "what": b.what, "recovery_s": verdict.recovery_s(events, b)} for b in bites],
        "outcome": "failed" if wrong else "passed",
        "problems": wrong,
        "did_not_bite": did_not_bite,
        "loss": loss,
        "undisturbed_loss": reference_loss,
        "wall_s": round(time.monotonic() - began_s, 1),
    }


def exits(stage: Stage) -> list[str]:
    """Waits until every command has ended; those that ended otherwise than they should."""
    wrong = [] if (code := stage.main.end()) == 0 else [f"the run ended with code {code}: {_tail(stage.main.said)}"]
    for command in stage.joined:
        code = command.end()
        if code in (0, -signal.SIGKILL) or (code == 2 and command in stage.turned_away):
            continue
        wrong.append(f"{command.mark} ended with code {code}: {_tail(command.said)}")
    return wrong


def _tail(path: Path) -> str:
    return " / ".join(path.read_text(errors="replace").strip().splitlines()[-3:])


def leftovers(mark: str) -> list[str]:
    """Processes that outlive their command."""
    try:
        wait_for(lambda: not marked(mark), "no process is left")
    except Hung:
        return [f"processes {marked(mark)} are left"]
    return []


def undisturbed(strategy: str, folder: Path) -> Row:
    """The same run without a fault."""
    row = perform(Schedule(-1, strategy, ()), None, folder / strategy)
    say(f"{strategy}, undisturbed: held-out loss {chaos_train.loss_of(None):.4f} -> {row['loss']} in {row['wall_s']} s")
    return row


def perform_all(seeds: list[int], folder: Path) -> Iterator[Row]:
    """Every schedule, each strategy's undisturbed run before its first."""
    references: dict[str, Row] = {}
    for plan in map(schedule, seeds):
        if plan.strategy not in references:
            references[plan.strategy] = undisturbed(plan.strategy, folder)
            yield references[plan.strategy]
        say(f"seed {plan.seed}, {plan.strategy}: " + "; ".join(f"{x.kind} {x.way} at {x.at:.0%}" for x in plan.faults))
        row = perform(plan, references[plan.strategy]["loss"], folder)
        say(f"  {row['outcome']}: loss {row.get('loss')}, {row.get('wall_s')} s")
        for problem in row["problems"]:
            say(f"  {problem}")
        yield row


def say(text: str) -> None:
    """To people."""
    print(text, file=sys.stderr, flush=True)


def options() -> argparse.ArgumentParser:
    """What the command understands."""
    parser = argparse.ArgumentParser(
        prog="python -m plesio.testing.chaos",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains a small model, breaks things while it trains, and checks that nothing was lost.\n\n"
        "Faults: " + ";\n        ".join(KINDS) + ".\n\n"
        "Each seed gives a schedule of three; four seeds from a multiple of 4 on hold every kind, with one strategy; the\n"
        "next four have the next (decoupled twice, sync, diloco, localsgd). After each run: every\n"
        "unit applied exactly once, no version committed twice, committed numbers that only grow, no process left, and\n"
        "the held-out loss within 5 % of an undisturbed run of the same settings. A fault that hit nothing is repeated.",
        epilog="Example: python -m plesio.testing.chaos --seed 7 --keep /tmp/chaos   # one schedule, its files kept",
    )
    parser.add_argument("--seeds", type=int, default=20, help="run seeds 0 to N-1 (default: 20, about 9 minutes)")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--out", type=Path, help="write the results to this file, as JSON")
    parser.add_argument("--json", action="store_true", help="print the results to stdout, as JSON")
    parser.add_argument("--keep", type=Path, help="keep every run's folder in this (new) folder")
    return parser


def main() -> None:
    """Entry of the command. Exit code 1: a schedule failed."""
    asked = options().parse_args()
    seeds = list(range(asked.seeds)) if asked.seed is None else [asked.seed]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="plesio-chaos-") as temporary:
        for row in perform_all(seeds, (asked.keep or Path(temporary)).resolve()):
            rows.append(row)
            text = json.dumps({**about(), "schedules": rows}, indent=1)
            if asked.out is not None:
                asked.out.write_text(text + "\n")
    if asked.json:
        print(text)
    passed = sum(row["outcome"] == "passed" for row in rows)
    say(f"{passed} of {len(rows)} runs passed, undisturbed ones included")
    sys.exit(0 if passed == len(rows) else 1)


def about() -> Row:
    """What was run, and where."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    return {"what": "seeded schedules of real faults", "plesio": VERSION, "commit": commit, "machine": machine}


if __name__ == "__main__":
    main()

"""The log of a run: one readable line a fact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plesio.reporting.events import Event, count, read_events
from plesio.reporting.story import FAULTY_ENDS


def lines(run_dir: Path) -> Iterator[str]:
    """The facts in plain words: local time, seconds since the first, what happened."""
    start_s: float | None = None
    for event in read_events(run_dir):
        start_s = event["unix_s"] if start_s is None else start_s
        local = time.strftime("%H:%M:%S", time.localtime(event["unix_s"]))
        yield f"{local} {event['unix_s'] - start_s:9.1f} s  {say(event)}"


def say(event: Event) -> str:
    """One fact in plain words."""
    words = _WORDS.get(event["type"])
    return words(event) if words is not None else event["type"]


def _units(spans: Any) -> str:
    number = count(spans)
    return f"{number} unit" if number == 1 else f"{number} units"


def _version(version: list[int]) -> str:
    lineage, number = version
    return f"version {number}" if lineage == 1 else f"version {number} (lineage {lineage})"


def _ended(event: Event) -> str:
    what = FAULTY_ENDS.get(event["reason"], event["reason"])
    parts = f", {_units(event['partial'])} partly merged" if event["partial"] else ""
    back = f"{_units(event['returned'])} went back{parts}"
    return f"{event['name']} {what} (generation {event['generation']}): {back}"


def _accepted(event: Event) -> str:
    push = event["contribution"]
    what = f"{push['steps']} steps, {push['tokens']} tokens, {_units(push['ended'])}, {push['size_bytes']} bytes"
    return f"{push['contributor']} sent push {push['seq']}: {what}"


def _closed(event: Event) -> str:
    names = ", ".join(dict.fromkeys(push[0] for push in event["pushes"]))
    share = f"{event['contributors']} of {event['live']} took part: {names}"
    return f"round for {_version(event['version'])} closed ({event['strategy']}), {event['tokens']} tokens; {share}"


def _rolled_back(event: Event) -> str:
    back = f"{_units(event['returned'])} went back, {_units(event['reheld'])} are still with their learners"
    return f"the synchronizer was lost: rolled back to {_version(event['to'])}, lineage {event['lineage']}; {back}"


def _evaluated(event: Event) -> str:
    loss = "not a number" if event["loss"] is None else f"{event['loss']:.4f}"
    return f"held-out loss of {_version(event['version'])}: {loss}"


_WORDS: dict[str, Callable[[Event], str]] = {
    "Thinned": lambda e: (
        f"the log was thinned: {e['left_out']} lines of the older part are left out; all totals hold them"
    ),
    "CoordinatorStarted": lambda e: f"the coordinator started (pid {e['pid']})",
    "RunStarted": lambda e: f"run {e['spec']['run']} started; it asks for {e['spec']['learners']} learners",
    "LeaderElected": lambda e: f"the coordinator leads (epoch {e['epoch']})",
    "MemberJoined": lambda e: f"{e['name']} joined (generation {e['generation']})",
    "MemberEnded": _ended,
    "ModelDeclared": lambda e: f"the model has {e['parameters']} parameters (signature {e['signature'][:12]})",
    "DatasetDeclared": lambda e: f"the data: {e['dataset']['n_samples']} samples, units of {e['dataset']['unit_size']}",
    "UnitsLeased": lambda e: f"{e['name']} took {_units(e['spans'])}",
    "ContributionAccepted": _accepted,
    "ContributionVoided": lambda e: (
        f"push {e['seq']} of {e['name']} was refused ({e['reason']}): {_units(e['returned'])} went back"
    ),
    "RoundClosed": _closed,
    "VersionMerged": lambda e: f"{_version(e['version'])} was merged",
    "VersionCommitted": lambda e: f"{_version(e['version'])} is committed ({e['snapshot']})",
    "RolledBack": _rolled_back,
    "SynchronizerSeen": lambda e: "a synchronizer is up",
    "Evaluated": _evaluated,
    "PeerRefused": lambda e: (
        f"{e['who']} was refused: {e['reason']}" + (f" ({e['count']} times more)" if e.get("count", 1) > 1 else "")
    ),
    "RunFinished": lambda e: f"finished at {_version(e['version'])}: {e['reason']}",
}

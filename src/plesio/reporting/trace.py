"""trace.json: who computed, encoded, sent, waited, merged, when; in the trace event format of Chrome and Perfetto.

One process a learner, with a track a thread; the synchronizer; and the coordinator, whose facts are instants. Arrows
lead from a push to the merge that took it. Open it in https://ui.perfetto.dev, which keeps it in the browser.
Every process's spans are placed by its own machine's clock: a clock that is wrong shifts that process's tracks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from plesio.reporting.events import Event
from plesio.reporting.files import replace
from plesio.reporting.log import say
from plesio.reporting.spans import Line, read_spans
from plesio.reporting.story import FAULTY_ENDS

FILE = "trace.json"
MAX_SPANS = 300_000  # about 40 MB; beyond it the shortest are left out
MAX_ROUNDS = 50_000  # closed rounds shown; beyond it the oldest are left out

TRACKS = {
    "compute": "main",
    "wait": "main",
    "apply": "main",
    "evaluate": "main",
    "encode": "codec",
    "decode": "codec",
    "merge": "tensors",
    "snapshot": "tensors",
    "send": "link",
}
ORDER = ("main", "codec", "tensors", "link", "other")
SANE = 10**16  # microseconds since 1970, and longer than any span; two of them fit 64 bits
LANES = 64  # tids of one track; spans of one track that overlap lie in several lanes
_DETAIL = {"encode": "push", "send": "push"}  # what a learner's detail is; else a version's number
_HIDDEN = {"UnitsLeased", "ContributionAccepted", "VersionMerged"}  # too many, or shown as spans
COORDINATOR, SYNCHRONIZER = "coordinator", "synchronizer"

TraceEvent = dict[str, Any]


@dataclass(slots=True)
class Placed:
    """A span on its track. Times in microseconds since 1970. Owned by `build`."""

    process: str
    generation: int
    name: str
    begun_us: int
    long_us: int
    detail: int
    tid: int = 0

    @property
    def ended_us(self) -> int:
        """When it ended."""
        return self.begun_us + self.long_us


@dataclass(frozen=True)
class Traced:
    """What is in a trace, and what is not: spans without room at their process (dropped) or in the file (thinned)."""

    spans: int = 0
    dropped: int = 0
    thinned: int = 0


def write_trace(run_dir: Path, events: Sequence[Event]) -> Traced | None:
    """Writes trace.json of a run's folder, whole or not at all; None when the disk will not take it."""
    path = run_dir / FILE
    trace, traced = build(read_spans(run_dir), events)
    try:
        replace(path, msgspec.json.encode(trace))
    except OSError:
        return None
    return traced


def build(reports: Iterable[Line], events: Sequence[Event], max_spans: int = MAX_SPANS) -> tuple[TraceEvent, Traced]:
    """The whole document. Pure."""
    spans: list[Placed] = []
    dropped: dict[str, int] = {}
    for report in reports:
        some = _placed(report)
        lost = min(max(0, report.dropped), SANE) + len(report.spans) - len(some)
        dropped[report.process] = dropped.get(report.process, 0) + lost
        spans += some
    kept = _longest(spans, max_spans)
    begun_us = min([*(s.begun_us for s in kept), *(int(e["unix_s"] * 1e6) for e in events)], default=0)
    pids = _pids({COORDINATOR, SYNCHRONIZER, *dropped})
    out = _names(pids, dropped)
    for process, pid in pids.items():
        out += _tracks(process, pid, [s for s in kept if s.process == process], begun_us)
    out += _facts(events, begun_us)
    out += _arrows(kept, events, pids, begun_us)
    traced = Traced(len(kept), sum(dropped.values()), len(spans) - len(kept))
    told = {"started_unix_s": begun_us / 1e6, "dropped_spans": traced.dropped, "thinned_spans": traced.thinned}
    return {"traceEvents": out, "displayTimeUnit": "ms", "otherData": told}, traced


def _placed(report: Line) -> list[Placed]:
    """A report's spans; without those that a broken peer placed where no viewer could show them."""
    if not 0 <= report.unix_s < SANE / 1e6:
        return []
    base_us = int(report.unix_s * 1e6)
    return [
        Placed(report.process, report.generation, name, base_us + at, long, detail)
        for name, at, long, detail in report.spans
        if 0 <= at < SANE and 0 <= long < SANE and 0 <= detail < SANE
    ]


def _longest(spans: list[Placed], limit: int) -> list[Placed]:
    return spans if len(spans) <= limit else sorted(spans, key=lambda s: -s.long_us)[:limit]


def _pids(processes: set[str]) -> dict[str, int]:
    first = (COORDINATOR, SYNCHRONIZER)
    return {name: pid for pid, name in enumerate([*first, *sorted(processes - set(first))], 1)}


def _names(pids: dict[str, int], dropped: dict[str, int]) -> list[TraceEvent]:
    out = []
    for name, pid in pids.items():
        out += [_meta("process_name", pid, 0, name=name), _meta("process_sort_index", pid, 0, sort_index=pid)]
        if dropped.get(name):
            out.append(_meta("process_labels", pid, 0, labels=f"{dropped[name]} spans dropped: there was no room"))
    return [*out, _meta("thread_name", 1, 1, name="facts")]


def _meta(what: str, pid: int, tid: int, **args: Any) -> TraceEvent:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _tracks(process: str, pid: int, spans: list[Placed], zero_us: int) -> list[TraceEvent]:
    """One process's spans, each on its thread's track."""
    out: list[TraceEvent] = []
    for number, track in enumerate(ORDER, 1):
        mine = [s for s in spans if TRACKS.get(s.name, "other") == track]
        for lane in range(assign_lanes(mine)):
            tid = number * LANES + lane
            out.append(_meta("thread_name", pid, tid, name=track if lane == 0 else f"{track} ({lane + 1})"))
            out.append(_meta("thread_sort_index", pid, tid, sort_index=tid))
        for span in mine:
            span.tid += number * LANES
            what = "version" if process == SYNCHRONIZER else _DETAIL.get(span.name, "version")
            place = {"pid": pid, "tid": span.tid, "ts": span.begun_us - zero_us, "dur": span.long_us}
            args = {what: span.detail} if span.detail else {}
            out.append({"ph": "X", "name": span.name, "cat": track, **place, "args": args})
    return out


def assign_lanes(spans: list[Placed]) -> int:
    """Sets `tid` to a lane, 0 and up, such that any two spans of a lane are apart or nested. Returns how many.

    Beyond LANES, which no real run needs, spans share the last lane.
    """
    lanes: list[list[int]] = []  # the ends of the spans that are open there, outermost first
    for span in sorted(spans, key=lambda s: (s.begun_us, -s.long_us)):
        for open_us in lanes:
            while open_us and open_us[-1] <= span.begun_us:
                open_us.pop()
        lane = next((at for at, open_us in enumerate(lanes) if not open_us or span.ended_us <= open_us[-1]), len(lanes))
        if lane == len(lanes) and lane < LANES:
            lanes.append([])
        span.tid = min(lane, LANES - 1)
        lanes[span.tid].append(span.ended_us)
    return len(lanes)


def _facts(events: Sequence[Event], zero_us: int) -> list[TraceEvent]:
    """The journal's facts, as instants of the coordinator; faults across all tracks."""
    shown = [e for e in events if e["type"] not in _HIDDEN]
    routine = [e for e in shown if e["type"] in ("RoundClosed", "VersionCommitted")]
    too_old = {id(e) for e in routine[: max(0, len(routine) - MAX_ROUNDS)]}
    return [
        {
            "ph": "i",
            "s": "g" if _is_fault(event) else "t",
            "name": event["type"],
            "cat": "facts",
            "pid": 1,
            "tid": 1,
            "ts": int(event["unix_s"] * 1e6) - zero_us,
            "args": {"what": say(event)},
        }
        for event in shown
        if id(event) not in too_old
    ]


def _is_fault(event: Event) -> bool:
    return event["type"] == "RolledBack" or (event["type"] == "MemberEnded" and event["reason"] in FAULTY_ENDS)


def _arrows(spans: list[Placed], events: Sequence[Event], pids: dict[str, int], zero_us: int) -> Iterable[TraceEvent]:
    """From each push that was sent to the merge that took it, where both are known."""
    sends = {(s.process, s.generation, s.detail): s for s in spans if s.name == "send" and s.detail}
    merges: dict[int, list[Placed]] = {}
    for span in spans:
        if span.name == "merge":
            merges.setdefault(span.detail, []).append(span)
    number = 0
    for event in [e for e in events if e["type"] == "RoundClosed"][-MAX_ROUNDS:]:
        at_us = int(event["unix_s"] * 1e6)
        candidates = merges.get(event["version"][1], ())  # several when it was rolled back and made again
        merge = min(candidates, key=lambda s: abs(s.begun_us - at_us), default=None)
        for push in event["pushes"]:
            send = sends.get(tuple(push))
            if merge is not None and send is not None and send.begun_us <= merge.begun_us:
                number += 1
                yield _arrow("s", number, send, pids, zero_us)
                yield {**_arrow("f", number, merge, pids, zero_us), "bp": "e"}


def _arrow(phase: str, number: int, span: Placed, pids: dict[str, int], zero_us: int) -> TraceEvent:
    place = {"pid": pids[span.process], "tid": span.tid, "ts": span.begun_us - zero_us}
    return {"ph": phase, "name": "push", "cat": "push", "id": number, **place}

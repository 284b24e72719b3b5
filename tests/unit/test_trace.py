"""trace.json, read back by a small reader of the format that shares nothing with its writer."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from plesio.reporting import trace
from plesio.reporting.report import write_report
from plesio.reporting.spans import FILE, NAMES, OLDER, Line, SpanLog, read_spans
from plesio.wire.timings import Kind, Timings


class Reader:
    """Checks a trace as https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU says."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.processes: dict[int, str] = {}
        self.threads: dict[tuple[int, int], str] = {}
        self.slices: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        self.instants: list[dict[str, Any]] = []
        self.flows: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
        for event in document["traceEvents"]:
            place = event["pid"], event["tid"]
            if event["ph"] == "M":
                if event["name"] == "process_name":
                    self.processes[event["pid"]] = event["args"]["name"]
                elif event["name"] == "thread_name":
                    self.threads[place] = event["args"]["name"]
                continue
            assert isinstance(event["ts"], int) and event["ts"] >= 0 and event["name"]
            if event["ph"] == "X":
                assert isinstance(event["dur"], int) and event["dur"] >= 0
                self.slices[place].append(event)
            elif event["ph"] == "i":
                assert event["s"] in ("g", "p", "t")
                self.instants.append(event)
            else:
                assert event["ph"] in ("s", "f") and event["ph"] not in self.flows[event["id"]]
                self.flows[event["id"]][event["ph"]] = event
        for place in [*self.slices, *((e["pid"], e["tid"]) for e in self.instants)]:
            assert place in self.threads and place[0] in self.processes
        self._check_nesting()
        self._check_flows()

    def _check_nesting(self) -> None:
        for slices in self.slices.values():
            open_until: list[int] = []
            for one in sorted(slices, key=lambda e: (e["ts"], -e["dur"])):
                while open_until and open_until[-1] <= one["ts"]:
                    open_until.pop()
                assert not open_until or one["ts"] + one["dur"] <= open_until[-1], "half overlapping"
                open_until.append(one["ts"] + one["dur"])

    def _check_flows(self) -> None:
        for ends in self.flows.values():
            assert set(ends) == {"s", "f"} and ends["f"]["bp"] == "e" and ends["s"]["ts"] <= ends["f"]["ts"]
            for end in ends.values():
                slices = self.slices[end["pid"], end["tid"]]
                assert any(x["ts"] <= end["ts"] <= x["ts"] + x["dur"] for x in slices), "an arrow to nothing"

    def names(self, process: str) -> set[str]:
        pid = next(pid for pid, name in self.processes.items() if name == process)
        return {one["name"] for place, slices in self.slices.items() if place[0] == pid for one in slices}


def event(kind: str, unix_s: float, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "unix_s": unix_s, **fields}


def closed(number: int, unix_s: float, *pushes: list[Any]) -> dict[str, Any]:
    return event(
        "RoundClosed", unix_s, version=[1, number], strategy="sync", pushes=list(pushes), tokens=8,
        contributors=len(pushes), live=2,
    )  # fmt: skip


def test_every_kind_has_a_name_and_a_track() -> None:
    assert set(NAMES.values()) == set(trace.TRACKS)
    assert set(trace.TRACKS.values()) < set(trace.ORDER)


def test_a_push_points_to_the_merge_that_took_it() -> None:
    reports = [
        Line("learner-0", 3, 100.0, 0, [("compute", 0, 500, 0), ("send", 600, 50, 7)]),
        Line("learner-0", 4, 200.0, 0, [("send", 600, 50, 7)]),  # another generation's
        Line("synchronizer", 0, 100.001, 0, [("merge", 0, 300, 1)]),
    ]
    document, traced = trace.build(reports, [closed(1, 100.0008, ["learner-0", 3, 7], ["learner-1", 1, 1])])
    reader = Reader(json.loads(json.dumps(document)))
    assert traced == trace.Traced(4, 0, 0)
    (ends,) = reader.flows.values()
    assert ends["s"]["ts"] == 600 and ends["f"]["ts"] == 1000
    assert [x["args"]["what"] for x in reader.instants][0].startswith("round for version 1 closed")


def test_a_fault_is_seen_across_all_tracks() -> None:
    died = event("MemberEnded", 5.0, name="learner-0", generation=1, reason="killed", returned=[], partial=[])
    left = event("MemberEnded", 6.0, name="learner-1", generation=2, reason="left", returned=[], partial=[])
    reader = Reader(trace.build([], [died, left])[0])
    assert [x["s"] for x in reader.instants] == ["g", "t"]


def test_the_shortest_are_left_out_and_counted() -> None:
    spans = [("compute", 10 * n, n, 0) for n in range(100)]
    document, traced = trace.build([Line("learner-0", 1, 0.0, 5, spans)], [], max_spans=10)
    reader = Reader(document)
    assert min(x["dur"] for slices in reader.slices.values() for x in slices) == 90
    assert traced == trace.Traced(10, 5, 90)
    assert document["otherData"] == {"started_unix_s": 0.0009, "dropped_spans": 5, "thinned_spans": 90}
    assert "5 spans dropped" in json.dumps(document)


def test_a_run_without_anything_has_an_empty_trace() -> None:
    assert not Reader(trace.build([], [])[0]).slices


times = st.integers(0, 400)
lines = st.lists(
    st.builds(
        Line,
        process=st.sampled_from(["learner-0", "learner-1", "synchronizer", "coordinator", "x"]),
        generation=st.integers(0, 2),
        unix_s=st.integers(0, 3).map(lambda x: 100 + x * 1e-4),
        dropped=st.integers(0, 2),
        spans=st.lists(
            st.tuples(st.sampled_from([*NAMES.values(), "new"]), times, times, st.integers(0, 4)), max_size=12
        ),
    ),
    max_size=5,
)
rounds = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["learner-0", "learner-1"]), st.integers(1, 2), st.integers(1, 4))
)


@given(lines, rounds, st.integers(1, 60))
def test_any_spans_make_a_valid_trace(
    reports: list[Line], merged: list[tuple[int, str, int, int]], max_spans: int
) -> None:
    events = [closed(number, 100.0 + number * 1e-4, [name, gen, seq]) for number, name, gen, seq in merged]
    document, traced = trace.build(reports, events, max_spans)
    reader = Reader(json.loads(json.dumps(document)))
    kept = sum(map(len, reader.slices.values()))
    assert kept == traced.spans <= max_spans
    assert kept + traced.thinned == sum(len(x.spans) for x in reports)


@given(
    st.floats(allow_nan=False),
    st.tuples(st.just("send"), *(st.integers(-(2**63), 2**64 - 1),) * 3),
    st.integers(-(2**63), 2**63),
)
def test_numbers_without_sense_are_dropped_and_break_nothing(
    unix_s: float, span: tuple[str, int, int, int], dropped: int
) -> None:
    good = Line("learner-0", 1, 100.0, 0, [("wait", 0, 5, 0)])
    document, traced = trace.build([Line("learner-1", 1, unix_s, dropped, [span]), good], [])
    reader = Reader(msgspec.json.decode(msgspec.json.encode(document)))
    assert "wait" in reader.names("learner-0")
    assert traced.spans + traced.dropped >= 2


def rows(count: int) -> tuple[tuple[int, int, int, int], ...]:
    return tuple((int(Kind.WAIT), 1000 * n, 5, n) for n in range(count))


def test_the_file_is_rotated_and_read_back_in_order(tmp_path: Path) -> None:
    log = SpanLog(tmp_path, rotate_bytes=10_000)
    for number in range(30):
        log.append("learner-0", number, Timings(float(number), rows(100)))
    assert (tmp_path / OLDER).exists()
    assert sum((tmp_path / name).stat().st_size for name in (FILE, OLDER) if (tmp_path / name).exists()) < 30_000
    read = list(read_spans(tmp_path))
    assert [x.generation for x in read] == list(range(30))[-len(read) :]
    assert read[-1].spans[3] == ("wait", 3000, 5, 3)


def test_torn_and_damaged_lines_are_left_out_and_later_ones_are_read(tmp_path: Path) -> None:
    log = SpanLog(tmp_path)
    log.append("learner-0", 1, Timings(1.0, rows(3)))
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content + b'\n{"process":"learner-0"}\n\xff\xfe\nnull' + content[:40])
    log.append("learner-0", 2, Timings(2.0, rows(3)))
    log.append("learner-0", 3, Timings(float("nan"), rows(3)))
    assert [x.generation for x in read_spans(tmp_path)] == [1, 2]


def test_unknown_kinds_and_a_flood_count_as_dropped(tmp_path: Path) -> None:
    log = SpanLog(tmp_path)
    log.append("learner-0", 1, Timings(1.0, ((99, 0, 1, 0), *rows(1)), -5))
    log.append("learner-0", 1, Timings(1.0, rows(20_000)))
    first, second = read_spans(tmp_path)
    assert (len(first.spans), first.dropped) == (1, 1)
    assert len(second.spans) + second.dropped == 20_000 and second.dropped > 0


def test_a_disk_that_takes_no_more_loses_spans_and_counts_them(tmp_path: Path) -> None:
    log = SpanLog(tmp_path / "gone")
    log.append("learner-0", 1, Timings(1.0, rows(3)))
    (tmp_path / "gone").mkdir()
    log.append("learner-0", 1, Timings(2.0, rows(1)))
    assert [(len(x.spans), x.dropped) for x in read_spans(tmp_path / "gone")] == [(1, 3)]


def test_the_report_links_the_trace_beside_it(tmp_path: Path) -> None:
    SpanLog(tmp_path).append("learner-0", 1, Timings(1.0, rows(3), 2))
    (tmp_path / "events.jsonl").write_text(json.dumps({"type": "CoordinatorStarted", "unix_s": 1.0, "pid": 1}) + "\n")
    page = write_report(tmp_path).read_text()
    assert 'href="trace.json"' in page and "ui.perfetto.dev" in page and "2 more were dropped" in page
    Reader(json.loads((tmp_path / "trace.json").read_text()))


def test_a_trace_that_cannot_be_written_is_not_linked(tmp_path: Path) -> None:
    (tmp_path / "trace.json").mkdir()  # in its way
    page = write_report(tmp_path).read_text()
    assert "trace.json" not in page and not list(tmp_path.glob("*.tmp"))

"""report.html: what a person wants to know after a run, in one file that opens offline; of an unfinished run too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from plesio.reporting import page
from plesio.reporting.charts import Point, Series, line_chart, short, strip
from plesio.reporting.counters import Curve, learner_curve, wire_curve
from plesio.reporting.events import Event, read_events, read_metrics
from plesio.reporting.files import replace
from plesio.reporting.story import Story, tell
from plesio.reporting.summary import summarise_story
from plesio.reporting.trace import FILE as TRACE
from plesio.reporting.trace import Traced, write_trace

WINDOWS = 120  # a run's time is cut into so many at most, for rates
MAX_ROWS = 200  # of a table, and marks in a drawing
MAX_DRAWN = 40  # learners


def write_report(run_dir: Path) -> Path:
    """Writes trace.json and report.html of a run's folder from its spans, events and metrics."""
    path = run_dir / "report.html"
    events = read_events(run_dir)
    traced = write_trace(run_dir, events)
    replace(path, render(tell(events), read_metrics(run_dir), traced).encode())
    return path


def render(story: Story, metrics: list[Event], traced: Traced | None = None) -> str:
    """The page. traced: what trace.json holds, which lies beside it; None: there is none. Pure."""
    summary = summarise_story(story, metrics)
    name = summary["run"] or "a run"
    body = f"<h1>{escape(name)}</h1>" + _headline(summary) + _tiles(summary)
    body += _loss(story) + _utilisation(story, metrics) + _rounds(story, summary) + _wire(story, metrics)
    body += _faults(story) + _learners(summary) + _trace(traced) + _settings(story)
    return page.page(f"{name} - plesio", body)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _headline(summary: dict[str, Any]) -> str:
    learners = len(summary["learners"])
    who = "1 learner" if learners == 1 else f"{learners} learners"
    end = f"Finished: {summary['finished']}." if summary["finished"] else "Not finished."
    work = f"{who} trained {short(summary['tokens'])} tokens in {duration(summary['wall_s'])}"
    out = f'<p class="lead">{escape(f"{end} {work}. {_ledger(summary)} {_mishaps(summary)}")}</p>'
    if summary["rounds"] and summary["effective_participants"]["mean"] == 1:
        out += '<p class="lead warn">Solo: no round had more than one participant.</p>'
    return out


def _ledger(summary: dict[str, Any]) -> str:
    units = summary["units"]
    if units["lost"] or units["duplicated"]:
        return (
            f"{units['lost']} units were lost and {units['duplicated']} were applied more than once: please report it."
        )
    if not units["issued"]:
        return "No units were dealt."
    open_units = units["issued"] - units["applied"] - units["partial"]
    rest = f", {units['partial']} partly" if units["partial"] else ""
    rest += f", {open_units} were still under way" if open_units else ""
    return f"{units['applied']} of {units['issued']} units were applied exactly once{rest}."


def _mishaps(summary: dict[str, Any]) -> str:
    if not summary["faults"]:
        return "Nothing went wrong."
    slowest = max(summary["recovery_s"], default=0.0)
    recovered = f"{len(summary['recovery_s'])} recovered, the slowest in {duration(slowest)}"
    what = "1 fault" if summary["faults"] == 1 else f"{summary['faults']} faults"
    return f"{what}: {recovered}."


def _tiles(summary: dict[str, Any]) -> str:
    loss, first = summary["val_loss"], summary["val_loss_start"]
    took_part, wire = summary["effective_participants"], summary["wire_bytes"]
    return page.tiles(
        [
            (
                f"{loss:.4f}" if loss is not None else "-",
                f"held-out loss (from {first:.4f})" if loss else "held-out loss",
            ),
            (short(summary["tokens_per_s"]), "tokens per second"),
            (str(summary["rounds"]), "rounds committed"),
            (f"{took_part['mean']:.3g}", f"participants a round (at least {took_part['min']})"),
            (f"{short(wire['up'])}B / {short(wire['down'])}B", "sent up / down"),
            (f"{summary['staleness']['max']}", f"versions behind at most (mean {summary['staleness']['mean']:.2g})"),
        ]
    )


def _loss(story: Story) -> str:
    by_tokens = Series("held-out loss", [(float(e.tokens), e.loss) for e in story.evaluations])
    by_time = Series("held-out loss", [(_since(story, e.unix_s), e.loss) for e in story.evaluations])
    return page.section(
        "Held-out loss",
        page.heading("by tokens"),
        line_chart([by_tokens], "tokens", "loss", [(float(_tokens_at(story, x)), what) for x, what in _marks(story)]),
        page.heading("by wall time"),
        line_chart([by_time], "seconds", "loss", _marks(story)),
        page.note("Dashed lines are faults.") if story.faults else "",
    )


def _utilisation(story: Story, metrics: list[Event]) -> str:
    busy: list[Series] = []
    rates: list[Series] = []
    for name in _shown(story):
        working = _steps(learner_curve(metrics, story.processes, name, "busy_s"))
        busy.append(Series(name, [(_since(story, at), min(100.0, 100 * b / span)) for at, span, b in working]))
        tokens = _steps(learner_curve(metrics, story.processes, name, "tokens"))
        rates.append(Series(name, [(_since(story, at), n / span) for at, span, n in tokens]))
    marks = _marks(story)
    return page.section(
        "Utilisation",
        page.heading("computing, as a share of the time (one that is away computes nothing)"),
        line_chart(busy, "seconds", "%", marks, (0.0, 105.0)),
        page.heading("tokens per second"),
        line_chart(rates, "seconds", "1/s", marks),
    )


def _steps(curve: Curve) -> list[tuple[float, float, float]]:
    """A running total as (time, seconds, growth) of successive windows."""
    stride = max(1, len(curve) // WINDOWS)
    kept = curve[::stride]
    return [(t1, t1 - t0, v1 - v0) for (t0, v0), (t1, v1) in zip(kept, kept[1:], strict=False) if t1 > t0]


def _rounds(story: Story, summary: dict[str, Any]) -> str:
    names, columns = _shown(story), story.columns
    rows = [(name, [(c.taken.get(name, 0), c.rounds, c.behind.get(name, 0)) for c in columns]) for name in names]
    size = [(float(c.number), c.effective / c.rounds) for c in columns]
    undone = f" {story.undone} more were rolled back and made again." if story.undone else ""
    return page.section(
        "Rounds and who took part",
        strip(rows),
        page.note(f"One column a round (or several), paler when it was behind. {summary['rounds']} committed.{undone}"),
        page.heading("participants"),
        line_chart([Series("participants", size)], "round", "learners", y_range=(0.0, max(1, len(names)) * 1.1)),
    )


def _wire(story: Story, metrics: list[Event]) -> str:
    series = [Series(f"{key} (total)", _timed(story, wire_curve(metrics, key))) for key in ("up", "down", "control")]
    return page.section("Bytes on the wire", line_chart(series, "seconds", "bytes", _marks(story)))


def _faults(story: Story) -> str:
    if not story.faults:
        return page.section("Faults and recoveries", page.note("There were none."))
    rows = [
        (
            f"{_since(story, f.unix_s):.1f} s",
            f"{f.who} {f.what}",
            "not seen" if f.recovered_s is None else duration(f.recovered_s),
        )
        for f in story.faults[-MAX_ROWS:]
    ]
    table = page.table(("at", "what", "recovered after"), rows)
    return page.section("Faults and recoveries", table, _more(story.faults_seen - len(rows), "earlier faults"))


def _learners(summary: dict[str, Any]) -> str:
    most = sorted(summary["learners"], key=lambda x: -x["tokens"])[:MAX_ROWS]
    rows = [
        (x["id"], short(x["tokens"]), x["steps"], duration(x["busy_s"]), duration(x["wait_s"]), x["restarts"])
        for x in sorted(most, key=lambda x: x["id"])
    ]
    table = page.table(("", "tokens", "steps", "computed", "waited", "restarts"), rows)
    return page.section("Learners", table, _more(len(summary["learners"]) - len(rows), "with fewer tokens"))


def _more(number: int, what: str) -> str:
    return page.note(f"And {number} {what}.") if number else ""


def _shown(story: Story) -> list[str]:
    """The learners that are drawn: all, or those with most tokens."""
    most = sorted(story.joins, key=lambda name: -story.tokens.get(name, 0))[:MAX_DRAWN]
    return sorted(most)


def _trace(traced: Traced | None) -> str:
    if traced is None:
        return ""
    what = f": who computed, encoded, sent and waited, when ({traced.spans} spans). Open it in ui.perfetto.dev."
    if traced.dropped or traced.thinned:
        what += f" {traced.dropped} more were dropped where they arose, and the {traced.thinned} shortest left out."
    return page.section("Trace", f'<p class="note"><a href="{TRACE}">{TRACE}</a>{escape(what)}</p>')


def _settings(story: Story) -> str:
    rows = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in story.spec.items()]
    rows += [(key, json.dumps(value)) for key, value in story.dataset.items()]
    rows += [("parameters", f"{story.parameters:,}")] if story.parameters else []
    gone = f"{story.left_out} lines of the older part of events.jsonl were left out; every total holds them."
    return page.section("Settings", page.table(("", ""), rows), page.note(gone) if story.left_out else "")


def _since(story: Story, unix_s: float) -> float:
    return unix_s - story.started_unix_s


def _timed(story: Story, curve: Curve) -> list[Point]:
    return [(_since(story, unix_s), value) for unix_s, value in curve]


def _marks(story: Story) -> Sequence[tuple[float, str]]:
    return [(_since(story, f.unix_s), f"{f.who} {f.what}") for f in story.faults[-MAX_ROWS:]]


def _tokens_at(story: Story, since_s: float) -> int:
    return max((c.tokens for c in story.columns if _since(story, c.unix_s) <= since_s), default=0)

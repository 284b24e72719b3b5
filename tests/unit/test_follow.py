"""A run as its files tell it: every fact comes back from its line, and the state is the coordinator's."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import get_args

import pytest

from plesio.cli import top
from plesio.core import facts as f
from plesio.core.spec import RunSpec
from plesio.errors import PlesioError, UserError
from plesio.records import Contribution, Dataset, Span, Version
from plesio.reporting.events import event_line, fact_of, parse
from plesio.runtime.follow import RunFolder
from plesio.strategies.text import parse as parse_schedule

SPEC = RunSpec(run="r", learners=1, schedule=parse_schedule("decoupled(every=4)"), until_tokens=99)
V0, V1 = Version(1, 0), Version(1, 1)
PUSH = Contribution("r", "a", 1, 1, (V0,), 16, 2, ended=(Span(0, 0, 2),))
FACTS: list[f.Fact] = [
    f.LeaderElected(1),
    f.RunStarted(SPEC),
    f.SynchronizerSeen("s"),
    f.ModelDeclared("m", 3),
    f.MemberJoined("a", 1, "x"),
    f.VersionCommitted(V0, "s0", "d", 5),
    f.DatasetDeclared(Dataset(64, 8, 2)),
    f.UnitsLeased("a", 1, (Span(0, 0, 3),), 1),
    f.ContributionAccepted(PUSH),
    f.RoundClosed(V1, "sync", (("a", 1, 1),), (1.0,), 1, 1, 16, False),
    f.VersionMerged(V1),
    f.VersionCommitted(V1, "s1", "d", 9),
    f.Evaluated(V1, 0.5, "a"),
    f.Evaluated(V1, math.nan, "a"),
    f.ContributionVoided("a", 1, 2, (Span(0, 2, 3),), "stale"),
    f.PeerRefused("?", "token"),
    f.RolledBack(V1, 2, (), (), ()),
    f.MemberEnded("a", 1, "killed", (), ()),
    f.RunFinished(V1, "token target reached"),
]
ROW = {
    "tokens": 24, "steps": 3, "busy_s": 1.0, "wait_s": 0.5, "tokens_per_s": 7.0, "loss": None, "state": "training",
    "generation": 1, "base": [1, 0], "up_bytes": 5, "down_bytes": 6,
}  # fmt: skip


def sample(unix_s: float) -> str:
    return json.dumps({"unix_s": unix_s, "learners": {"a": ROW}, "wire_bytes": {}, "committed_tokens": 16}) + "\n"


def write(folder: Path, facts: list[f.Fact]) -> None:
    started = json.dumps({"type": "CoordinatorStarted", "unix_s": 1.0, "pid": 1}) + "\n"
    lines = [event_line(seq, 1.0 + seq, fact) + "\n" for seq, fact in enumerate(facts, 1)]
    (folder / "events.jsonl").write_text(started + "".join(lines))


def test_every_fact_comes_back_from_its_line() -> None:
    assert {type(fact) for fact in FACTS} == set(get_args(f.AnyFact))
    for fact in FACTS:
        event = parse(event_line(7, 1.5, fact).encode())
        assert event is not None
        assert repr(fact_of(event)) == repr(fact)


def test_a_line_of_another_time_is_told_by_its_number() -> None:
    event = parse(event_line(7, 1.5, f.LeaderElected(1)).encode())
    assert event is not None
    with pytest.raises(PlesioError, match="event 7 is no LeaderElected"):
        fact_of({**event, "epoch": "one"})
    assert fact_of({"type": "CoordinatorStarted", "unix_s": 1.0, "pid": 5}) is None


def test_the_files_tell_what_the_coordinator_would(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.look(5.0) is None, "there is nothing yet"
    write(tmp_path, FACTS[:10])
    (tmp_path / "metrics.jsonl").write_text(sample(20.0))
    status = folder.look(21.0)
    assert status is not None and status.units == (0, 16) and status.tokens == 0 and status.target == 99
    assert (status.version, status.committed) == (V0, V0) and status.strategy == "sync"
    [learner] = status.learners
    assert (learner.name, learner.state, learner.tokens, learner.up_bytes) == ("a", "training", 24, 5)
    late = folder.look(40.0)
    assert late is not None and late.learners[0].state == "silent", "the coordinator writes no more"

    write(tmp_path, FACTS)
    status = folder.look(41.0)
    assert status is not None and status.finished == "token target reached"
    assert status.units == (2, 16) and status.tokens == 16 and status.live == 0 and status.effective == 1
    assert status.learners[0].state == "gone" and status.faults == 2 and status.losses[0] == (1, 0.5)
    record = json.loads(json.dumps(top.as_record(status, 41.0), allow_nan=False))
    assert record["losses"] == [[1, 0.5], [1, None]] and record["learners"][0]["loss"] is None
    assert record["version"] == [2, 1]


def test_a_torn_line_waits_and_what_a_restart_cuts_off_counts_once(tmp_path: Path) -> None:
    write(tmp_path, FACTS[:9])
    path, folder = tmp_path / "events.jsonl", RunFolder(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert folder.look(5.0) is not None and not folder.state.durable.held
    rows = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:-2]))
    assert folder.look(5.0) is not None
    path.write_bytes(whole)
    assert folder.look(5.0) is not None and len(folder.state.durable.held) == 1


def test_the_newest_run_is_the_one_that_went_on_last(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        top.newest_run(tmp_path)
    for name, at in (("old", 10), ("resumed", 30), ("newer", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        os.utime(tmp_path / name / "run.json", (at, at))
    (tmp_path / "joined-x").mkdir()
    assert top.newest_run(tmp_path).name == "resumed"
    with pytest.raises(UserError, match="not a run's folder"):
        top.a_run(tmp_path / "joined-x")

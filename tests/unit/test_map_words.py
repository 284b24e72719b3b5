"""What `plesio map` says while it runs, and at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from plesio.batch import Progress, Summary
from plesio.cli.mapping import _line, _lines, _words


@pytest.mark.parametrize(
    ("progress", "says"),
    [
        (Progress(0, 0, 0.0, 0.0, None), "waiting for a worker's first results"),
        (Progress(0, 0, 0.0, 0.0, None, "gpu=1 x=2"), "no worker of the pool offers gpu=1 x=2; waiting for one that does "
         "(plesio worker --tag)"),
        (Progress(1200, 0, 0.25, 400.0, 9.4), "1,200 records, 400 a second, 25% read, about 9 s left"),
        (Progress(1200, 3, None, 400.0, None), "1,200 records, 400 a second, 3 dead"),
        (Progress(9, 0, 0.5, 1.0, 600.0), "9 records, 1 a second, 50% read, about 10 min left"),
        (Progress(9, 0, 0.5, 1.0, 9000.0), "9 records, 1 a second, 50% read, about 2 h 30 min left"),
    ],
)  # fmt: skip
def test_how_far_it_is(progress: Progress, says: str) -> None:
    assert _line(progress) == says


@pytest.mark.parametrize(
    ("summary", "says"),
    [
        (Summary(10, 0, 1, 2.0, 5.0, 0), "10 records in 1 part in out, 5 a second"),
        (Summary(1000, 2, 4, 2.0, 5.0, 990), "1,000 records in 4 parts in out, 5 a second; 990 were there before; "
         "2 are dead, see out/dead.jsonl"),
        (Summary(10, 0, 2, 0.0, 0.0, 10), "10 records in 2 parts in out; 10 were there before"),
    ],
)  # fmt: skip
def test_what_became_of_it(summary: Summary, says: str) -> None:
    assert _words(summary, Path("out")) == says


def test_where_there_is_no_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now_s = 100.0
    monkeypatch.setattr("plesio.cli.mapping.time.monotonic", lambda: now_s)
    show = _lines()
    for at_s in (101.0, 104.0, 106.0, 107.0, 112.0):
        now_s = at_s
        show(Progress(int(at_s), 0, None, 1.0, None))
    assert capfd.readouterr().err.splitlines() == [f"plesio: {n} records, 1 a second" for n in (106, 112)]

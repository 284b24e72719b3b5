"""Scalars of TensorBoard: what is written, from which files, and what a resumed run adds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from plesio.core.state import Durable
from plesio.errors import UserError
from plesio.reporting.eventlog import thinned
from plesio.runtime import tensorboard

Written = list[tuple[str, float, int, float]]


class Folder:
    """A run's folder that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pushes = 0

    def fact(self, kind: str, unix_s: float, **fields: Any) -> None:
        with (self.path / "events.jsonl").open("a") as file:
            file.write(json.dumps({"type": kind, "unix_s": unix_s, **fields}) + "\n")

    def round(self, number: int, unix_s: float, tokens: int, base: int) -> None:
        self.pushes += 1
        push = {
            "contributor": "learner-0", "generation": 1, "seq": self.pushes, "bases": [[1, base]], "tokens": tokens,
            "steps": 1, "ended": [], "begun": [],
        }  # fmt: skip
        self.fact("ContributionAccepted", unix_s, contribution=push)
        pushes = [["learner-0", 1, self.pushes]]
        said = {"strategy": "sync", "pushes": pushes, "tokens": tokens, "contributors": 1}
        self.fact("RoundClosed", unix_s, version=[1, number], **said)

    def sample(self, unix_s: float, tokens: int, busy_s: float, generation: int = 1) -> None:
        row = {"tokens": tokens, "busy_s": busy_s, "loss": 2.5, "generation": generation}
        wire = {"up": 10 * tokens, "down": 0, "control": 1}
        line = {"unix_s": unix_s, "learners": {"learner-0": row}, "wire_bytes": wire}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def scalars(folder: Folder, since_unix_s: float = 0.0) -> tuple[tensorboard.Scalars, Written]:
    written: Written = []
    return tensorboard.Scalars(folder.path, lambda *row: written.append(row), since_unix_s), written


def test_losses_and_rounds_are_by_tokens(folder: Folder) -> None:
    board, written = scalars(folder)
    folder.fact("Evaluated", 1.0, version=[1, 0], loss=9.0)
    folder.round(1, 2.0, 100, base=0)
    folder.round(2, 3.0, 100, base=0)
    folder.fact("Evaluated", 4.0, version=[1, 2], loss=5.0)
    board.update()
    assert written == [
        ("loss/held_out", 9.0, 0, 1.0),
        ("loss/held_out", 5.0, 200, 4.0),
        ("rounds/effective_participants", 1.0, 200, 3.0),
        ("rounds/staleness", 0.5, 200, 3.0),
    ]
    board.update()
    assert len(written) == 4, "nothing is written twice"


def test_a_roll_back_takes_the_tokens_back(folder: Folder) -> None:
    board, written = scalars(folder)
    for number in (1, 2, 3):
        folder.round(number, float(number), 100, base=number - 1)
    folder.fact("RolledBack", 4.0, to=[1, 1], lineage=2, returned=[], reheld=[], voided=[])
    folder.fact("Evaluated", 5.0, version=[1, 1], loss=5.0)
    board.update()
    assert board.tokens == 100 and ("loss/held_out", 5.0, 100, 5.0) in written


def test_rates_are_of_the_time_between_two_samples_of_one_process(folder: Folder) -> None:
    board, written = scalars(folder)
    folder.sample(10.0, 1000, 5.0)
    folder.sample(12.0, 1400, 6.0)
    board.update()
    values = {tag: value for tag, value, _, _ in written}
    assert values["run/tokens_per_s"] == 200 and values["learner-0/utilisation"] == 0.5
    assert values["learner-0/loss"] == 2.5 and values["wire/up_bytes"] == 14_000
    written.clear()
    folder.sample(14.0, 50, 0.5, generation=2)
    board.update()
    assert not {"run/tokens_per_s", "learner-0/utilisation"} & {tag for tag, *_ in written}


def test_a_resumed_run_writes_what_is_new_only(folder: Folder) -> None:
    folder.fact("Evaluated", 1.0, version=[1, 0], loss=9.0)
    folder.round(1, 2.0, 100, base=0)
    folder.sample(2.0, 100, 1.0)
    board, written = scalars(folder, since_unix_s=5.0)
    board.update()
    assert written == []
    folder.round(2, 6.0, 100, base=1)
    folder.fact("Evaluated", 7.0, version=[1, 2], loss=4.0)
    board.update()
    assert ("loss/held_out", 4.0, 200, 7.0) in written


def test_a_log_that_was_thinned_repeats_nothing_and_lacks_no_loss(folder: Folder) -> None:
    board, written = scalars(folder)
    folder.fact("Evaluated", 1.0, version=[1, 0], loss=9.0)
    folder.round(1, 2.0, 100, base=0)
    board.update()
    folder.fact("Evaluated", 3.0, version=[1, 1], loss=8.0)
    path = folder.path / "events.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    (folder.path / "new").write_bytes(thinned(rows, sum(map(len, rows)), 1 << 20, 0, Durable()))
    (folder.path / "new").replace(path)
    folder.round(2, 4.0, 100, base=1)
    folder.fact("Evaluated", 5.0, version=[1, 2], loss=7.0)
    board.update()
    losses = [(value, tokens) for tag, value, tokens, _ in written if tag == "loss/held_out"]
    assert losses == [(9.0, 0), (8.0, 100), (7.0, 200)]
    assert [at for tag, _, _, at in written if tag == "rounds/effective_participants"] == [2.0, 4.0]


def test_files_are_readable_by_tensorboard_and_need_no_torch(folder: Folder) -> None:
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    folder.fact("Evaluated", 1.0, version=[1, 0], loss=9.0)
    with tensorboard.following(folder.path, period_s=0.01):
        folder.round(1, 2.0, 100, base=0)
        folder.fact("Evaluated", 3.0, version=[1, 1], loss=8.0)
    read = accumulator.EventAccumulator(str(folder.path / tensorboard.FOLDER))
    read.Reload()
    assert [(x.step, x.value, x.wall_time) for x in read.Scalars("loss/held_out")] == [(0, 9.0, 1.0), (100, 8.0, 3.0)]


def test_a_missing_package_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'plesio\[tensorboard\]'"):
        tensorboard.check_installed()


def test_a_folder_that_takes_no_more_does_not_end_the_run(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.path / tensorboard.FOLDER).mkdir()
    (folder.path / "events.jsonl").mkdir()  # cannot be read
    with tensorboard.following(folder.path, period_s=0.01):
        pass
    assert "--tensorboard stopped" in capsys.readouterr().err

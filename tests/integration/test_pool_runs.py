"""Training runs on a pool, as users start them: real processes on real slots."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plesio.testing.poolup import PoolUp

SCRIPTS = Path(__file__).parents[1] / "scripts"
STRATEGY = ("--strategy", "decoupled(every=8)", "--start-rounds", "4")
pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolUp]:
    """With a run, `first`, that is over."""
    with PoolUp(tmp_path_factory.mktemp("r")) as pool:
        for name in ("tiny.py", "steady.py"):
            shutil.copy(SCRIPTS / name, pool.code)
        (pool.code / "broken.py").write_text("import plesio\nrun = plesio.join()\nraise ValueError('no such data')\n")
        run = pool.command("run", "--on", str(pool.folder), "--name", "first", *STRATEGY, "tiny.py")
        _, words = run.communicate(timeout=180)
        assert run.returncode == 0 and "64 of 64 units" in words, words
        yield pool


def units_of(pool: PoolUp, run: str) -> dict[str, int]:
    found: dict[str, int] = json.loads((pool.folder / "runs" / run / "summary.json").read_text())["units"]
    return found


def test_a_run_trains_on_the_pool_and_comes_home_beside_other_tasks(pool: PoolUp) -> None:
    run = pool.command("run", "--on", str(pool.folder), "--name", "second", *STRATEGY, "tiny.py")
    other = pool.command("submit", "--wait", "math:gcd", "12", "18", "--dir", str(pool.folder))
    assert other.communicate(timeout=120)[0].strip() == "6"
    _, words = run.communicate(timeout=180)
    assert run.returncode == 0, words
    assert "64 of 64 units" in words
    row = pool.run("second")
    assert row["state"] == "finished" and row["tokens"] == 512 and row["live"] == 0
    units = units_of(pool, "second")
    assert units["applied"] == 64 and units["lost"] == units["duplicated"] == 0
    fetched = pool.ask("runs", "fetch", "second")
    home = pool.code / fetched["folder"]
    assert {"model.safetensors", "summary.json", "report.html"} <= {path.name for path in home.iterdir()}
    assert home.joinpath("model.safetensors").read_bytes() == (pool.folder / "runs/second/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_where_it_was(pool: PoolUp) -> None:
    begun = pool.command("run", "--on", str(pool.folder), "--name", "halves", "--detach", *STRATEGY, "steady.py")
    assert begun.wait(60) == 0
    pool.wait_for_tokens("halves", 800)
    assert pool.command("runs", "stop", "halves", "--dir", str(pool.folder)).wait(60) == 0
    stopped = pool.run("halves")  # its learners are about to leave, and it is told to go on already
    assert stopped["state"] in ("stopping", "stopped")
    again = pool.command("runs", "resume", "halves", "--dir", str(pool.folder))
    _, words = again.communicate(timeout=180)
    assert again.returncode == 0, words
    units = units_of(pool, "halves")
    assert units["applied"] == 1024 and units["lost"] == units["duplicated"] == 0
    row = pool.run("halves")
    assert stopped["tokens"] < 8192 == row["tokens"] and row["state"] == "finished" and not row["hosted"]


@pytest.mark.slow
def test_a_more_urgent_run_has_a_slot_of_another_one_which_has_it_back(pool: PoolUp) -> None:
    low = pool.command("run", "--on", str(pool.folder), "--name", "low", *STRATEGY, "steady.py")
    pool.wait_for_tokens("low", 400)
    high = pool.command(
        "run", "--on", str(pool.folder), "--name", "high", "--learners", "1", "--priority", "5", *STRATEGY, "tiny.py"
    )
    assert high.wait(180) == 0
    assert pool.run("low")["state"] == "running", "it was over before it was asked to leave"
    assert low.wait(180) == 0
    for run, applied in (("low", 1024), ("high", 64)):
        units = units_of(pool, run)
        assert units["applied"] == applied and units["lost"] == units["duplicated"] == units["partial"] == 0
    log = pool.command("log", str(pool.folder)).communicate(timeout=60)[0]
    assert " left here." in log


def test_a_script_that_raises_ends_its_run_with_its_words(pool: PoolUp) -> None:
    run = pool.command("run", "--on", str(pool.folder), "--name", "broken", "--learners", "1", "broken.py")
    _, words = run.communicate(timeout=180)
    assert run.returncode == 1 and "no such data" in words and "Traceback" not in words
    row = pool.run("broken")
    assert row["state"] == "failed" and "no such data" in row["error"]


def test_runs_are_told_over_http(pool: PoolUp) -> None:
    def ask(method: str, path: str) -> tuple[int, Any]:
        token = (pool.folder / "http-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        connection = http.client.HTTPConnection("127.0.0.1", pool.http_port, timeout=60)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    names = {row["run"]: row["state"] for row in ask("GET", "/v1/runs")[1]["runs"]}
    assert names["first"] == "finished"
    status, first = ask("GET", "/v1/runs/first")
    assert status == 200 and first["tokens"] == 512 and first["units"] == [64, 64] and first["live"] == 0
    assert ask("GET", "/v1/runs/nothing")[0] == ask("POST", "/v1/runs/nothing/stop")[0] == 404
    status, over = ask("POST", "/v1/runs/first/stop")
    assert status == 409 and "finished already" in over["message"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--name", "first", "tiny.py"), "already"),
        (("--name", "a/b", "tiny.py"), "name"),
        (("missing.py",), "does not exist"),
        (("--chaos", "kill learner-0 at 1s", "tiny.py"), "--chaos: not with --on"),
        (("--require", "@host=1", "tiny.py"), "--require"),
        ((str(SCRIPTS / "tiny.py"),), "folder of its code"),
    ],
)
def test_what_cannot_be_is_one_line(
    pool: PoolUp, words: tuple[str, ...], told: str, typed_in: Callable[..., str]
) -> None:
    said = typed_in(pool.code, "run", "--on", str(pool.folder), *words, code=2)
    assert told in said and "Traceback" not in said


def test_no_such_run_and_no_such_file(pool: PoolUp, typed_in: Callable[..., str]) -> None:
    from plesio.tasks.embedded import attach

    said = typed_in(pool.code, "runs", "show", "nothing", "--dir", str(pool.folder), code=2)
    assert "no run 'nothing'; it has: " in said
    with attach(pool.folder) as client:
        own = {"@host": 1.0}
        for name in ("../../token", "/etc/passwd", "../halves/run.json"):
            error = client.submit("plesio.runs.shelf:piece", "first", name, 0, requires=own).exception(60)
            assert error is not None and "has no file" in str(error)
        for run in ("../..", ".", "a/../..", ""):
            error = client.submit("plesio.runs.shelf:files", run, requires=own).exception(60)
            assert error is not None and "is no name of a run" in str(error)

"""Three machines made of network namespaces: one is cut off for 30 s, one has 5 Mbit/s. See make test-network."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plesio.reporting.events import read_events
from plesio.strategies.presets import Decoupled
from plesio.testing.machines import Machines
from plesio.testing.waiting import wait_for

SCRIPT = Path(__file__).parents[1] / "scripts" / "paced.py"
PLESIO = [sys.executable, "-m", "plesio"]
STEP_S = "0.06"
CUT_S = 30.0
SLACK_S = 1.0  # of a loaded machine; half of what would tell a wait for the silent one from a grace


@pytest.fixture
def machines() -> Iterator[Machines]:
    machines = Machines("abc")
    try:
        machines.build()
        yield machines
    finally:
        machines.close()


def waits_beyond_grace_s(story: list[dict[str, Any]], between: tuple[float, float], overlap: int) -> list[float]:
    """Of every round closed between these times: how long after the grace of its quorum, two of three, it closed.

    The grace: at most `overlap` steps of the slowest contributor, from when the quorum was in and the version before merged.
    """
    arrived: dict[tuple[str, int, int], dict[str, Any]] = {}
    waits_s, merged_s = [], 0.0
    for event in story:
        if event["type"] == "ContributionAccepted":
            push = event["contribution"]
            arrived[push["contributor"], push["generation"], push["seq"]] = event
        elif event["type"] == "VersionMerged":
            merged_s = event["unix_s"]
        elif event["type"] == "RoundClosed" and between[0] < event["unix_s"] < between[1]:
            pushes = [arrived[name, generation, seq] for name, generation, seq in event["pushes"]]
            first: dict[str, float] = {}
            for push in pushes:
                first.setdefault(push["contribution"]["contributor"], push["unix_s"])
            quorum_s = max(sorted(first.values())[:2])
            grace_s = overlap * max(push["contribution"]["step_s"] for push in pushes)
            waits_s.append(event["unix_s"] - max(quorum_s, merged_s) - grace_s)
    return waits_s


@pytest.mark.network
def test_one_cut_off_and_one_on_a_slow_link_lose_nothing(machines: Machines, tmp_path: Path) -> None:
    machines.slow_down("c", "5mbit")
    run_dir = tmp_path / "runs" / "r"
    words = [
        "run",
        "--json",
        "--name",
        "r",
        "--learners",
        "1",
        "--epochs",
        "4",
        "--every",
        "16",
        "--start-rounds",
        "10",
    ]
    words += ["--listen", "0.0.0.0:7700", "--token-file", "secret", str(SCRIPT), STEP_S]
    main = machines.start("a", [*PLESIO, *words], tmp_path)

    def pushes(name: str) -> list[dict[str, Any]]:
        found = [e for e in read_events(run_dir) if e["type"] == "ContributionAccepted"]
        return [e for e in found if e["contribution"]["contributor"] == name]

    others = []
    try:
        wait_for(lambda: any(e["type"] == "RoundClosed" for e in read_events(run_dir)), "the run starts")
        for letter in "bc":
            join = ["join", "10.77.0.1:7700", "--token-file", "secret", "--name", f"on-{letter}", str(SCRIPT), STEP_S]
            others.append(machines.start(letter, [*PLESIO, *join], tmp_path))
        wait_for(lambda: all(len(pushes(f"on-{x}")) > 12 for x in "bc"), "both take part, in local steps")

        machines.cut("b", away=True)
        cut_unix_s = time.time()
        time.sleep(CUT_S)  # it is what is tested
        healed_unix_s = time.time()
        machines.cut("b", away=False)
        wait_for(lambda: any(e["unix_s"] > healed_unix_s for e in pushes("on-b")), "the one cut off is back")
        for process in others:
            _, said = process.communicate(timeout=200)
            assert process.returncode == 0, said
        out, said = main.communicate(timeout=60)
        assert main.returncode == 0, said
    finally:
        for process in (main, *others):
            process.kill()
    summary = json.loads(out)
    units = summary["units"]
    assert units["applied"] == 4 * 1024 and units["lost"] == units["duplicated"] == 0
    tokens = {x["id"]: x["tokens"] for x in summary["learners"]}
    story = read_events(run_dir)
    for letter in "bc":
        name = f"on-{letter}"
        assert tokens[name] == sum(e["contribution"]["tokens"] for e in pushes(name)), "all that it sent counted"
        assert "joins anew" not in (tmp_path / "runs" / f"joined-{name}" / "logs" / f"{name}.log").read_text()
    first = next(e for e in pushes("on-b") if e["unix_s"] > healed_unix_s)
    before = max(e["version"][1] for e in story if e["type"] == "RoundClosed" and e["unix_s"] < cut_unix_s)
    assert first["contribution"]["bases"][0][1] <= before, "it is work that was done while cut off"
    meanwhile = [e for e in story if e["type"] == "RoundClosed" and cut_unix_s < e["unix_s"] < healed_unix_s]
    assert len(meanwhile) > 5 and all(e["contributors"] >= 1 for e in meanwhile), "the others did not wait"
    overlap = Decoupled().overlap
    assert max(waits_beyond_grace_s(story, (cut_unix_s, healed_unix_s), overlap)) <= SLACK_S
    assert not [e for e in story if e["type"] == "MemberEnded" and e["reason"] != "left"]

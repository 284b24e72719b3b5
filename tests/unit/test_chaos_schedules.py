"""The schedules of faults, and the check of what a run left: both without a process."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
import pytest

from plesio.core import facts as f
from plesio.core.spec import RunSpec
from plesio.records import Contribution, Dataset, Span, Version
from plesio.strategies.presets import Decoupled
from plesio.strategies.schedule import Schedule
from plesio.testing import chaos, verdict
from plesio.testing.injector import Bite
from plesio.testing.relay import Cut, Relay
from plesio.testing.schedules import A_BLOCK, KINDS, STRATEGIES, schedule
from plesio.testing.waiting import wait_for
from plesio.wire.frames import HEADER

SPEC = RunSpec(run="r", learners=1, schedule=Schedule.of(Decoupled(every=2)), epochs=1)


def test_a_seed_is_a_schedule() -> None:
    assert [schedule(seed) for seed in range(40)] == [schedule(seed) for seed in range(40)]
    assert len({schedule(seed).faults for seed in range(40)}) == 40


@pytest.mark.parametrize("block", range(5))
def test_four_seeds_hold_every_kind_of_fault(block: int) -> None:
    plans = [schedule(seed) for seed in range(A_BLOCK * block, A_BLOCK * (block + 1))]
    assert sorted(fault.kind for plan in plans for fault in plan.faults) == sorted(KINDS)


def test_twenty_seeds_hold_every_strategy_and_every_variant() -> None:
    plans = [schedule(seed) for seed in range(20)]
    assert {plan.strategy for plan in plans} == set(STRATEGIES)
    ways = {(fault.kind, fault.way) for plan in plans for fault in plan.faults if fault.way}
    assert {way for _, way in ways} == {"up", "down", "process", "machine", "replaced", "silent"}


def test_faults_come_in_order_and_before_the_end() -> None:
    for seed in range(40):
        shares = [fault.at for fault in schedule(seed).faults]
        assert shares == sorted(shares) and 0.0 < shares[0] <= shares[-1] < 1.0


def test_the_help_names_every_fault() -> None:
    text = chaos.options().format_help()
    assert all(kind in text for kind in KINDS)


def push(seq: int, start: int, stop: int) -> Contribution:
    return Contribution(
        "r", "a", 1, seq, (Version(1, seq - 1),), 8 * (stop - start), stop - start, (Span(0, start, stop),)
    )


def closed(number: int) -> f.RoundClosed:
    return f.RoundClosed(Version(1, number), "decoupled", (("a", 1, number),), (1.0,), 1, 1, 16, number == 2)


def journal() -> list[list[f.Fact]]:
    """Two pushes of two units each, in two versions."""
    return [
        [f.LeaderElected(1)],
        [f.RunStarted(SPEC)],
        [f.ModelDeclared("m", 4), f.MemberJoined("a", 1, "i")],
        [f.VersionCommitted(Version(1, 0), "s0", "d", 4)],
        [f.DatasetDeclared(Dataset(32, 8, 1)), f.UnitsLeased("a", 1, (Span(0, 0, 4),), 1)],
        [f.ContributionAccepted(push(1, 0, 2)), closed(1)],
        [f.VersionMerged(Version(1, 1))],
        [f.VersionCommitted(Version(1, 1), "s1", "d", 9)],
        [f.ContributionAccepted(push(2, 2, 4)), closed(2)],
        [f.VersionMerged(Version(1, 2))],
        [f.VersionCommitted(Version(1, 2), "s2", "d", 12)],
        [f.RunFinished(Version(1, 2), "all units applied")],
    ]


def test_a_right_journal_has_no_problem() -> None:
    assert verdict.ledger_problems(journal()) == []


def a_unit_applied_twice(batches: list[list[f.Fact]]) -> None:
    batches[8][0] = f.ContributionAccepted(push(2, 1, 4))


def a_push_merged_twice(batches: list[list[f.Fact]]) -> None:
    batches[8] = [msgspec.structs.replace(closed(2), pushes=(("a", 1, 1),))]


def a_version_committed_twice(batches: list[list[f.Fact]]) -> None:
    batches.insert(8, batches[7])


def an_older_version_committed(batches: list[list[f.Fact]]) -> None:
    batches.insert(-1, [f.VersionCommitted(Version(1, 1), "s1", "d", 13)])


def a_unit_missing(batches: list[list[f.Fact]]) -> None:
    batches[8][0] = f.ContributionAccepted(push(2, 2, 3))


def a_unit_leased_twice(batches: list[list[f.Fact]]) -> None:
    batches.insert(5, [f.UnitsLeased("a", 1, (Span(0, 3, 4),), 2)])


def a_unit_forgotten_with_its_learner(batches: list[list[f.Fact]]) -> None:
    batches.insert(8, [f.MemberEnded("a", 1, "killed", (Span(0, 2, 3),), ())])


def no_end(batches: list[list[f.Fact]]) -> None:
    batches.pop()


MUTANTS = [a_unit_applied_twice, a_push_merged_twice, a_version_committed_twice, an_older_version_committed,
           a_unit_missing, a_unit_leased_twice, a_unit_forgotten_with_its_learner, no_end]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_journal_is_caught(mutant: object) -> None:
    batches = journal()
    mutant(batches)  # type: ignore[operator]
    assert verdict.ledger_problems(batches) != []


def test_a_death_that_the_journal_does_not_know_is_told() -> None:
    bite = Bite(kind="kill learner", unix_s=10.0, until_unix_s=10.0, what="SIGKILL to a", killed=("a", "synchronizer"))
    joined = {"type": "MemberJoined", "name": "a", "unix_s": 11.0}
    assert verdict.traces_missing([joined], [bite]) == ["SIGKILL to a: the journal has no trace of synchronizer"]
    seen = {"type": "SynchronizerSeen", "unix_s": 12.0}
    merged = [{"type": "VersionMerged", "unix_s": at} for at in (11.5, 12.5)]
    assert verdict.traces_missing([joined, seen], [bite]) == []
    assert verdict.recovery_s([joined, seen, *merged], bite) == 2.5
    assert verdict.recovery_s([joined, *merged], bite) is None


def test_the_relay_resets_a_connection_inside_a_chunk() -> None:
    """What was passed on before is whole; then both ends see a reset, not an end."""
    frame = HEADER.pack(0, 100_000) + bytes(100_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(server.getsockname()[:2])
        relay.cut = Cut("up", 0.5)
        host, port = relay.address.split(":")
        near = socket.create_connection((host, int(port)), timeout=60)
        far, _ = server.accept()
        far.settimeout(60)
        sending = threading.Thread(target=near.sendall, args=(frame,), daemon=True)
        sending.start()
        came, reset = 0, False
        try:
            while piece := far.recv(1 << 16):
                came += len(piece)
        except ConnectionResetError:
            reset = True
        sending.join(60)
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        wait_for(lambda: relay.connections == 1, "it has counted the connection")
        relay.close()
        near.close()
        far.close()
    assert reset and 0 < came < len(frame)
    assert 0 < relay.cut.passed_bytes < relay.cut.of_bytes == 100_000


@pytest.mark.parametrize(
    ("attempts", "outcome", "runs"),
    [
        ([("", [])], "passed", 1),
        ([("too late", []), ("", [])], "passed", 2),
        ([("too late", []), ("too late", []), ("too late", [])], "failed", 3),
        ([("too late", ["a unit is lost"]), ("", [])], "failed", 1),
    ],
)
def test_a_fault_that_did_not_bite_is_repeated_and_hides_nothing(
    attempts: list[tuple[str, list[str]]], outcome: str, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(attempts)

    def attempt(plan: object, loss: object, folder: Path) -> dict[str, object]:
        missed, wrong = left.pop(0)
        return {"did_not_bite": missed, "problems": wrong, "outcome": "failed" if wrong else "passed"}

    monkeypatch.setattr(chaos, "attempt_once", attempt)
    row = chaos.perform(schedule(0), 1.0, tmp_path)
    assert row["outcome"] == outcome and len(attempts) - len(left) == runs
    assert bool(row["problems"]) == (outcome == "failed") and "did_not_bite" not in row

"""I5 on the shipped learner: merged, under way and unsent, with what packets lost, are together all that was done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor

from plesio import codecs
from plesio.codecs.base import Packet
from plesio.core import effects as e
from plesio.core.arrival import Load
from plesio.core.spec import RunSpec
from plesio.records import Version
from plesio.runtime import participant as runtime
from plesio.runtime.fragments import pack_state, unpack_state
from plesio.runtime.learner import LearnerEngine
from plesio.runtime.replica import Replica
from plesio.strategies.presets import Decoupled
from plesio.strategies.schedule import Schedule
from plesio.wire import messages as m

EVERY = 2
SIZE = 4


class WiredToNothing:
    """In place of the link: keeps what it was given."""

    def __init__(self, coordinator: Any, token: str, identity: Any, on_event: Any, metrics: Any, tls: Any) -> None:
        self.identity = identity
        self.told: list[Any] = []
        self.sent: dict[tuple[int, int], bytes] = {}  # (generation, seq)

    def start(self) -> None: ...

    def welcome(self) -> None: ...

    def tell(self, message: Any) -> None:
        self.told.append(message)

    def push(self, push: m.Push, data: bytes) -> None:
        self.sent[(push.contribution.generation, push.contribution.seq)] = data

    def settle(self, seqs: list[int]) -> None: ...

    def join_again(self, identity: Any) -> None:
        self.identity = identity


class Feedback(RuleBasedStateMachine):
    """The optimizer's steps, arrivals, refusals and roll-backs in any order."""

    codec = "int8(2)"

    def __init__(self) -> None:
        super().__init__()
        model = torch.nn.Linear(SIZE, 1, bias=False, dtype=torch.float64)
        original, runtime.Link = runtime.Link, WiredToNothing  # type: ignore[misc, assignment]
        try:
            where = runtime.Settings(("nowhere", 0), "", "a", "i")
            self.engine = LearnerEngine(where, model, torch.optim.SGD(model.parameters(), lr=1.0), None)
        finally:
            runtime.Link = original  # type: ignore[misc]
        self.participant = self.engine.participant
        self.link: WiredToNothing = self.participant.link  # type: ignore[assignment]
        self.parameter = next(model.parameters())
        self.server = self.parameter.detach().clone().flatten()  # what all learners see
        self.at = Version(1, 0)
        spec = RunSpec(
            run="r", learners=1, schedule=Schedule.of(Decoupled(every=EVERY)), uplink=self.codec, downlink="none"
        )
        self.work = torch.zeros(SIZE, dtype=torch.float64)  # all that the optimizer did
        self.gone = torch.zeros(SIZE, dtype=torch.float64)  # of it: merged, or refused for good
        self.give(e.Welcome("a", 1, spec, 1))
        self.give_state()
        self.engine.join()

    def teardown(self) -> None:
        self.participant.coding.stop()

    def give(self, message: Any, value: Any = None) -> None:
        self.participant.events.put((message, value))

    def give_state(self) -> None:
        data = pack_state(self.participant.layout, self.server, {})
        self.participant._on_event(m.VersionMade(self.at, "state", {}), memoryview(data))
        self.participant.coding.wait()

    def settled(self) -> None:
        self.participant.coding.wait()
        self.participant.drain()

    def packet(self, seq: int) -> Tensor:
        self.participant.coding.wait()
        return codecs.decode(Packet.from_bytes(self.link.sent[(self.engine.book.generation, seq)]))

    @property
    def in_flight(self) -> list[int]:
        return sorted(self.engine.book.in_flight)

    @precondition(lambda self: len(self.in_flight) < 2)
    @rule(change=st.lists(st.floats(-1e3, 1e3), min_size=SIZE, max_size=SIZE))
    def optimizer_steps(self, change: list[float]) -> None:
        with torch.no_grad():
            self.parameter.add_(torch.tensor(change, dtype=torch.float64))
        self.work -= torch.tensor(change, dtype=torch.float64)  # a delta is base - local
        self.engine.step(tokens=1, loss=None, ends_unit=False)

    @precondition(lambda self: self.in_flight)
    @rule(mine=st.integers(0, 2), others=st.floats(-10.0, 10.0))
    def version_arrives(self, mine: int, others: float) -> None:
        merged = self.in_flight[:mine]
        change = torch.full((SIZE,), others, dtype=torch.float64)
        for seq in merged:
            self.gone += self.packet(seq)
            change -= 0.7 * self.packet(seq)
        self.at = Version(self.at.lineage, self.at.number + 1)
        self.server = self.server + change
        newest = (self.engine.book.generation, merged[-1]) if merged else (0, 0)
        self.give(m.VersionMade(self.at, "delta", {"a": newest}), change)
        self.settled()

    @precondition(lambda self: self.in_flight)
    @rule()
    def push_is_refused(self) -> None:
        seq = self.in_flight[0]
        self.gone += self.packet(seq)
        self.give(e.AnswerPush("a", self.engine.book.generation, seq, "stale"))
        self.settled()

    @rule(voided=st.integers(0, 2), shift=st.floats(-10.0, 10.0))
    def synchronizer_is_lost(self, voided: int, shift: float) -> None:
        """Some of the pushes under way had been merged: those are dealt anew. The others' work comes back."""
        lost = self.in_flight[:voided]
        for seq in lost:
            self.gone += self.packet(seq)
        self.at = Version(self.at.lineage + 1, self.at.number)
        self.server = self.server + shift
        self.give(e.RollBack("a", self.engine.book.generation, self.at.lineage, self.at, tuple(lost), 0))
        self.give_state()
        self.settled()

    @invariant()
    def nothing_of_the_work_is_missing(self) -> None:
        participant = self.participant
        participant.coding.wait()
        local = participant.layout.gather(participant.replica.parameters, torch.empty(SIZE, dtype=torch.float64))
        found = self.gone + (participant.replica.anchor - local)
        for seq in self.in_flight:
            found = found + self.packet(seq)
        if (lost := participant.coding._lost) is not None:  # the model has it back before it is looked at
            found = found + lost
        torch.testing.assert_close(found, self.work, rtol=1e-9, atol=1e-6)

    @invariant()
    def the_base_is_what_the_server_has(self) -> None:
        torch.testing.assert_close(self.engine.replica.outer, self.server)
        assert self.engine.book.base == self.at and self.participant.rejoins == 0


TestFeedback = Feedback.TestCase
TestFeedback.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_learner_that_forgets_what_packets_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "keep", lambda self, lost: None)
    machine = Feedback()
    for _ in range(EVERY):
        machine.optimizer_steps([127.0, 0.3, -5.5, 77.7])
    machine.version_arrives(1, 0.0)
    with pytest.raises(AssertionError):
        machine.nothing_of_the_work_is_missing()
    machine.teardown()


def test_what_a_packet_lost_stays_in_the_local_model_and_goes_with_the_next_one() -> None:
    machine = Feedback()
    for _ in range(EVERY):
        machine.optimizer_steps([127.0, 0.3, -5.5, 77.7])
    lost = machine.work - machine.packet(1)
    assert bool(lost.any())
    machine.version_arrives(1, 0.0)
    replica = machine.participant.replica
    torch.testing.assert_close(replica.outer - machine.parameter.detach().flatten(), lost)
    torch.testing.assert_close(replica.take_delta(), lost)
    machine.teardown()


@pytest.mark.parametrize("arrives", [False, True], ids=["while it is under way", "after its version"])
def test_steps_that_do_not_count_leave_what_packets_lost(arrives: bool) -> None:
    machine = Feedback()
    for _ in range(EVERY):
        machine.optimizer_steps([127.0, 0.3, -5.5, 77.7])
    lost, replica = machine.work - machine.packet(1), machine.participant.replica
    if arrives:
        machine.version_arrives(1, 3.0)
    else:
        replica.keep(machine.participant.coding.take_lost())
    machine.optimizer_steps([1.0, 2.0, 3.0, 4.0])
    replica.discard()
    torch.testing.assert_close(replica.anchor - machine.parameter.detach().flatten(), lost)
    machine.teardown()


@pytest.fixture
def learner() -> Iterator[Feedback]:
    """A learner that has pushed once, and keeps what int8 lost of that; a step later."""
    machine = Feedback()
    for _ in range(EVERY + 1):
        machine.optimizer_steps([127.0, 0.3, -5.5, 77.7])
    machine.settled()
    assert bool(machine.packet(1).any())
    yield machine
    machine.teardown()


def rejoin(machine: Feedback) -> None:
    """It is told that its generation has ended, and then all that a joiner is told."""
    coding, spec = machine.participant.coding, machine.participant.arrivals.spec
    coding.wait()
    machine.give(e.Rejoin("a", machine.engine.book.generation))
    machine.give(e.Welcome("a", 2, spec, 1))
    machine.give_state()
    machine.settled()


def test_who_joins_anew_says_that_what_feedback_kept_is_dropped(
    learner: Feedback, capsys: pytest.CaptureFixture[str]
) -> None:
    rejoin(learner)
    said = capsys.readouterr().err
    assert "a joins anew: its generation was ended; 3 steps and what feedback kept of earlier ones dropped\n" in said
    assert not learner.participant.replica.keeps_something and learner.participant.coding.take_lost() is None


def test_who_joins_anew_without_a_residual_does_not_speak_of_feedback(capsys: pytest.CaptureFixture[str]) -> None:
    machine = Feedback()
    machine.optimizer_steps([127.0, 0.3, -5.5, 77.7])
    rejoin(machine)
    machine.teardown()
    assert "a joins anew: its generation was ended; 1 steps dropped\n" in capsys.readouterr().err


def test_a_residual_of_gradients_is_dropped_out_loud_before_changes(
    learner: Feedback, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coding = learner.participant.coding
    coding.use("ef(int8(2))", False, learner.participant.layout)
    learner.optimizer_steps([127.0, 0.3, -5.5, 77.7])
    coding.wait()
    assert coding.encoder is not None and bool(coding.encoder.state.residual.any())
    monkeypatch.setattr(learner.participant.replica, "enter", lambda kind: True)
    learner.version_arrives(1, 0.0)
    coding.wait()
    assert "a: what feedback kept is dropped: the next rounds are of another kind\n" in capsys.readouterr().err
    assert coding.encoder.state is None


def test_a_residual_of_what_is_rolled_back_is_dropped_out_loud(
    learner: Feedback, capsys: pytest.CaptureFixture[str]
) -> None:
    participant = learner.participant
    value = unpack_state(pack_state(participant.layout, learner.server, {}))
    for _ in range(2):
        participant._load(Version(2, 0), value, Load(rolled_back=True))
        participant.coding.wait()
    assert capsys.readouterr().err.count("a: what feedback kept is dropped: what it was kept of is rolled back\n") == 1
    assert not participant.replica.keeps_something

"""Refusals are told in bounded space; claims of absurd size cost nothing; a name alone proves nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from plesio import codecs
from plesio.codecs import Packet
from plesio.core import coordinator as core
from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import ledger
from plesio.core import stimuli as s
from plesio.core.pool import stimuli
from plesio.core.refusals import KINDS, OTHERS, REASON_LENGTH, WHO_LENGTH, WINDOW_S, Refusals
from plesio.core.spec import RunSpec
from plesio.core.state import Member
from plesio.core.turn import State
from plesio.errors import CodecError, WireError
from plesio.records import Contribution, Dataset, Span, Version
from plesio.runtime import buffers
from plesio.runtime.fragments import Layout, pack_state
from plesio.runtime.outerstate import OuterState, digest
from plesio.runtime.seats import Bound, Seats
from plesio.runtime.status import StatusBoard
from plesio.runtime.synchronizer import MAX_HELD_PER_LEARNER, Synchronizer
from plesio.strategies.base import Strategy
from plesio.strategies.schedule import Schedule
from plesio.wire import messages as m
from plesio.wire import poolmessages

SPEC = RunSpec(run="r", learners=1, schedule=Schedule.of(Strategy(name="decoupled", every=8)))
PUSH = Contribution("r", "a", 1, 1, (Version(1, 0),), 8, 1)


class Driver:
    """A coordinator's core with one learner, 'a', and its first version."""

    def __init__(self) -> None:
        self.state = State()
        self.now_s = 0.0
        self.facts: list[f.Fact] = []
        first = (s.TakeLead(1), s.StartRun(SPEC), s.SynchronizerUp("y", None), s.Join("a", "x", "m", 10))
        for stimulus in (
            *first,
            s.SnapshotWritten("y", Version(1, 0), "file", "digest"),
            s.Hold("a", 1, Version(1, 0)),
        ):
            self.give(stimulus)

    def give(self, stimulus: s.Stimulus) -> list[e.Effect]:
        facts, effects = core.handle(self.state, self.now_s, stimulus)
        self.facts += facts
        return effects

    def refused(self) -> list[f.PeerRefused]:
        return [x for x in self.facts if isinstance(x, f.PeerRefused)]


def test_the_same_refusal_is_told_once_and_then_counted() -> None:
    it = Driver()
    for _ in range(1000):
        it.give(s.Refused("10.0.0.9", "garbage"))
    assert it.refused() == [f.PeerRefused("10.0.0.9", "garbage")]
    due_s = core.wake_s(it.state, it.now_s)
    assert due_s is not None and due_s <= WINDOW_S
    it.now_s = WINDOW_S
    it.give(s.Tick())
    assert it.refused()[1:] == [f.PeerRefused("10.0.0.9", "garbage", 999)]


def test_ever_different_refusals_are_counted_together() -> None:
    it = Refusals()
    told = [it.note(0.0, f"10.0.0.{n}", f"garbage {n}") for n in range(10_000)]
    assert sum(fact is not None for fact in told) == KINDS
    assert it.tell(WINDOW_S) == [f.PeerRefused(*OTHERS, 10_000 - KINDS)]
    assert it.note(WINDOW_S, "x\x1b[2J" + "y" * 1000, "z" * 10_000) is not None
    [(who, reason)] = it.counts
    assert "\x1b" not in who and len(who) < 100 and len(reason) < 500


def test_counts_are_told_when_the_run_ends() -> None:
    it = Refusals()
    for _ in range(3):
        it.note(0.0, "a", "b")
    assert it.tell(1.0) == [] and it.tell(1.0, at_once=True) == [f.PeerRefused("a", "b", 2)]


def test_a_learner_may_not_ask_for_everything() -> None:
    it = Driver()
    it.give(s.AskUnits("a", 1, 1, 1 << 62, Dataset(1 << 40, 1, 0)))
    [leased] = [x for x in it.facts if isinstance(x, f.UnitsLeased)]
    assert sum(map(len, leased.spans)) == core.MAX_ASK


@pytest.mark.parametrize("dataset", [Dataset(0, 1, 1), Dataset(8, 0, 1), Dataset(8, -1, 1), Dataset(8, 1, -1)])
def test_a_dataset_without_units_is_refused(dataset: Dataset) -> None:
    it = Driver()
    it.give(s.AskUnits("a", 1, 1, 1, dataset))
    assert len(it.refused()) == 1 and it.state.durable.dataset is None


@pytest.mark.parametrize("base", [Version(1, 0), Version(1, 5)])
def test_a_push_that_claims_a_billion_units_is_refused_at_once(base: Version) -> None:
    it = Driver()
    it.give(s.AskUnits("a", 1, 1, 4, Dataset(8, 1, 1)))
    push = msgspec.structs.replace(PUSH, bases=(base,), ended=(Span(0, 0, 1 << 62),), begun=(Span(0, -(1 << 62), 0),))
    effects = it.give(s.PushArrived("y", push))
    [answer] = [x for x in effects if isinstance(x, e.AnswerPush)]
    assert answer.reason == ("future" if base.number else "lease") and len(it.refused()) == 1
    assert ledger.refused_units(it.state.durable, push)[0] == (Span(0, 0, 4),)


@pytest.mark.parametrize("name", ["", "synchronizer", "coordinator", "a b", "<script>", "x" * 81, "é", "../x"])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    it = Driver()
    effects = it.give(s.Join(name, "x", "m", 10))
    assert name not in it.state.durable.members and [type(x) for x in effects] == [e.Refuse]


WRONG: list[dict[str, Any]] = [
    {"bases": ()}, {"bases": (Version(1, 0), Version(1, 0))}, {"seq": 0}, {"tokens": -1}, {"steps": 1 << 60},
    {"step_s": math.nan}, {"step_s": math.inf}, {"step_s": -1.0}, {"ended": (Span(0, 3, 3),)}, {"begun": (Span(-1, 0, 1),)},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_malformed_push_is_named(wrong: dict[str, Any]) -> None:
    assert ledger.malformed(PUSH) == ""
    assert ledger.malformed(msgspec.structs.replace(PUSH, **wrong))


def test_figures_that_json_has_no_word_for_do_not_stop_the_coordinator() -> None:
    board = StatusBoard()
    board.measure(m.Metrics("a", 1, busy_s=math.inf, wait_s=math.nan, tokens_per_s=-math.inf, loss=math.inf))
    state = State()
    assert board.metrics_line(state, 0) == "", "it is no member, or was forgotten"
    state.durable.members["a"] = Member("a", 1, "x")
    board.measure(m.Metrics("a", 1, busy_s=math.inf, wait_s=math.nan, tokens_per_s=-math.inf, loss=math.inf))
    row = json.loads(board.metrics_line(state, 0))["learners"]["a"]
    assert row["loss"] is None and row["busy_s"] == row["wait_s"] == row["tokens_per_s"] == 0.0


def test_a_name_at_the_coordinator_needs_its_incarnation() -> None:
    it, one, two = Bound(), object(), object()
    member = Member("a", 2, "x")

    def said(channel: Any, message: Any, taken: bool = False, known: Member | None = member) -> bool:
        try:
            return bool(it.admit(channel, message, known, taken))
        except WireError:
            return False

    assert not said(one, s.Leave("a", 2)), "it has not said who it is"
    assert not said(one, s.Hold("a", 2, Version(1, 0), "y"))
    assert said(one, s.Hold("a", 2, Version(1, 0), "x")) and said(one, s.Leave("a", 2))
    assert not said(one, s.Leave("b", 2)) and not said(one, s.Leave("a", 3))
    assert not said(two, s.Join("a", "y", "m", 1), taken=True) and said(two, s.Join("a", "x.1", "m", 1), taken=True)
    it.gone(two)
    assert not said(two, s.Hold("b", 1, Version(1, 0), "x"), known=None)
    assert it.admit(two, s.Hold("b", 3, Version(1, 0), "x"), None, False, forgotten=3) == "b", "it is told to join anew"
    it.gone(two)
    with pytest.raises(WireError, match="has no generation 4"):
        it.admit(two, s.Hold("b", 4, Version(1, 0), "x"), None, False, forgotten=3)
    assert said(two, s.Join("a", "y", "m", 1)), "the one before it is gone"
    assert said(object(), s.Join("b", "z", "m", 1), known=None) and not said(object(), s.Beat("b", 1, "z"), known=None)
    assert not said(object(), s.Beat("a", 2, "y")) and said(object(), s.Beat("a", 1, "old")), "an old beat is only late"


def test_a_seat_at_the_synchronizer_needs_its_incarnation() -> None:
    it: Any = Seats()
    it.admit("a", 2, "x")
    it.admit("a", 1, "old")
    for claim in (("a", 2, "y"), ("a", 1, "old"), ("b", 0, "")):
        with pytest.raises(WireError):
            it.sit("channel", *claim)
    it.sit("channel", "a", 2, "x")
    it.check("channel", "a", 2)
    for wrong in (("a", 1), ("b", 2)):
        with pytest.raises(WireError):
            it.check("channel", *wrong)
    with pytest.raises(WireError, match="twice"):
        it.sit("channel", "a", 2, "x")
    it.gone("channel")
    with pytest.raises(WireError):
        it.check("channel", "a", 2)


@pytest.mark.parametrize("codec", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_push_that_is_not_finite_is_refused(codec: str, bad: float) -> None:
    outer, model = model_of(torch.nn.Linear(2, 1))
    outer.load(model)
    values = torch.zeros(3)
    chosen = codecs.parse(codec)
    good, _ = chosen.encode(values, None)
    assert isinstance(outer.check(good.to_bytes(), b"", b""), Packet)
    values[1] = bad
    packet, _ = chosen.encode(values, None)
    with pytest.raises(CodecError, match="NaN or Inf"):
        outer.check(packet.to_bytes(), b"", b"")


def test_more_pushes_than_may_wait_are_refused_and_never_counted() -> None:
    """What is told as arrived is ordered to be merged: it must be here."""
    model = torch.nn.Linear(2, 1)
    outer, state = model_of(model)
    outer.load(state)
    synchronizer = Synchronizer(Path(), "token", "y")
    synchronizer.spec, synchronizer.lineage, synchronizer.outer = SPEC, 1, outer
    synchronizer.version = Version(1, 0)
    told: list[Any] = []
    synchronizer._tell = told.append  # type: ignore[method-assign]
    data = codecs.parse("none").encode(torch.zeros(3), None)[0].to_bytes()
    for seq in range(1, 9):
        push = msgspec.structs.replace(PUSH, seq=seq, digest=digest(data), size_bytes=len(data))
        if seq <= MAX_HELD_PER_LEARNER:
            synchronizer._hold(m.Push(push), memoryview(data))
            continue
        with pytest.raises(WireError, match="wait already"):
            synchronizer._hold(m.Push(push), memoryview(data))
    arrived = [x.contribution.seq for x in told if isinstance(x, s.PushArrived)]
    assert arrived == [key[2] for key in synchronizer.held] == list(range(1, MAX_HELD_PER_LEARNER + 1))


def model_of(model: torch.nn.Module, **extra: torch.Tensor) -> tuple[OuterState, bytes]:
    kept = buffers.persistent(model)
    named = list(model.named_parameters())
    layout = Layout.of(named, buffers.describe(kept))
    flat = layout.gather([p for _, p in named], torch.empty(layout.numel))
    more = {buffers.PREFIX + name: buffer.clone() for name, buffer in kept.items()}
    return OuterState("none"), pack_state(layout, flat, {}, {**more, **extra})


def test_a_state_that_is_not_this_model_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    outer, good = model_of(model)
    outer.check_state(good)
    outer.load(good)
    outer.check_state(good)
    broken = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        broken[0].weight[0, 0] = math.nan
    extra = model_of(model, **{buffers.PREFIX + "mine": torch.zeros(3)})[1]
    for bad in (b"", b"x" * 100, model_of(torch.nn.Linear(2, 2))[1], model_of(broken)[1], extra,
                model_of(model, shadow=torch.zeros(1))[1]):  # fmt: skip
        with pytest.raises(CodecError):
            outer.check_state(bad)


def test_there_is_no_push_before_there_is_a_model() -> None:
    packet, _ = codecs.parse("none").encode(torch.zeros(1 << 10), None)
    with pytest.raises(CodecError, match="before there is a model"):
        OuterState("none").check(packet.to_bytes(), b"", b"")


def test_a_client_may_tell_of_a_refusal_in_few_words_only_and_a_slot_may_not() -> None:
    told = stimuli.Refused("w" * WHO_LENGTH, "r" * REASON_LENGTH)
    assert poolmessages.decode("to", poolmessages.encode(told)) == told
    poolmessages.check_role("client", told)
    for role in ("slot", "node"):
        with pytest.raises(WireError, match="may not send"):
            poolmessages.check_role(role, told)
    for long in (stimuli.Refused("w" * (WHO_LENGTH + 1), ""), stimuli.Refused("", "r" * (REASON_LENGTH + 1))):
        with pytest.raises(WireError, match="not a message"):
            poolmessages.decode("to", poolmessages.encode(long))

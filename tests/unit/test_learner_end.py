"""How a learner's part ends, or begins anew, when the run went on without it. The shipped engine, wired to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from plesio.core import effects as e
from plesio.core.spec import RunSpec
from plesio.errors import CodecError, UserError
from plesio.records import Version
from plesio.runtime import participant as runtime
from plesio.runtime.fragments import pack_state, unpack_state
from plesio.runtime.learner import LEAVE_S, LearnerEngine
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule
from plesio.wire import messages as m


class Nowhere:
    """In place of the link."""

    def __init__(self, coordinator: Any, token: str, identity: Any, on_event: Any, metrics: Any, tls: Any) -> None:
        self.identity = identity
        self.said_goodbye = self.stopped = False

    def start(self) -> None: ...

    def welcome(self) -> None: ...

    def join_again(self, identity: Any) -> None:
        self.identity = identity

    def tell(self, message: Any) -> None: ...

    def push(self, push: Any, data: bytes) -> None: ...

    def settle(self, seqs: list[int]) -> None: ...

    def leave(self, farewell: Any) -> None:
        self.said_goodbye = True

    def stop(self) -> None:
        self.stopped = True


class Learner:
    """A learner of version 86 of lineage 1, with a push under way."""

    def __init__(self, start_rounds: int) -> None:
        self.model = torch.nn.Linear(4, 1, bias=False)
        where = runtime.Settings(("nowhere", 0), "", "a", "i")
        self.engine = LearnerEngine(where, self.model, torch.optim.SGD(self.model.parameters(), lr=0.1), None)
        schedule = Schedule.of(Decoupled(every=1), Sync(), start_rounds)
        spec = RunSpec(run="r", learners=1, schedule=schedule, uplink="none", downlink="none")
        self.give(e.Welcome("a", 1, spec, 1))
        self.give_state(Version(1, 86), 1.0)
        self.engine.join()
        self.engine.book.step(1)
        self.engine.participant._push(torch.ones(4), last=False)

    def give(self, message: Any) -> None:
        self.engine.participant._on_event(message, None)
        self.engine.participant.coding.wait()

    def give_state(self, version: Version, value: float) -> None:
        data = pack_state(self.engine.participant.layout, torch.full((4,), value), {})
        self.engine.participant._on_event(m.VersionMade(version, "state", {}), memoryview(data))
        self.engine.participant.coding.wait()


@pytest.fixture(params=[0, 1000], ids=["deltas", "gradients"])
def learner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Learner]:
    monkeypatch.setattr(runtime, "Link", Nowhere)
    learner = Learner(request.param)
    yield learner
    learner.engine.participant.coding.stop()


@pytest.mark.parametrize("state_first", [True, False])
@pytest.mark.parametrize("number", [84, 87])
def test_who_hears_of_the_end_but_not_of_the_roll_back_before_it_has_the_final_model(
    learner: Learner, state_first: bool, number: int
) -> None:
    """The coordinator was killed, and the run was over before this learner was connected to the next one."""
    news = [
        lambda: learner.give_state(Version(2, number), 3.0),
        lambda: learner.give(e.EndRun(Version(2, number), "all")),
    ]
    for tell in news if state_first else reversed(news):
        tell()
        learner.engine.participant.drain()
    learner.engine._settle_final()
    assert learner.engine.book.base == Version(2, number)
    assert next(learner.model.parameters()).tolist() == [[3.0] * 4]


def test_who_is_turned_away_ends_without_waiting_for_an_answer(learner: Learner) -> None:
    """Its script ends with the reason; the goodbye at exit raises nothing, and ends the link."""
    refusal = e.Refuse("a", "i", "the name 'a' is taken by a learner that is alive")
    learner.give(refusal)
    with pytest.raises(UserError, match="taken"):
        learner.engine.participant.drain()
    learner.give(refusal)  # it connected once more
    began_s = time.monotonic()
    learner.engine.leave()
    assert time.monotonic() - began_s < LEAVE_S / 2
    assert learner.engine.participant.link.stopped  # type: ignore[attr-defined]


def test_who_joins_anew_takes_no_state_that_was_under_way_to_the_generation_before(learner: Learner) -> None:
    """It is not asked for: the learner would go on with it, and lose its base when it is welcomed."""
    participant = learner.engine.participant
    learner.give(e.Rejoin("a", 1))
    learner.give_state(Version(1, 90), 2.0)
    learner.give(e.Welcome("a", 2, participant.arrivals.spec, 1))  # type: ignore[arg-type]
    learner.give_state(Version(1, 91), 4.0)
    participant.handle_next()
    assert participant.rejoins == 1 and learner.engine.book.generation == 2
    assert learner.engine.book.base == participant.link.identity.base == Version(1, 91)
    assert next(learner.model.parameters()).tolist() == [[4.0] * 4]


@pytest.mark.parametrize("learner", [0], indirect=True, ids=["deltas"])
def test_a_change_with_nan_is_told_although_the_run_goes_back_before_it_was_encoded(learner: Learner) -> None:
    """It is no packet that could be given back."""
    participant, version = learner.engine.participant, Version(2, 86)
    data = pack_state(participant.layout, torch.full((4,), 3.0), {})
    participant.events.put((e.RollBack("a", 1, 2, version, (), 0), None))
    participant.events.put((m.VersionMade(version, "state", {}), unpack_state(data)))
    learner.engine.book.step(1)
    participant._push(torch.full((4,), torch.nan), last=False)
    with pytest.raises(CodecError, match="holds NaN"):
        participant.drain()

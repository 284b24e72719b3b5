"""Learners that come under ever new names cost nothing for ever; a name that comes back is not taken for the one before."""

from __future__ import annotations

import msgspec
import pytest

from plesio.core import effects as e
from plesio.core import state as core_state
from plesio.core import stimuli as s
from plesio.core.coordinator import State, handle
from plesio.core.spec import RunSpec
from plesio.records import Version
from plesio.sim.cluster import Cluster
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule

encode = msgspec.msgpack.Encoder().encode


def test_names_that_are_gone_are_forgotten_and_begin_above_what_they_were() -> None:
    state = State()
    orders: list[e.Effect] = []

    def give(stimulus: s.Stimulus) -> list[e.Effect]:
        effects = handle(state, 1.0, stimulus)[1]
        orders.extend(effects)
        return effects

    give(s.StartRun(RunSpec(run="r", learners=1, schedule=Schedule.of(Decoupled(every=2), Sync(), 2), epochs=1)))
    give(s.TakeLead(1))
    sizes = []
    for number in range(1000):
        name = f"spot-{number:04}"
        give(s.Join(name, f"i{number:04}", "model", 10))
        give(s.ProcessEnded(name, f"i{number:04}", "killed"))
        sizes.append(len(encode(state.durable)))
    assert max(sizes[500:]) < 1.1 * sizes[70] and len(state.durable.members) <= core_state.ENDED_KEPT + 1
    assert not state.volatile.pulses and not state.volatile.told
    assert e.Forget("spot-0000") in orders and e.Forget("spot-0999") not in orders
    assert give(s.Hold("spot-0000", 1, Version(1, 0), "i0000")) == [e.Rejoin("spot-0000", 1)]
    [welcome] = [x for x in give(s.Join("spot-0000", "again", "model", 10)) if isinstance(x, e.Welcome)]
    assert welcome.generation > 1


@pytest.mark.parametrize("part", range(2))
def test_forgetting_at_once_breaks_no_invariant(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_state, "ENDED_KEPT", 0)
    forgotten = 0
    for seed in range(part * 40, (part + 1) * 40):
        schedule = Schedule.of(Sync()) if seed % 2 else Schedule.of(Decoupled(every=4), Sync(), 5)
        steps = 1 + 2 * (seed // 2 % 2)
        cluster = Cluster(seed, schedule, learners=2 + seed % 3, units=60, steps=steps, faults=40)
        try:
            cluster.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        forgotten += cluster.reference.shadow.forgotten
    assert forgotten > 0

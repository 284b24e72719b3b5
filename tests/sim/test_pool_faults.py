"""Seeded schedules of faults: whatever dies and whatever is lost, every task ends once, and its client hears of it.

Mutants of the core follow: a checker that finds nothing proves nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from plesio.core.pool import clients as core_clients
from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import outcome, retention, work
from plesio.core.pool import state as core_state
from plesio.core.pool import stimuli as s
from plesio.core.pool.book import Book, Lane
from plesio.core.pool.outcome import BY_CRASHES, BY_RETRIES
from plesio.core.pool.recipe import QueueChange, QueueSettings, Recipe
from plesio.core.pool.turn import Policies, Turn
from plesio.core.taskbook import TaskState
from plesio.errors import InternalError
from plesio.policies.aging import Aging
from plesio.policies.speculation import Speculation
from plesio.sim.pool import Pool
from plesio.sim.poolcheck import Reference
from plesio.sim.poolpeers import Client, Work

STEP_S = 1.0
BUSY_S = 2.5  # virtual seconds with faults
SEEDS = 1200  # schedules
CALM_S = 90.0  # ... and then without, at most, until all has ended
ENDS = (
    (("",), 30),
    ((outcome.RAISED,), 2),
    ((outcome.RAISED, ""), 3),
    ((outcome.RAISED, outcome.RAISED, outcome.TIMED_OUT, ""), 2),
    ((outcome.CRASHED, ""), 2),
    ((outcome.MEMORY, outcome.CRASHED, ""), 1),
    ((outcome.CRASHED,), 1),
    ((outcome.LOST, ""), 1),
    ((outcome.UNSENDABLE,), 1),
    ((outcome.NOT_FOUND,), 1),
    (("only here",), 2),
)


@dataclasses.dataclass
class Asked:
    """A task that a client submitted."""

    client: Client
    id: int
    recipe: Recipe
    work: Work
    key: str
    needs: tuple[int, ...]
    cancelled: bool = False


class Schedule:
    """One seed: its clients, its nodes, what they ask for, and what goes wrong."""

    def __init__(self, seed: int, faults: int | None = None) -> None:
        rng = self.rng = random.Random(seed)
        policies = Policies(order=Aging(STEP_S), speculation=Speculation(rng.choice((0.0, 0.1, 0.5))))
        self.pool = Pool(seed, policies)
        self.world = self.pool.world
        self.reference = Reference(STEP_S, frozenset({"m:partly"}))
        self.pool.committed = self.reference.committed
        self.pool.handled = self.reference.handled
        self.pool.start_coordinator()
        self.pool.slow = rng.choice((0.1, 1.0, 10.0))
        self.asked: list[Asked] = []
        self.faults = rng.choice((0, 5, 15)) if faults is None else faults
        self.struck: Counter[str] = Counter()
        self.machines = [
            (f"n{i}", rng.randint(1, 3), (("cpu", 4.0), ("gpu", float(i % 2)))) for i in range(rng.randint(1, 3))
        ]
        for machine in self.machines:
            self.pool.start_node(*machine)
        self.offers_gpu = len(self.machines) > 1
        for i in range(rng.randint(1, 2)):
            client = Client(self.pool, f"session of client {i}")
            client.connect()
            self.pool.clients.append(client)
        self.settings = {
            "default": QueueSettings(),
            "small": QueueSettings(capacity=rng.randint(1, 8)),
            "slow": QueueSettings(rate_per_s=rng.choice((2.0, 20.0))),
        }
        self.world.at(0.1, self.set_queues)
        for _ in range(rng.randint(3, 10)):
            self.world.at(rng.uniform(0.1, BUSY_S), self.submit)
        for _ in range(self.faults):
            self.world.at(rng.uniform(0.2, BUSY_S), self.strike)
        if self.faults and rng.random() < 0.3:
            self.world.at(rng.uniform(0.2, BUSY_S), self.deadly, rng.choice((0.002, 0.02)))
        self.world.at(BUSY_S, self.calm)
        self.world.at(rng.uniform(0.3, BUSY_S), self.pause)

    # -- what they ask for

    def set_queues(self) -> None:
        for name, settings in self.settings.items():
            self.pool.clients[0].tell(s.SetQueue(name, QueueChange(*msgspec.structs.astuple(settings))))

    def pause(self) -> None:
        self.pool.clients[0].tell(s.SetQueue("small", QueueChange(paused=True)))

    def submit(self) -> None:
        rng, client = self.rng, self.rng.choice(self.pool.clients)
        if not client.outbox.number:
            self.world.at(0.1, self.submit)
            return
        ends = rng.choices([ends for ends, _ in ENDS], [weight for _, weight in ENDS])[0]
        fn = "m:partly" if "only here" in ends or outcome.NOT_FOUND in ends else rng.choice(("m:f", "m:f", "m:g"))
        requires = (("gpu", 1.0),) if self.offers_gpu and rng.random() < 0.15 and fn != "m:partly" else ()
        recipe = Recipe(
            fn, rng.choices(tuple(self.settings), (6, 2, 1))[0], rng.choice((0, 0, 0, 1, 3, -2)),
            rng.choice((0.0, 0.0, 2.0)), rng.choice((0, 0, 1, 3)), requires,
        )  # fmt: skip
        forever = rng.random() < 0.04
        count, key, needs, delay_s = rng.choice((1, 1, 2, 4, 15)), "", (), 0.0
        if rng.random() < 0.4:
            count = 1
            key = rng.choice(("", "k", "l"))
            delay_s = rng.choice((0.0, 0.0, 0.5))
            if self.asked and not key:
                needs = tuple(x.id for x in rng.sample(self.asked, min(len(self.asked), rng.randint(1, 3))))
        seconds = rng.choice((0.0001, 0.001, 0.001, 0.01, 0.2, 1.5) if count < 9 else (0.0001, 0.001, 0.05))
        works = [
            Work(1e6 if forever else seconds * rng.uniform(0.5, 2.0), ends, rng.random() < 0.3) for _ in range(count)
        ]
        names = tuple(f"task {len(self.asked) + i}".encode() for i in range(count))
        self.pool.works.update(zip(names, works, strict=True))
        more = {"key": key, "needs": needs, "delay_s": delay_s} if key or needs or delay_s else {}
        ids = client.submit(recipe, names, **more)
        for id, each in zip(ids, works, strict=True):
            self.asked.append(Asked(client, id, recipe, each, key, needs))
        if forever or rng.random() < 0.1:
            self.world.at(rng.uniform(0.001, 1.0), self.cancel, client, ids)

    def cancel(self, client: Client, ids: list[int]) -> None:
        """Until it has an effect: what is told to a connection that breaks is lost."""
        if any(id in client.open for id in ids):
            for asked in self.asked:
                asked.cancelled |= asked.id in ids
            client.tell(s.Cancel(tuple(ids)))
            self.world.at(1.0, self.cancel, client, ids)

    # -- what goes wrong

    def deadly(self, probability: float) -> None:
        self.pool.deadly = probability

    def strike(self) -> None:
        pool, rng = self.pool, self.rng
        kinds: list[Callable[[], None]] = [
            self.cut, self.cut, self.cut, pool.kill_coordinator, self.kill_slot, self.kill_node, self.jump, self.revive,
            self.leave,
        ]  # fmt: skip
        kind = rng.choice(kinds)
        self.struck[kind.__name__] += 1
        if kind == pool.kill_coordinator:
            self.check_fold()
        kind()

    def cut(self) -> None:
        connections = [peer.connection for peer in self.pool.peers() if peer.connection is not None]
        if connections:
            self.rng.choice(connections).cut()

    def kill_slot(self) -> None:
        if slots := self.pool.slots():
            slot = self.rng.choice(slots)
            slot.node.slot_died(slot, outcome.CRASHED)

    def kill_node(self) -> None:
        machine = self.rng.choice(self.machines)
        if self.pool.nodes[machine[0]].alive:
            self.pool.nodes[machine[0]].end()
            self.world.at(self.rng.choice((0.05, 3.0)), self.pool.start_node, *machine)

    def jump(self) -> None:
        self.pool.skew_s += self.rng.choice((-1.0, -0.05, 0.5, 5.0, 100.0))

    def leave(self) -> None:
        if slots := self.pool.slots():
            slot = self.rng.choice(slots)
            slot.tell(s.SlotLeaves(slot.name, slot.incarnation))
            self.world.at(self.rng.uniform(0.0, 0.5), slot.node.slot_died, slot, outcome.LOST)

    def revive(self) -> None:
        dead = [task.id for task in self.reference.tasks.values() if task.where == "dead"]
        if dead:
            self.pool.clients[0].tell(s.Revive(self.rng.choice(dead)))

    def calm(self) -> None:
        self.pool.deadly = 0.0
        self.pool.start_coordinator()
        self.world.at(0.5, self.resume)

    def resume(self) -> None:
        client = self.pool.clients[0]
        client.tell(s.SetQueue("small", QueueChange(paused=False)))
        if self.reference.settings.get("small", QueueSettings()).paused:
            self.world.at(0.5, self.resume)

    # -- what is asserted

    def check_fold(self) -> None:
        coordinator = self.pool.coordinator
        if coordinator is not None:
            self.reference.compare(coordinator.state.durable)

    def over(self) -> bool:
        if self.world.now_s < BUSY_S + 1.0 or any(client.open for client in self.pool.clients):
            return False
        return not any(task.where in ("waits", "leased") for task in self.reference.tasks.values())

    def run(self) -> Schedule:
        ended = self.world.run(BUSY_S + CALM_S, self.over)
        self.check_fold()
        coordinator = self.pool.coordinator
        assert ended and coordinator is not None, f"not ended: {[vars(a) for a in self.asked if a.id in a.client.open]}"
        self.check_outcomes()
        until_s = self.world.now_s + 20.0
        while True:
            self.world.run(self.world.now_s + 0.5, lambda: False)
            try:
                self.check_quiet()
                return self
            except AssertionError:
                if self.world.now_s > until_s:
                    raise

    def check_outcomes(self) -> None:
        tasks = self.reference.forgotten | self.reference.tasks
        for asked in self.asked:
            kind, result = asked.client.outcomes[asked.id]
            known = tasks.get(asked.id)
            assert (known is not None) or asked.id not in asked.client.acknowledged, "I3: an acknowledged task is lost"
            if known is None:
                assert kind == "refused" and asked.needs, f"{asked} was {kind}"
                continue
            assert known.where in ("done", "dead", "cancelled") and known.ends == known.lives
            if known.lives == 1:
                assert (kind, result) == (known.kind, known.result), f"{asked} is told {kind}, and was {known}"
            failures = known.failures + (known.where == "dead" and kind in BY_RETRIES | BY_CRASHES)
            assert failures <= asked.work.began or asked.key, "a failure was counted twice"
            if kind == "":
                assert result.startswith(b"result of ")
            elif asked.needs or asked.key:
                continue
            elif kind == outcome.CANCELLED:
                assert asked.cancelled
            elif kind == outcome.RAISED:
                ends = asked.work.ends
                assert ends.count(kind) + ends.count(outcome.TIMED_OUT) > asked.recipe.retries or ends[-1] == kind
            elif kind == outcome.NOT_FOUND:
                assert outcome.NOT_FOUND in asked.work.ends or asked.recipe.fn == "m:partly"
            elif kind not in (outcome.LOST, outcome.CRASHED, outcome.MEMORY, outcome.TIMED_OUT):
                assert kind in asked.work.ends, f"{asked} ended as {kind}"

    def check_quiet(self) -> None:
        """Nobody believes in anything that is not there, and all slots are at work again."""
        assert self.pool.coordinator is not None
        state = self.pool.coordinator.state
        volatile, book = state.volatile, state.durable.book
        assert not any(book.leases.values()) and not volatile.copies and not volatile.watchers and not book.pins
        assert not any(queue.waiting for queue in book.queues.values())
        assert not any(seat.tasks for seat in volatile.seats.values())
        alive = {slot.name: slot for slot in self.pool.slots()}
        assert set(volatile.seats) == set(alive) == set(state.durable.slots), "a slot that lives is not used"
        assert len(alive) == sum(slots for _, slots, _ in self.machines)
        for slot in alive.values():
            assert not slot.current and not slot.todo and not slot.done, f"{slot.name} is still at {slot.current}"


def caught(seed: int) -> str:
    """What breaks in this schedule; '': nothing."""
    try:
        Schedule(seed).run()
    except (AssertionError, InternalError, LookupError, TypeError, ValueError) as error:
        return f"seed {seed}: {type(error).__name__}: {error}"
    return ""


@pytest.fixture(autouse=True)
def little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "KEPT", 5)
    monkeypatch.setattr(retention, "BATCH", 3)


@pytest.mark.parametrize("part", range(8))
def test_every_task_ends_once_and_is_told_whatever_goes_wrong(part: int) -> None:
    total: Counter[str] = Counter()
    for seed in range(part * SEEDS // 8, (part + 1) * SEEDS // 8):
        try:
            done = Schedule(seed).run()
        except (AssertionError, InternalError, LookupError, TypeError, ValueError) as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        total += Counter(done.reference.counted) + done.struck + done.pool.told
    print(dict(total))
    assert total.keys() >= {
        "cut", "kill_coordinator", "kill_slot", "kill_node", "jump", "leave", "revive", "TasksForgotten", "TaskRevived",
        "TasksCancelled", "TaskDied", "AttemptFailed", "TasksReturned", "Decline", "Disconnect", "StopTask", "Revoke",
    }  # fmt: skip


# -- mutants


def nothing_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def slot_up(turn: Turn, stimulus: s.SlotUp) -> None:
        work.slot_up(turn, stimulus)
        turn.runs.pop(stimulus.slot, None)

    monkeypatch.setitem(core._HANDLERS, s.SlotUp, slot_up)


def a_second_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_wanted", lambda call: call is not None and call.state is not TaskState.CANCELLED)
    monkeypatch.setattr("plesio.core.pool.book.check_move", lambda id, state, to: None)


def holes_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_state.Client, "has", lambda self, first, stop: first <= self.known)


def what_was_missed_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = core_clients._tell_those_that_ended
    known = e.Accept

    def only_when_asked(turn: Turn, session: str, ids: list[int]) -> list[int]:
        if turn.effects and isinstance(turn.effects[-1], known):
            return []
        return tell(turn, session, ids)

    monkeypatch.setattr(core_clients, "_tell_those_that_ended", only_when_asked)


def a_failure_said_again_counts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(turn: Turn, stimulus: s.Failed) -> None:
        call = turn.book.calls.get(stimulus.id)
        again = call.tries if call is not None else 0
        work.failed(turn, msgspec.structs.replace(stimulus, attempt=again))

    monkeypatch.setitem(core._HANDLERS, s.Failed, failed)


def who_was_silent_is_not_asked_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Turn.order

    def deaf(self: Turn, effect: e.Effect) -> None:
        if not isinstance(effect, e.Disconnect):
            order(self, effect)

    monkeypatch.setattr(Turn, "order", deaf)


def the_lanes_of_a_fold_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Book, "line_up", lambda self: None)


def what_came_back_waits_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "add", lambda self, call: self._fresh.append(call))


MUTANTS = {  # and a schedule a little before the first one that shows it, so that the search is short
    nothing_is_sent_again: 50,
    a_second_result_counts: 0,
    holes_are_not_remembered: 0,
    what_was_missed_is_not_told: 0,
    a_failure_said_again_counts_again: 1290,
    who_was_silent_is_not_asked_to_come_again: 0,
    the_lanes_of_a_fold_are_kept: 150,
    what_came_back_waits_at_the_end: 0,
}


@pytest.mark.parametrize("mutate", list(MUTANTS), ids=lambda mutate: mutate.__name__)
def test_a_mutant_of_the_core_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    found = next(filter(None, map(caught, range(MUTANTS[mutate], MUTANTS[mutate] + SEEDS))), "")
    assert found
    print(found[:300])

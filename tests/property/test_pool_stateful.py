"""Arbitrary stimuli to a pool, also nonsense, repeated, reordered and stale ones: it never breaks its own rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plesio.core.pool import clients, outcome, places, retention
from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.book import FAILED, WAITS
from plesio.core.pool.recipe import QueueChange, Recipe, task_id
from plesio.core.pool.state import Durable, Kept, apply, freeze, thaw
from plesio.core.pool.turn import Policies, State
from plesio.core.taskbook import TaskState
from plesio.policies.speculation import Speculation
from plesio.wire import poolmessages as m

NAN, INF = float("nan"), float("inf")
SESSIONS = ("ann " * 4, "ben " * 4, "cyd " * 4)
SLOTS, NODES = ("x", "y", "z"), ("n", "o")

encode = msgspec.msgpack.Encoder(order="deterministic").encode
decode_facts = msgspec.msgpack.Decoder(list[f.AnyFact]).decode
decode_kept = msgspec.msgpack.Decoder(Kept).decode

sessions = st.sampled_from((*SESSIONS, *SESSIONS, "short"))
slots, nodes, incarnations = st.sampled_from(SLOTS), st.sampled_from(NODES), st.sampled_from(("1", "1", "2"))
ids = st.builds(task_id, st.integers(1, 3), st.integers(1, 5)) | st.sampled_from((0, -1, 1 << 62))
some_ids = st.lists(ids, max_size=3).map(tuple)
tags = st.sampled_from(((), (("gpu", 1.0),), (("gpu", NAN),), (("gpu", 0.5), ("gpu", 2.0))))
kinds = st.sampled_from((*sorted(outcome.KINDS), "", "nonsense"))
queues = st.sampled_from(("default", "q", "r", ""))
data = st.sampled_from((b"", b"a"))
recipes = st.builds(
    Recipe,
    st.sampled_from(("m:f", "m:f", "m:g", "")),
    queues,
    st.sampled_from((0, 0, 0, 1, -3, 5000)),
    st.sampled_from((0.0, 0.0, 1.0, NAN, -1.0, INF)),
    st.sampled_from((0, 1, 1, 1 << 40, -1)),
    tags,
)
plain = st.builds(Recipe, st.sampled_from(("m:f", "m:g")), st.sampled_from(("default", "q")), retries=st.integers(0, 1))
args = st.lists(data, max_size=3).map(tuple)
delays = st.sampled_from((0.0, 0.0, 0.0, 0.5, -1.0, NAN, INF))
keys = st.sampled_from(("", "", "k"))
limits = st.builds(
    QueueChange,
    st.sampled_from((None, 1, 2, 100, 0, -5)),
    st.sampled_from((None, 0.0, 5.0, NAN, INF, -1.0)),
    st.none() | st.booleans(),
)
numbers = st.integers(1, 5) | st.sampled_from((0, -1, 1 << 63))
amounts = st.sampled_from((0, 1, -1, 1 << 62, 1 << 63))
kinds_of_place = st.sampled_from((*places.HELD, places.COUNTER, places.EVENT, places.BARRIER, ""))
lives = st.tuples(slots, incarnations)
seconds = st.sampled_from((0.0, 0.001, 1.0, NAN, INF, -1.0, 1e300))
stimuli = st.one_of(
    st.builds(s.ClientUp, sessions),
    st.builds(s.ClientLost, sessions),
    st.builds(s.Submit, sessions, st.integers(-1, 5) | st.just(1 << 32), recipes, args, delays, keys, some_ids),
    st.builds(s.Submit, sessions, st.integers(1, 5), plain, args, st.just(0.0), keys, some_ids),
    st.builds(s.Submit, sessions, st.integers(1, 5), plain, args),
    st.builds(s.Await, sessions, some_ids),
    st.builds(s.Taken, sessions, some_ids),
    st.builds(s.Cancel, some_ids),
    st.builds(s.Revive, ids),
    st.builds(s.SetQueue, queues, limits),
    st.builds(s.RemoveQueue, queues),
    st.builds(s.NodeUp, nodes, st.lists(lives, max_size=3).map(tuple), some_ids),
    st.builds(s.NodeLost, nodes),
    st.builds(s.SlotUp, slots, nodes, incarnations, tags, some_ids),
    st.builds(s.SlotUp, slots, nodes, st.just("1")),
    st.builds(s.SlotLost, slots, incarnations),
    st.builds(s.SlotExited, slots, incarnations, ids, kinds, st.just("it")),
    st.builds(s.Finished, slots, incarnations, some_ids, args, seconds),
    st.builds(s.Failed, slots, incarnations, ids, kinds, st.just("it"), st.integers(-1, 2)),
    st.builds(s.Concurrent, slots, incarnations, st.sampled_from(("m:f", "none"))),
    st.builds(s.GaveBack, slots, incarnations, some_ids),
    st.builds(s.SlotLeaves, slots, incarnations),
    st.builds(
        s.Want,
        sessions,
        numbers,
        kinds_of_place,
        queues,
        slots,
        st.booleans(),
        st.sampled_from((0, 1, 2, -1)),
        st.booleans(),
    ),
    st.builds(s.Want, sessions, numbers, st.just(places.LOCK), queues, slots),
    st.builds(s.Release, sessions, numbers, numbers),
    st.builds(
        s.Change,
        sessions,
        numbers,
        kinds_of_place,
        queues,
        st.sampled_from(("add", "put", "get", "check", "")),
        amounts,
        st.none() | amounts,
        st.integers(0, 2),
    ),  # fmt: skip
    st.builds(s.Heard, sessions, numbers, some_ids),
    st.builds(s.Renew, sessions),
    st.builds(s.Refused, st.sampled_from(("a", "\x00")), st.just("why")),
    st.just(s.Tick()),
    st.builds(s.TakeLead, st.integers(0, 9)),
)
batches = st.lists(stimuli, min_size=1, max_size=4)


@pytest.fixture(autouse=True, scope="module")
def little_is_kept() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "KEPT", 2)
        patch.setattr(retention, "BATCH", 1)
        patch.setattr(clients, "CLIENTS_KEPT", 2)
        yield


class AnyOrder(RuleBasedStateMachine):
    """Drives handle(), and folds the facts beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.policies = Policies(speculation=Speculation(0.5))
        self.state = State(policies=self.policies)
        self.folded = Durable()
        self.journal: list[bytes] = []
        self.now_s = 0.0
        self.ended: Counter[int] = Counter()
        self.lives: Counter[int] = Counter()
        self.last: list[Any] = []
        self.give(s.TakeLead(1), s.ClientUp(SESSIONS[0]), *(s.SlotUp(slot, "n", "1") for slot in SLOTS[:2]))

    def give(self, *batch: s.Stimulus) -> None:
        self.last = [m.decode("to", m.encode(stimulus)) for stimulus in batch]
        facts, effects = core.handle(self.state, self.now_s, self.last)
        for effect in effects:
            assert m.decode("from", m.encode(effect)) is not None
            assert not isinstance(effect, e.Run) or effect.orders
        self.journal.append(encode(facts))
        for fact in decode_facts(self.journal[-1]):
            apply(self.folded, fact)
            self.note(fact)
        wake_s = core.wake_s(self.state, self.now_s)
        assert wake_s is None or wake_s == wake_s

    def note(self, fact: Any) -> None:
        """I3: one outcome for each life."""
        if isinstance(fact, f.TasksSubmitted):
            for i in range(len(fact.args)):
                self.lives[task_id(fact.client, fact.first + i)] += 1
                assert self.lives[task_id(fact.client, fact.first + i)] == 1
        elif isinstance(fact, f.TaskRevived):
            self.lives[fact.id] += 1
        elif isinstance(fact, (f.TasksDone, f.TasksCancelled)):
            self.ended.update(fact.ids)
        elif isinstance(fact, f.TaskDied):
            self.ended[fact.id] += 1
        assert all(self.ended[id] <= self.lives[id] for id in getattr(fact, "ids", ())), "I3: it ended twice"

    @rule(batch=batches)
    def anything(self, batch: list[s.Stimulus]) -> None:
        self.give(*batch)

    @rule()
    def again(self) -> None:
        self.give(*self.last)

    @rule(seconds=st.sampled_from((-5.0, 0.01, 0.06, 0.2, 1.0, 1.5, 3.0, 100.0, 1e5)))
    def time_passes(self, seconds: float) -> None:
        self.now_s = max(0.0, self.now_s + seconds)
        self.give(s.Tick())

    @rule(who=st.integers(0, 1), skip=st.sampled_from((0, 0, 0, 2)), count=st.integers(1, 4), recipe=plain, key=keys,
          needs=st.lists(st.integers(0, 9), max_size=2), delay_s=st.sampled_from((0.0, 0.0, 0.5)))  # fmt: skip
    def submit(
        self, who: int, skip: int, count: int, recipe: Recipe, key: str, needs: list[int], delay_s: float
    ) -> None:
        client, known = self.state.durable.clients.get(SESSIONS[who]), list(self.state.durable.book.calls)
        if client is None:
            self.give(s.ClientUp(SESSIONS[who]))
        else:
            first = client.holes[0][0] if client.holes and not skip else client.known + 1 + skip
            needed = tuple(known[pick % len(known)] for pick in needs) if known else ()
            self.give(s.Submit(client.session, first, recipe, (b"a",) * (1 if key else count), delay_s, key, needed))

    @rule(pick=st.integers(0, 9), what=st.sampled_from(("cancel", "await", "taken", "revive", "revive")))
    def ask(self, pick: int, what: str) -> None:
        dead = [call.id for call in self.state.durable.book.calls.values() if call.state is TaskState.DEAD]
        known = dead if what == "revive" and dead else list(self.state.durable.book.calls)
        for id in known[pick % len(known) :][:1] if known else ():
            who = self.state.durable.sessions.get(id >> 32, SESSIONS[0])
            asked = {"cancel": s.Cancel((id,)), "await": s.Await(who, (id,)), "taken": s.Taken(who, (id,))}
            self.give(asked.get(what, s.Revive(id)))

    @rule(slot=slots, node=nodes, incarnation=incarnations, pick=st.lists(st.integers(0, 9), max_size=2))
    def slot_comes(self, slot: str, node: str, incarnation: str, pick: list[int]) -> None:
        known = list(self.state.durable.book.calls)
        holds = tuple(known[i % len(known)] for i in pick) if known else ()
        self.give(s.SlotUp(slot, node, incarnation, (), holds))

    @rule()
    def all_nodes_beat(self) -> None:
        known = self.state.durable.slots.values()
        self.give(*(s.NodeUp(n, tuple((x.name, x.incarnation) for x in known if x.node == n)) for n in NODES))

    def held(self, pick: int) -> Any:
        calls = [call for held in self.state.durable.book.leases.values() for call in held.values()]
        return calls[pick % len(calls)] if calls else None

    @rule(pick=st.integers(0, 9))
    def give_back(self, pick: int) -> None:
        call = self.held(pick)
        if call is not None:
            self.give(s.GaveBack(call.owner, self.state.durable.slots[call.owner].incarnation, (call.id,)))

    @rule(pick=st.integers(0, 9), busy_s=st.sampled_from((0.0001, 0.01)), copy=st.booleans())
    def finish(self, pick: int, busy_s: float, copy: bool) -> None:
        call = self.held(pick)
        if call is not None:
            slot = self.state.volatile.copies.get(call.id, call.owner) if copy else call.owner
            self.give(s.Finished(slot, self.state.durable.slots[slot].incarnation, (call.id,), (b"r",), busy_s))

    @rule(pick=st.integers(0, 9), kind=kinds)
    def fail(self, pick: int, kind: str) -> None:
        call = self.held(pick)
        if call is not None:
            incarnation = self.state.durable.slots[call.owner].incarnation
            self.give(s.Failed(call.owner, incarnation, call.id, kind, "it", call.tries))

    @rule(pick=st.integers(0, 9), kind=kinds)
    def crash(self, pick: int, kind: str) -> None:
        call = self.held(pick)
        if call is not None:
            self.give(s.SlotExited(call.owner, self.state.durable.slots[call.owner].incarnation, call.id, kind, "it"))

    def refolded(self) -> Durable:
        durable = Durable()
        for blob in self.journal:
            for fact in decode_facts(blob):
                apply(durable, fact)
        return durable

    @rule(batch=batches, snapshot=st.booleans())
    def a_restart_from_facts_or_from_a_snapshot_is_the_same(self, batch: list[s.Stimulus], snapshot: bool) -> None:
        a = State(self.refolded(), self.policies)
        b = State(thaw(decode_kept(encode(freeze(self.state.durable)))), self.policies)
        for state in (a, b):
            core.recover(state, self.now_s)
        greetings = [s.ClientUp(session) for session in SESSIONS[:2]]
        greetings += [s.SlotUp(x.name, x.node, x.incarnation, x.tags) for x in self.state.durable.slots.values()]  # type: ignore[misc]
        for each in (greetings, [s.Tick()], batch):
            first, second = (core.handle(state, self.now_s, each) for state in (a, b))
            assert encode(first) == encode(second)
        self.state = State(thaw(decode_kept(encode(freeze(self.state.durable)))) if snapshot else self.refolded())
        self.state.policies = self.policies
        core.recover(self.state, self.now_s)
        self.give(*greetings)

    @invariant()
    def the_state_is_the_fold_of_its_facts(self) -> None:
        assert encode(freeze(self.state.durable)) == encode(freeze(self.folded))

    @invariant()
    def what_is_counted_is_so(self) -> None:
        for book in (self.state.durable.book, self.folded.book):
            calls = book.calls.values()
            waiting = Counter(call.recipe.queue for call in calls if call.state in WAITS)
            assert {name: queue.waiting for name, queue in book.queues.items() if queue.waiting} == waiting
            leases = {(slot, id) for slot, held in book.leases.items() for id in held}
            assert leases == {(call.owner, call.id) for call in calls if call.state is TaskState.LEASED}
            assert all(slot in self.folded.slots for slot, _ in leases)
            assert all((call.owner != "") == (call.state is TaskState.LEASED) for call in calls)
            assert book.pins == Counter(need for call in calls if not call.ended for need in call.needs)
            assert all(need in book.calls for need in book.pins)
            with_key = [call for call in calls if call.key and call.state not in FAILED]
            assert book.keys == {(call.recipe.queue, call.key): call.id for call in with_key}
            assert len(book.keys) == len(with_key), "one task of each key"
            for call in calls:
                unmet = sum(book.calls[need].state is not TaskState.DONE for need in call.needs if not call.ended)
                if call.state is TaskState.WAITING:
                    assert call.unmet == unmet > 0
                    assert all(call.id in book.dependents.get(x, ()) for x in call.needs if not book.calls[x].ended)
                elif not call.ended:
                    assert not unmet, "it may begin before it has what it needs"

    @invariant()
    def what_may_begin_waits_in_one_place(self) -> None:
        book = self.state.durable.book
        where = Counter(id for due_s, id in book.delayed if book.calls.get(id) and book.calls[id].due_s == due_s)
        for lane in book.lanes.values():
            where.update(call.id for call in (*lane._fresh, *(call for _, call in lane._back)))
        for call in book.calls.values():
            assert call.state is not TaskState.READY or where[call.id] == 1

    @invariant()
    def seats_hold_what_the_book_says(self) -> None:
        volatile, book = self.state.volatile, self.state.durable.book
        for name, seat in volatile.seats.items():
            assert name in self.state.durable.slots
            leased = set(book.leases.get(name, ()))
            copies = {id for id, slot in volatile.copies.items() if slot == name}
            assert leased <= set(seat.tasks) <= leased | copies
            assert seat.backlog_s >= -1e-9 and 0.09 < seat.speed < 11
        assert all(id in book.calls and not book.calls[id].ended for id in (*volatile.copies, *volatile.watchers))
        assert volatile.put_off.keys() | volatile.online <= self.state.durable.clients.keys()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=50)

"""Arbitrary stimuli, also nonsense, repeated, reordered and stale ones: the core never breaks its own rules."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plesio.core import facts as f
from plesio.core import stimuli as s
from plesio.core.coordinator import State, handle, recover
from plesio.core.spec import RunSpec
from plesio.core.state import Durable, apply
from plesio.records import Contribution, Dataset, Span, Version
from plesio.strategies.presets import Decoupled, Sync
from plesio.strategies.schedule import Schedule

names = st.sampled_from(["a", "b", "c"])
generations = st.integers(0, 3)
versions = st.builds(Version, st.integers(1, 3), st.integers(0, 5))
spans = st.lists(st.builds(lambda a, n: Span(0, a, a + n), st.integers(0, 11), st.integers(1, 2)), max_size=2).map(
    tuple
)
incarnations = st.sampled_from(["s1", "s2", "s3"])
facts_of = msgspec.msgpack.Decoder(list[f.AnyFact])


class AnyOrder(RuleBasedStateMachine):
    """Drives handle(), and folds the facts beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.folded = Durable()
        self.now_s = 0.0
        self.applied: set[tuple[int, int]] = set()
        self.committed = -1
        self.give(
            s.StartRun(RunSpec(run="r", learners=1, schedule=Schedule.of(Decoupled(every=2), Sync(), 2), epochs=1))
        )
        self.give(s.TakeLead(1))

    def give(self, stimulus: s.Stimulus) -> None:
        facts, _ = handle(self.state, self.now_s, stimulus)
        for fact in facts_of.decode(msgspec.msgpack.encode(facts)):
            before = {t.id for t in self.folded.book.tasks.values()}
            apply(self.folded, fact)
            if isinstance(fact, f.UnitsLeased):
                leased = {(x.epoch, i) for x in fact.spans for i in range(x.start, x.stop)}
                assert not leased & self.applied, "I1: an applied unit is dealt again"
            if isinstance(fact, f.VersionCommitted):
                assert fact.version.number > self.committed, "I2: committed numbers only grow"
                assert fact.version.lineage == self.folded.lineage, "I2: of an older lineage"
                self.committed = fact.version.number
                self.applied |= before - {t.id for t in self.folded.book.tasks.values()}
            if isinstance(fact, f.RoundClosed) and fact.strategy == "sync":
                assert fact.version.number == (self.folded.merged.number if self.folded.merged else 0) + 1

    @rule(seconds=st.floats(-1.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.give(s.Tick())

    @rule(name=names, process=st.sampled_from(["1", "2"]), model=st.sampled_from(["m", "m", "m", "other"]))
    def join(self, name: str, process: str, model: str) -> None:
        self.give(s.Join(name, process, model, 10))

    @rule(name=names, generation=generations, base=versions)
    def hold(self, name: str, generation: int, base: Version) -> None:
        self.give(s.Hold(name, generation, base))

    @rule(name=names)
    def hold_the_newest(self, name: str) -> None:
        durable = self.state.durable
        if name in durable.members and durable.merged is not None:
            self.give(s.Hold(name, durable.members[name].generation, durable.merged))

    @rule(name=names, generation=generations)
    def beat(self, name: str, generation: int) -> None:
        self.give(s.Beat(name, generation))

    @rule(name=names, generation=generations, request=st.integers(0, 4), count=st.integers(1, 3))
    def ask(self, name: str, generation: int, request: int, count: int) -> None:
        self.give(s.AskUnits(name, generation, request, count, Dataset(12, 1, 1)))

    @rule(name=names, generation=generations)
    def leave(self, name: str, generation: int) -> None:
        self.give(s.Leave(name, generation))

    @rule(name=names, process=st.sampled_from(["1", "2"]))
    def process_ends(self, name: str, process: str) -> None:
        self.give(s.ProcessEnded(name, process, "killed"))

    @rule()
    def all_scripts_end(self) -> None:
        self.give(s.AllEnded())

    @rule(incarnation=incarnations, version=st.none() | versions)
    def synchronizer_comes(self, incarnation: str, version: Version | None) -> None:
        self.give(s.SynchronizerUp(incarnation, version))

    @rule(incarnation=incarnations, name=names, generation=generations, seq=st.integers(1, 6), base=versions,
          ended=spans, begun=spans)  # fmt: skip
    def any_push(
        self, incarnation: str, name: str, generation: int, seq: int, base: Version, ended: tuple[Span, ...],
        begun: tuple[Span, ...],
    ) -> None:  # fmt: skip
        push = Contribution("r", name, generation, seq, (base,), 4, 1, ended, begun)
        self.give(s.PushArrived(incarnation, push))

    @rule(name=names, whole=st.booleans())
    def honest_push(self, name: str, whole: bool) -> None:
        durable = self.state.durable
        member = durable.members.get(name)
        if member is None or not member.live or durable.merged is None:
            return
        mine = [t.id for t in durable.book.owned(name, member.generation) if t.state == "leased"][:1]
        named = tuple(Span(e, i, i + 1) for e, i in mine)
        push = Contribution(
            "r",
            name,
            member.generation,
            member.seq + 1,
            (durable.merged,),
            4,
            1,
            named if whole else (),
            () if whole else named,
        )
        self.give(s.PushArrived(durable.synchronizer, push))

    @rule(incarnation=incarnations, version=versions)
    def merged(self, incarnation: str, version: Version) -> None:
        self.give(s.Merged(incarnation, version))

    @rule()
    def merged_as_ordered(self) -> None:
        closing = self.state.durable.closing
        if closing is not None:
            self.give(s.Merged(self.state.durable.synchronizer, closing.version))

    @rule(incarnation=incarnations, version=versions)
    def snapshot(self, incarnation: str, version: Version) -> None:
        self.give(s.SnapshotWritten(incarnation, version, "file", "digest"))

    @rule()
    def snapshot_of_the_newest(self) -> None:
        durable = self.state.durable
        version = durable.merged or Version(durable.lineage, 0)
        self.give(s.SnapshotWritten(durable.synchronizer, version, "file", "digest"))

    @rule()
    def coordinator_dies_and_recovers(self) -> None:
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(self.folded), type=Durable)
        self.state = State(durable=copy)
        first = recover(self.state, self.now_s)
        assert recover(self.state, self.now_s) == first
        assert self.state.durable == self.folded

    @invariant()
    def the_state_is_the_fold_of_its_facts(self) -> None:
        assert self.state.durable == self.folded

    @invariant()
    def every_dealt_unit_is_somewhere(self) -> None:
        book = self.state.durable.book
        assert book.issued == book.done + book.partial + len(book.tasks)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=60)

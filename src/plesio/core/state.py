"""The coordinator's state: a durable part, the fold of the facts, and a volatile part of estimates.

`apply` alone changes the durable part. Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from plesio.core import facts as f
from plesio.core.spec import RunSpec
from plesio.core.taskbook import Task, TaskBook, TaskState
from plesio.records import Contribution, Dataset, Span, Version
from plesio.strategies.schedule import Timeline

RECENT = 64

ENDED_KEPT = 64  # members that are gone: machines that come under ever new names are not remembered for ever


class Member(msgspec.Struct):
    """A learner under its newest generation."""

    name: str
    generation: int
    incarnation: str
    live: bool = True
    seq: int = 0  # newest push that was accepted or voided
    settled: int = 0  # newest push that is committed
    voided: list[int] = []  # pushes that a roll-back or a refusal took from it
    request: int = 0  # newest answered request for units
    granted: tuple[Span, ...] = ()
    ended: int = 0  # when it ended, counted in facts


class Durable(msgspec.Struct):
    """The fold of all facts. Changed by `apply` alone."""

    spec: RunSpec | None = None
    epoch: int = 0  # of the store: who leads
    lineage: int = 1
    members: dict[str, Member] = {}
    signature: str = ""
    dataset: Dataset | None = None
    data_epoch: int = 0
    cursor: int = 0  # next unit of data_epoch that nobody has had
    book: TaskBook = msgspec.field(default_factory=TaskBook)
    held: list[Contribution] = []
    closing: f.RoundClosed | None = None  # being merged
    provisional: list[f.RoundClosed] = []  # merged or being merged, not committed
    merged: Version | None = None
    committed: Version | None = None
    snapshot: str = ""
    ends: tuple[int, ...] = ()  # of phases of the schedule; see Timeline
    recent: tuple[str, ...] = ()  # whose pushes were merged lately, the newest last
    tokens: int = 0  # committed
    synchronizer: str = ""
    finished: str = ""
    forgotten: int = 0  # the highest generation of the members that were forgotten; who is new begins above it
    facts: int = 0  # how many were applied: the ledger_seq

    @property
    def tokens_merged(self) -> int:
        """Committed and provisional tokens."""
        return self.tokens + sum(r.tokens for r in self.provisional)

    @property
    def timeline(self) -> Timeline:
        """The schedule so far."""
        assert self.spec is not None
        return Timeline(self.spec.schedule, self.ends)


def spans(ids: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """Unit ids, sorted, as the fewest spans."""
    out: list[Span] = []
    for epoch, index in sorted(ids):
        if out and out[-1].epoch == epoch and out[-1].stop == index:
            out[-1] = Span(epoch, out[-1].start, index + 1)
        else:
            out.append(Span(epoch, index, index + 1))
    return tuple(out)


def ids(of: Iterable[Span]) -> Iterator[tuple[int, int]]:
    """The unit ids in spans."""
    return ((s.epoch, i) for s in of for i in range(s.start, s.stop))


def apply(state: Durable, fact: f.Fact) -> None:
    """Folds one fact into the state. The only function that changes it."""
    state.facts += 1
    handler: Callable[[Durable, Any], None] | None = _APPLY.get(type(fact))
    if handler is not None:
        handler(state, fact)


def _run_started(state: Durable, fact: f.RunStarted) -> None:
    state.spec = fact.spec


def _leader_elected(state: Durable, fact: f.LeaderElected) -> None:
    state.epoch = fact.epoch


def _member_joined(state: Durable, fact: f.MemberJoined) -> None:
    state.members[fact.name] = Member(fact.name, fact.generation, fact.incarnation)
    _forget_ended(state)


def _forget_ended(state: Durable) -> None:
    """Of the members that are gone and have nothing under way, the last ENDED_KEPT stay."""
    ended = sorted((m for m in state.members.values() if not m.live), key=lambda m: m.ended)
    if len(ended) <= ENDED_KEPT:
        return
    busy = {task.owner for task in state.book.tasks.values()} | {c.contributor for c in state.held}
    busy |= {push[0] for closed in state.provisional for push in closed.pushes}
    for member in ended[: len(ended) - ENDED_KEPT]:
        if member.name not in busy:
            state.forgotten = max(state.forgotten, member.generation)
            del state.members[member.name]


def _member_ended(state: Durable, fact: f.MemberEnded) -> None:
    member = state.members[fact.name]
    member.live, member.ended = False, state.facts
    for task_id in ids(fact.returned):
        state.book.move(state.book.tasks[task_id], TaskState.READY)
    for task_id in ids(fact.partial):
        _leave_incomplete(state, state.book.tasks[task_id])


def _leave_incomplete(state: Durable, task: Task) -> None:
    """Its worker is gone and part of it was sent: it ends as partial when that part is committed."""
    task.incomplete, task.seq = True, task.touched
    push = (task.owner, task.generation, task.touched)
    if any((c.contributor, c.generation, c.seq) == push for c in state.held):
        state.book.move(task, TaskState.HELD)
        return
    for closed in state.provisional:
        if push in closed.pushes:
            state.book.move(task, TaskState.MERGED)
            task.version = closed.version.number
            return
    state.book.move(task, TaskState.PARTIAL)


def _model_declared(state: Durable, fact: f.ModelDeclared) -> None:
    state.signature = fact.signature


def _dataset_declared(state: Durable, fact: f.DatasetDeclared) -> None:
    state.dataset = fact.dataset


def _units_leased(state: Durable, fact: f.UnitsLeased) -> None:
    assert state.dataset is not None
    member = state.members[fact.name]
    member.request, member.granted = fact.request, fact.spans
    for epoch, index in ids(fact.spans):
        state.book.lease((epoch, index), fact.name, fact.generation)
        if (epoch, index) == (state.data_epoch, state.cursor):
            state.cursor += 1
            if state.cursor == state.dataset.units:
                state.data_epoch, state.cursor = state.data_epoch + 1, 0


def _contribution_accepted(state: Durable, fact: f.ContributionAccepted) -> None:
    push = fact.contribution
    state.members[push.contributor].seq = push.seq
    state.held.append(push)
    for task_id in ids(push.ended):
        task = state.book.tasks[task_id]
        state.book.move(task, TaskState.HELD)
        task.seq = push.seq
    for task_id in ids(push.begun):
        task = state.book.tasks[task_id]
        task.touched = task.touched or push.seq


def _contribution_voided(state: Durable, fact: f.ContributionVoided) -> None:
    member = state.members[fact.name]
    member.seq = max(member.seq, fact.seq)
    member.voided = [*member.voided, fact.seq][-64:]
    for task_id in ids(fact.returned):
        state.book.move(state.book.tasks[task_id], TaskState.READY)
    for task_id in ids(fact.partial):
        _leave_incomplete(state, state.book.tasks[task_id])


def _round_closed(state: Durable, fact: f.RoundClosed) -> None:
    pushes = set(fact.pushes)
    state.closing, state.ends = fact, fact.ends
    state.recent = (*state.recent, *(p[0] for p in fact.pushes))[-RECENT:]
    state.provisional.append(fact)
    state.held = [c for c in state.held if (c.contributor, c.generation, c.seq) not in pushes]
    for task in state.book.tasks.values():
        if task.state is TaskState.HELD and (task.owner, task.generation, task.seq) in pushes:
            state.book.move(task, TaskState.MERGED)
            task.version = fact.version.number


def _version_merged(state: Durable, fact: f.VersionMerged) -> None:
    state.merged, state.closing = fact.version, None


def _version_committed(state: Durable, fact: f.VersionCommitted) -> None:
    state.committed, state.snapshot = fact.version, fact.snapshot
    if state.merged is None:
        state.merged = fact.version
    number = fact.version.number
    now = [r for r in state.provisional if r.version.number <= number]
    state.tokens += sum(r.tokens for r in now)
    for name, generation, seq in (p for r in now for p in r.pushes):
        member = state.members[name]
        if member.generation == generation:
            member.settled = max(member.settled, seq)
    state.provisional = [r for r in state.provisional if r.version.number > number]
    for task in state.book.in_state(TaskState.MERGED):
        if task.version <= number:
            state.book.move(task, TaskState.PARTIAL if task.incomplete else TaskState.DONE)


def _rolled_back(state: Durable, fact: f.RolledBack) -> None:
    uncommitted = {p for r in state.provisional for p in r.pushes}
    uncommitted |= {(c.contributor, c.generation, c.seq) for c in state.held}
    for task in state.book.tasks.values():
        if (task.owner, task.generation, task.touched) in uncommitted:
            task.touched = 0
    for task_id in ids(fact.returned):
        state.book.move(state.book.tasks[task_id], TaskState.READY)
    for task_id in ids(fact.partial):
        state.book.move(state.book.tasks[task_id], TaskState.PARTIAL)
    for task_id in ids(fact.reheld):
        task = state.book.tasks[task_id]
        state.book.move(task, TaskState.LEASED)
        task.seq = 0
    for name, generation, seq in fact.voided:
        member = state.members[name]
        if member.generation == generation:
            member.voided = [*member.voided, seq][-64:]
    state.held, state.provisional, state.closing = [], [], None
    state.lineage, state.ends = fact.lineage, state.timeline.back_to(fact.to.number).ends
    state.merged = state.committed = Version(
        fact.lineage, fact.to.number
    )  # the same state, as the new lineage names it


def _synchronizer_seen(state: Durable, fact: f.SynchronizerSeen) -> None:
    state.synchronizer = fact.incarnation


def _run_finished(state: Durable, fact: f.RunFinished) -> None:
    state.finished = fact.reason


_APPLY: dict[type, Callable[[Durable, Any], None]] = {
    f.RunStarted: _run_started,
    f.LeaderElected: _leader_elected,
    f.MemberJoined: _member_joined,
    f.MemberEnded: _member_ended,
    f.ModelDeclared: _model_declared,
    f.DatasetDeclared: _dataset_declared,
    f.UnitsLeased: _units_leased,
    f.ContributionAccepted: _contribution_accepted,
    f.ContributionVoided: _contribution_voided,
    f.RoundClosed: _round_closed,
    f.VersionMerged: _version_merged,
    f.VersionCommitted: _version_committed,
    f.RolledBack: _rolled_back,
    f.SynchronizerSeen: _synchronizer_seen,
    f.RunFinished: _run_finished,
}

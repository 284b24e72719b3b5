"""The events of a run, folded once into what its summary and its report tell, in bounded space. Pure.

Totals stay exact however long the run is; of what is drawn or listed, the older part is thinned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from plesio.core.membership import process_of
from plesio.reporting.course import Column, Course, Round, Spread
from plesio.reporting.events import Event, count, unpack
from plesio.reporting.units import Push, UnitCount, push_of

FAULTY_ENDS = {"killed": "was killed", "exited": "exited", "silent": "fell silent", "replaced": "was replaced"}
MAX_FAULTS = 1000  # listed; all are counted
MAX_EVALUATIONS = 1000


class Fault(msgspec.Struct):
    """Something broke. `recovered_s`: seconds until it was made good; None: not seen."""

    unix_s: float
    who: str
    what: str
    learner: str = ""  # made good by its next join; '': by the next merged version
    recovered_s: float | None = None


class Evaluation(msgspec.Struct, frozen=True):
    """A held-out loss of a version that stands, with the tokens in it."""

    unix_s: float
    number: int
    tokens: int
    loss: float


class Story(msgspec.Struct):
    """What happened. Owned and changed by `tell` alone."""

    spec: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    parameters: int = 0
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    rounds: list[Round] = []  # closed, and neither committed nor undone
    course: Course = msgspec.field(default_factory=Course)  # the committed ones
    undone: int = 0  # rounds that were rolled back
    pushes: dict[Push, Event] = {}  # accepted, not committed
    staleness: Spread = msgspec.field(default_factory=Spread)  # of every merged push, undone ones too
    tokens: dict[str, int] = {}  # committed, by contributor
    steps: dict[str, int] = {}
    joins: dict[str, int] = {}
    newest: dict[str, tuple[int, str]] = {}  # learner -> (its process's first generation, its process)
    processes: dict[tuple[str, int], int] = {}  # of generations that went on in a process: its first generation
    evaluations: list[Evaluation] = []
    faults: list[Fault] = []
    faults_seen: int = 0
    coordinator_starts: int = 0
    committed: list[int] | None = None
    finished: str | None = None
    units: UnitCount = msgspec.field(default_factory=UnitCount)
    left_out: int = 0  # lines of events.jsonl, when it was thinned
    skip: int = 0  # lines that follow, and are in it already

    @property
    def wall_s(self) -> float:
        """From the first event to the end of the run, or to the newest event."""
        return max(0.0, self.ended_unix_s - self.started_unix_s)

    @property
    def merged_tokens(self) -> int:
        """Of all rounds that stand."""
        return self.course.tokens + sum(r.tokens for r in self.rounds)

    @property
    def columns(self) -> list[Column]:
        """All rounds that stand, the older ones several to a column."""
        out, tokens = list(self.course.columns), self.course.tokens
        for closed in self.rounds:
            out.append(Column.of(closed, tokens))
            tokens += closed.tokens
        return out


def tell(events: Iterable[Event], story: Story | None = None) -> Story:
    """Folds the events, in journal order; into a story that has been told so far, if there is one."""
    story = story or Story()
    for event in events:
        if story.skip:
            story.skip -= 1
            continue
        unix_s = event["unix_s"]
        story.started_unix_s = story.started_unix_s or unix_s
        if story.finished is None:
            story.ended_unix_s = max(story.ended_unix_s, unix_s)
        handler = _FOLD.get(event["type"])
        if handler is not None:
            handler(story, event)
    return story


def _thinned(story: Story, event: Event) -> None:
    """All that was told before is in this line; the older lines that were kept follow it."""
    before = unpack(event["story"], Story)
    for name in Story.__struct_fields__:
        setattr(story, name, getattr(before, name))
    story.left_out, story.skip = event["left_out"], event["lines"]


def _run_started(story: Story, event: Event) -> None:
    story.spec = event["spec"]


def _coordinator_started(story: Story, event: Event) -> None:
    story.coordinator_starts += 1
    if story.coordinator_starts > 1:
        _break(story, Fault(event["unix_s"], "coordinator", "was started again"))


def _model_declared(story: Story, event: Event) -> None:
    story.parameters = event["parameters"]


def _dataset_declared(story: Story, event: Event) -> None:
    story.dataset = event["dataset"]
    story.units.stride = max(1, -(-story.dataset["n_samples"] // story.dataset["unit_size"]))


def _member_joined(story: Story, event: Event) -> None:
    name, generation, process = event["name"], event["generation"], process_of(event["incarnation"])
    story.joins[name] = story.joins.get(name, 0) + 1
    if name in story.newest and story.newest[name][1] == process:
        story.processes[name, generation] = story.newest[name][0]
    else:
        story.newest[name] = (generation, process)
    _recover(story, name, event["unix_s"])


def _member_ended(story: Story, event: Event) -> None:
    story.units.end_member(event)
    if story.finished is None and event["reason"] in FAULTY_ENDS:
        name = event["name"]
        _break(story, Fault(event["unix_s"], name, FAULTY_ENDS[event["reason"]], learner=name))


def _units_leased(story: Story, event: Event) -> None:
    story.units.lease(event)


def _contribution_accepted(story: Story, event: Event) -> None:
    push = event["contribution"]
    story.pushes[push_of(push)] = push
    story.units.accept(push)


def _contribution_voided(story: Story, event: Event) -> None:
    story.units.void(event)


def _round_closed(story: Story, event: Event) -> None:
    lineage, number = event["version"]
    pushes: list[Push] = [(name, generation, seq) for name, generation, seq in event["pushes"]]
    known = [story.pushes[p] for p in pushes if p in story.pushes]
    stale = [(p["contributor"], number - 1 - min(map(tuple, p["bases"]))[1]) for p in known]
    for _, behind in stale:
        story.staleness.add(behind)
    tokens, effective = event["tokens"], event["contributors"]
    story.rounds.append(Round(number, lineage, event["unix_s"], tokens, pushes, stale, effective))


def _version_merged(story: Story, event: Event) -> None:
    _recover(story, "", event["unix_s"])


def _version_committed(story: Story, event: Event) -> None:
    story.committed = event["version"]
    lineage, number = event["version"]
    rounds, story.rounds = story.rounds, []
    for closed in rounds:
        if closed.number > number or closed.lineage > lineage:
            story.rounds.append(closed)
            continue
        story.course.add(closed)
        for key in closed.pushes:
            push = story.pushes.pop(key, None)
            if push is not None:
                name = push["contributor"]
                story.units.commit(push)
                story.tokens[name] = story.tokens.get(name, 0) + push["tokens"]
                story.steps[name] = story.steps.get(name, 0) + push["steps"]
    story.units.settle(story.pushes)


def _rolled_back(story: Story, event: Event) -> None:
    _, number = event["to"]
    story.units.roll_back(event)
    before = len(story.rounds)
    story.rounds = [r for r in story.rounds if r.number <= number]
    undone = before - len(story.rounds)
    story.undone += undone
    story.pushes = {}
    story.evaluations = [e for e in story.evaluations if e.number <= number]
    back = f"was lost; {count(event['returned'])} units of {undone} rounds went back"
    _break(story, Fault(event["unix_s"], "synchronizer", back))


def _evaluated(story: Story, event: Event) -> None:
    lineage, number = event["version"]
    tokens = _tokens_of(story, lineage, number)
    if event["loss"] is None or tokens is None:
        return
    story.evaluations.append(Evaluation(event["unix_s"], number, tokens, event["loss"]))
    if len(story.evaluations) > MAX_EVALUATIONS:
        del story.evaluations[1:-1:2]  # the first and the newest stay


def _tokens_of(story: Story, lineage: int, number: int) -> int | None:
    """Of a version that stands; None when it was undone. A kept one may be named anew, by a later lineage."""
    if number == 0:
        return 0
    tokens = story.course.tokens
    for closed in story.rounds:
        tokens += closed.tokens
        if closed.number == number and closed.lineage <= lineage:
            return tokens
    made = (upto for at, made_by, upto in reversed(story.course.recent) if at == number and made_by <= lineage)
    return next(made, None)


def _run_finished(story: Story, event: Event) -> None:
    story.finished, story.committed = event["reason"], event["version"]


def _break(story: Story, fault: Fault) -> None:
    story.faults_seen += 1
    story.faults.append(fault)
    if len(story.faults) > MAX_FAULTS:
        del story.faults[0]


def _recover(story: Story, learner: str, unix_s: float) -> None:
    for fault in story.faults:
        if fault.recovered_s is None and fault.learner == learner:
            fault.recovered_s = unix_s - fault.unix_s


_FOLD: dict[str, Callable[[Story, Event], None]] = {
    "Thinned": _thinned,
    "RunStarted": _run_started,
    "CoordinatorStarted": _coordinator_started,
    "ModelDeclared": _model_declared,
    "DatasetDeclared": _dataset_declared,
    "MemberJoined": _member_joined,
    "MemberEnded": _member_ended,
    "UnitsLeased": _units_leased,
    "ContributionAccepted": _contribution_accepted,
    "ContributionVoided": _contribution_voided,
    "RoundClosed": _round_closed,
    "VersionMerged": _version_merged,
    "VersionCommitted": _version_committed,
    "RolledBack": _rolled_back,
    "Evaluated": _evaluated,
    "RunFinished": _run_finished,
}

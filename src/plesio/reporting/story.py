"""The events of a run, folded once into what its summary and its report tell. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from plesio.core.membership import process_of
from plesio.reporting.events import Event, count
from plesio.reporting.units import Push, UnitCount, push_of

FAULTY_ENDS = {"killed": "was killed", "exited": "exited", "silent": "fell silent", "replaced": "was replaced"}


@dataclass
class Round:
    """A closed round. Owned by the Story."""

    number: int
    lineage: int
    unix_s: float
    strategy: str
    tokens: int
    pushes: list[Push]
    staleness: list[tuple[str, int]]  # (contributor, versions behind) of each push
    committed: bool = False

    @property
    def effective(self) -> int:
        """How many different ones took part."""
        return len({push[0] for push in self.pushes})


@dataclass
class Fault:
    """Something broke. `recovered_s`: seconds until it was made good; None: not seen."""

    unix_s: float
    who: str
    what: str
    learner: str = ""  # made good by its next join; '': by the next merged version
    recovered_s: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A held-out loss of a version that stands, with the tokens in it."""

    unix_s: float
    number: int
    tokens: int
    loss: float


@dataclass
class Story:
    """What happened. Owned and changed by `tell` alone."""

    spec: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    rounds: list[Round] = field(default_factory=list)  # those of undone versions are taken out
    undone: int = 0  # rounds that were rolled back
    pushes: dict[Push, Event] = field(default_factory=dict)
    staleness: list[int] = field(default_factory=list)  # of every merged push, undone ones too
    tokens: Counter[str] = field(default_factory=Counter)  # committed, by contributor
    steps: Counter[str] = field(default_factory=Counter)
    joins: Counter[str] = field(default_factory=Counter)
    processes: dict[tuple[str, int], str] = field(default_factory=dict)  # (learner, generation) -> process
    evaluations: list[Evaluation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    coordinator_starts: int = 0
    committed: list[int] | None = None
    finished: str | None = None
    units: UnitCount = field(default_factory=UnitCount)

    @property
    def wall_s(self) -> float:
        """From the first event to the end of the run, or to the newest event."""
        return max(0.0, self.ended_unix_s - self.started_unix_s)

    @property
    def standing(self) -> list[Round]:
        """The committed rounds."""
        return [r for r in self.rounds if r.committed]


def tell(events: Iterable[Event], story: Story | None = None) -> Story:
    """Folds the events, in journal order; into a story that has been told so far, if there is one."""
    story = story or Story()
    for event in events:
        unix_s = event["unix_s"]
        story.started_unix_s = story.started_unix_s or unix_s
        if story.finished is None:
            story.ended_unix_s = max(story.ended_unix_s, unix_s)
        handler = _FOLD.get(event["type"])
        if handler is not None:
            handler(story, event)
    return story


def _run_started(story: Story, event: Event) -> None:
    story.spec = event["spec"]


def _coordinator_started(story: Story, event: Event) -> None:
    story.coordinator_starts += 1
    if story.coordinator_starts > 1:
        story.faults.append(Fault(event["unix_s"], "coordinator", "was started again"))


def _model_declared(story: Story, event: Event) -> None:
    story.parameters = event["parameters"]


def _dataset_declared(story: Story, event: Event) -> None:
    story.dataset = event["dataset"]


def _member_joined(story: Story, event: Event) -> None:
    name = event["name"]
    story.joins[name] += 1
    story.processes[name, event["generation"]] = process_of(event["incarnation"])
    _recover(story, name, event["unix_s"])


def _member_ended(story: Story, event: Event) -> None:
    story.units.end_member(event)
    if story.finished is None and event["reason"] in FAULTY_ENDS:
        name = event["name"]
        story.faults.append(Fault(event["unix_s"], name, FAULTY_ENDS[event["reason"]], learner=name))


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
    story.staleness += [behind for _, behind in stale]
    story.rounds.append(Round(number, lineage, event["unix_s"], event["strategy"], event["tokens"], pushes, stale))


def _version_merged(story: Story, event: Event) -> None:
    _recover(story, "", event["unix_s"])


def _version_committed(story: Story, event: Event) -> None:
    story.committed = event["version"]
    lineage, number = event["version"]
    for closed in reversed(story.rounds):
        if closed.committed:
            break  # and all before it
        if closed.number > number or closed.lineage > lineage:
            continue
        closed.committed = True
        for key in closed.pushes:
            push = story.pushes.get(key)
            if push is not None:
                story.units.commit(push)
                story.tokens[push["contributor"]] += push["tokens"]
                story.steps[push["contributor"]] += push["steps"]


def _rolled_back(story: Story, event: Event) -> None:
    _, number = event["to"]
    story.units.roll_back(event)
    before = len(story.rounds)
    story.rounds = [r for r in story.rounds if r.number <= number]
    story.undone += before - len(story.rounds)
    story.evaluations = [e for e in story.evaluations if e.number <= number]
    back = f"was lost; {count(event['returned'])} units of {before - len(story.rounds)} rounds went back"
    story.faults.append(Fault(event["unix_s"], "synchronizer", back))


def _evaluated(story: Story, event: Event) -> None:
    lineage, number = event["version"]
    if event["loss"] is not None and _stands(story, lineage, number):
        tokens = sum(r.tokens for r in story.rounds if r.number <= number)
        story.evaluations.append(Evaluation(event["unix_s"], number, tokens, event["loss"]))


def _stands(story: Story, lineage: int, number: int) -> bool:
    """Was this version not undone? A kept one may be named anew, by a later lineage than made it."""
    return number == 0 or any(r.number == number and r.lineage <= lineage for r in story.rounds)


def _run_finished(story: Story, event: Event) -> None:
    story.finished, story.committed = event["reason"], event["version"]


def _recover(story: Story, learner: str, unix_s: float) -> None:
    for fault in story.faults:
        if fault.recovered_s is None and fault.learner == learner:
            fault.recovered_s = unix_s - fault.unix_s


_FOLD: dict[str, Callable[[Story, Event], None]] = {
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

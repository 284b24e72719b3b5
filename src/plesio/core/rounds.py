"""When a round closes, who donates and who evaluates, when to commit, and when the run is over. Pure."""

from __future__ import annotations

from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import ledger, recovery
from plesio.core.turn import Turn
from plesio.records import Contribution, Version
from plesio.strategies import merge
from plesio.strategies.barrier import RoundView
from plesio.strategies.base import Strategy
from plesio.strategies.schedule import Timeline

SNAPSHOT_SHARE = 40.0  # snapshots may take a fortieth of the synchronizer's time
DONATION_PATIENCE_S = 10.0  # then somebody is asked again
EVALUATION_SHARE = 100.0  # measuring the held-out loss: a hundredth of all learners' time
START_WAIT_S = 60.0
REFUSED = {  # pushes that no learner of ours sends
    "run": "it is of another run",
    "future": "its base is a version that this run has not made",
    "lease": "it names units that its sender does not hold",
}


def progress(turn: Turn) -> None:
    """After every stimulus: whatever can go on, goes on."""
    turn.volatile.again_s = None
    _let_go(turn)
    if turn.durable.merged is None:
        ask_commit(turn)  # there is no version yet: somebody gives the first
        return
    reason = over(turn)
    if reason and turn.durable.closing is None:
        _finish_or_commit(turn, reason)
        return
    _commit_when_due(turn)
    _close_when_ripe(turn)


def strategy(turn: Turn) -> Strategy:
    """The strategy of the round under way."""
    assert turn.durable.merged is not None
    return turn.durable.timeline.at(turn.durable.merged.number + 1)


def over(turn: Turn) -> str:
    """Why the run is over: all that was asked is merged. '' when it is not."""
    durable = turn.durable
    if durable.spec is None or durable.merged is None:
        return ""
    target = durable.spec.until_tokens
    if not durable.held and ledger.settled(durable):
        return "all units applied"
    if target is not None and durable.tokens_merged >= target:
        return "token target reached"
    # scripts that say themselves how long they train: no data is dealt, no target is set
    open_ended = durable.dataset is None and target is None and not any(m.live for m in durable.members.values())
    return "all scripts ended" if open_ended and turn.volatile.all_ended and not durable.held else ""


def _finish_or_commit(turn: Turn, reason: str) -> None:
    durable = turn.durable
    assert durable.merged is not None
    if durable.committed != durable.merged:
        ask_commit(turn)
        return
    turn.tell_refusals(at_once=True)
    turn.emit(f.RunFinished(durable.merged, reason))
    turn.order(e.EndRun(durable.merged, reason))


def _holds_gradient_state(turn: Turn) -> bool:
    """Is the newest version's state with the learners rather than with the synchronizer?"""
    durable = turn.durable
    assert durable.merged is not None
    number = durable.merged.number
    return number > 0 and durable.timeline.at(number).kind == "replicated" and durable.committed != durable.merged


def ask_commit(turn: Turn) -> None:
    """Sees to it that the newest version gets a snapshot: by the synchronizer, or by a learner's upload."""
    durable, volatile = turn.durable, turn.volatile
    if durable.merged is not None and durable.committed == durable.merged:
        return
    if durable.merged is not None and not _holds_gradient_state(turn):
        if turn.now_s - volatile.snapshot_s >= 0.5:
            volatile.snapshot_s = turn.now_s
            turn.order(e.TakeSnapshot(durable.merged))
        volatile.again_s = _sooner(volatile.again_s, turn.now_s + 0.5)
        return
    initial = durable.merged is None
    asked_lately = turn.now_s - volatile.snapshot_s < DONATION_PATIENCE_S
    if volatile.donor and asked_lately and not turn.pulse(volatile.donor).suspected(turn.now_s):
        return
    for member in durable.members.values():
        suspected = turn.pulse(member.name).suspected(turn.now_s) if member.live else True
        if not suspected and (initial or turn.usable(member.name)):
            volatile.donor, volatile.snapshot_s = member.name, turn.now_s
            turn.order(e.DonateState(member.name, member.generation, initial))
            return
    if not initial and not _replica_left(turn):
        recovery.roll_back(turn)
        recovery.resend_to_synchronizer(turn)


def _replica_left(turn: Turn) -> bool:
    """Does anybody who may still come back hold the newest version?"""
    live = [turn.pulse(m.name) for m in turn.durable.members.values() if m.live]
    return any(p.base is not None and not p.silent(turn.now_s) for p in live)


def _commit_when_due(turn: Turn) -> None:
    durable, volatile = turn.durable, turn.volatile
    assert durable.spec is not None and durable.merged is not None
    if durable.committed == durable.merged or durable.closing is not None:
        return
    if _holds_gradient_state(turn):
        waiting = _waiting_for_state(turn)
        stuck = bool(waiting) and (bool(waiting & volatile.admitting) or not expected(turn))
        held_up = stuck or bool(volatile.leaving) or not _anybody(turn)
        if held_up or durable.timeline.changes_at(durable.merged.number):
            ask_commit(turn)
        return
    if durable.timeline.changes_at(durable.merged.number):
        ask_commit(turn)
        return
    if turn.now_s - volatile.snapshot_s >= SNAPSHOT_SHARE * volatile.snapshot_cost_s:
        volatile.snapshot_s = turn.now_s
        turn.order(e.TakeSnapshot(durable.merged))


def _let_go(turn: Turn) -> None:
    """Who wants to go may, unless it alone still holds the newest version."""
    durable, leaving = turn.durable, turn.volatile.leaving
    for name, generation in list(leaving.items()):
        stays = [m.name for m in durable.members.values() if m.live and m.name not in leaving and turn.usable(m.name)]
        if not stays and durable.merged is not None and _learners_hold_the_newest(turn):
            continue
        recovery.end_member(turn, durable.members[name], "left")
        turn.order(e.Goodbye(name, generation))


def _learners_hold_the_newest(turn: Turn) -> bool:
    """Is the newest version, or the one under way, with the learners only?"""
    under_way = turn.durable.closing is not None or bool(turn.durable.held)
    return _holds_gradient_state(turn) or (under_way and strategy(turn).kind == "replicated")


def _anybody(turn: Turn) -> bool:
    return any(turn.usable(m.name) for m in turn.durable.members.values() if m.live)


def _waiting_for_state(turn: Turn) -> set[str]:
    """Who takes part, is not silent, and has no state yet?"""
    live = {m.name for m in turn.durable.members.values() if m.live and turn.pulse(m.name).base is None}
    return {name for name in live if not turn.pulse(name).suspected(turn.now_s)}


def expected(turn: Turn) -> dict[str, float]:
    """Who can still contribute to this round, with the tokens of one push of each."""
    volatile = turn.volatile
    names = [
        m.name
        for m in turn.durable.members.values()
        if m.live and m.name not in volatile.asking and m.name not in volatile.leaving
        and (turn.usable(m.name) or (m.name in volatile.admitting and not turn.pulse(m.name).suspected(turn.now_s)))
    ]  # fmt: skip
    known = [turn.pulse(n).tokens for n in names if turn.pulse(n).tokens]
    usual = sum(known) / len(known) if known else 1.0
    return {n: turn.pulse(n).tokens or usual for n in names}


def _close_when_ripe(turn: Turn) -> None:
    durable, volatile = turn.durable, turn.volatile
    assert durable.spec is not None and durable.merged is not None
    uncommitted_change = durable.timeline.changes_at(durable.merged.number) and durable.committed != durable.merged
    if durable.closing is not None or not durable.held or uncommitted_change or _still_gathering(turn):
        return
    verdict = strategy(turn).barrier.judge(_view(turn), turn.now_s)
    if verdict.quorum and volatile.quorum_s is None:
        volatile.quorum_s = turn.now_s
    if verdict.close:
        _close(turn)
    else:
        volatile.again_s = verdict.again_s


def _still_gathering(turn: Turn) -> bool:
    """Before the first round, and the first one of a resumed run: are learners still on their way?"""
    durable, volatile = turn.durable, turn.volatile
    assert durable.spec is not None and durable.merged is not None
    if (durable.merged.number > 0 and not volatile.gathering) or volatile.started_s is None:
        return False
    until_s = volatile.started_s + START_WAIT_S
    ready = sum(turn.usable(m.name) for m in durable.members.values())
    if ready >= durable.spec.learners or turn.now_s >= until_s:
        volatile.gathering = False
        return False
    volatile.again_s = until_s
    return True


def _view(turn: Turn) -> RoundView:
    held: dict[str, float] = {}
    for push in turn.durable.held:
        held[push.contributor] = held.get(push.contributor, 0.0) + push.tokens
    steps = [p.step_s for p in turn.volatile.pulses.values() if p.step_s]
    return RoundView(expected(turn), held, turn.volatile.quorum_s, min(steps, default=0.0), turn.volatile.merge_s)


def _close(turn: Turn) -> None:
    durable, volatile = turn.durable, turn.volatile
    assert durable.spec is not None and durable.merged is not None
    chosen = strategy(turn)
    number = durable.merged.number + 1
    held = sorted(durable.held, key=lambda c: (c.contributor, c.seq)) if chosen.merge != "each" else durable.held
    pushes = tuple((c.contributor, c.generation, c.seq) for c in held)
    names = list(dict.fromkeys(c.contributor for c in durable.held if turn.usable(c.contributor)))
    tokens = sum(c.tokens for c in durable.held)
    target = durable.spec.until_tokens
    final = ledger.settled(durable, frozenset(pushes)) or (
        target is not None and durable.tokens_merged + tokens >= target
    )
    after = durable.timeline.closed(number, durable.tokens_merged + tokens)
    turn.emit(
        f.RoundClosed(
            version=Version(durable.lineage, number),
            strategy=chosen.name,
            pushes=pushes,
            factors=merge.weights(chosen.merge, held),
            contributors=len({p[0] for p in pushes} | _lately(turn, chosen)),
            live=sum(m.live for m in durable.members.values()),
            tokens=tokens,
            final=final,
            donor=_donor(turn, after, number, names, final),
            evaluator=_evaluator(turn, names, final),
            ends=after.ends,
        )
    )
    volatile.quorum_s, volatile.closed_s = None, turn.now_s
    assert durable.closing is not None
    turn.order(recovery.close_order(durable.closing))


def _lately(turn: Turn, chosen: Strategy) -> set[str]:
    """Where every push is a round by itself: who else took part, while each had two in turn."""
    if chosen.merge != "each":
        return set()
    live = [m.name for m in turn.durable.members.values() if m.live]
    return set(turn.durable.recent[-2 * len(live) :]) & set(live)


def _donor(turn: Turn, after: Timeline, number: int, names: list[str], final: bool) -> str:
    """In synchronous rounds: who uploads its state, when a snapshot is due or somebody waits for a state."""
    volatile, chosen = turn.volatile, after.at(number)
    if chosen.kind != "replicated" or not names:
        return ""
    waiting = _waiting_for_state(turn)
    due = turn.now_s - volatile.snapshot_s >= max(2.0, 2 * SNAPSHOT_SHARE * volatile.snapshot_cost_s)
    if not (waiting or due or final or after.changes_at(number)):
        return ""
    volatile.admitting |= waiting
    volatile.donor, volatile.snapshot_s = names[0], turn.now_s
    return names[0]


def _evaluator(turn: Turn, names: list[str], final: bool) -> str:
    """Who measures the held-out loss of this version: now and then the first to have pushed."""
    volatile = turn.volatile
    live = sum(m.live for m in turn.durable.members.values())
    pause_s = max(5.0, EVALUATION_SHARE * volatile.evaluation_cost_s / max(1, live))
    if not names or not (final or turn.now_s - volatile.evaluated_s >= pause_s):
        return ""
    volatile.evaluated_s = turn.now_s
    return names[0]


def refusal(turn: Turn, push: Contribution) -> str:
    """Why a push does not count; '' when it does. After 'lineage' a roll-back follows; 'stale' is final."""
    durable = turn.durable
    if durable.spec is None or push.run != durable.spec.run:
        return "run"
    if durable.merged is None or push.base.lineage != durable.lineage:
        return "lineage"
    newest = durable.closing.version if durable.closing else durable.merged
    if push.base.number > newest.number:
        return "future"
    kind = durable.timeline.at(push.base.number + 1).kind
    if kind != durable.timeline.at(newest.number + 1).kind:
        return "stale"
    if kind == "replicated" and ledger.is_stale(durable, push.base):
        return "stale"
    return "lease" if ledger.lacks_leases(durable, push) else ""


def _sooner(one: float | None, other: float) -> float:
    return other if one is None else min(one, other)

"""The coordinator's decisions: handle(state, now, stimulus) -> (facts, effects). Pure.

The driver journals the facts of one stimulus in one transaction, and only then carries out the effects. State
is the fold of the facts; `volatile` holds estimates that a restart may forget.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import ledger, recovery, rounds
from plesio.core import stimuli as s
from plesio.core.membership import Pulse, process_of
from plesio.core.turn import State, Turn, Volatile
from plesio.records import Dataset, Version

MAX_ASK = 1024  # units dealt at once
NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")
OURS = ("coordinator", "synchronizer")  # no names for learners


def handle(state: State, now_s: float, stimulus: s.Stimulus) -> tuple[list[f.Fact], list[e.Effect]]:
    """Decides. Applies its own facts to `state`; the driver must journal them before acting on the effects."""
    turn = Turn(state, now_s)
    if turn.durable.spec is not None or isinstance(stimulus, (s.StartRun, s.TakeLead)):
        _HANDLERS[type(stimulus)](turn, stimulus)
        turn.tell_refusals()
        if turn.durable.spec is not None and not turn.durable.finished:
            _serve_waiting(turn)  # first: who gets units is expected to contribute
            rounds.progress(turn)
            _serve_waiting(turn)
    return turn.facts, turn.effects


def recover(state: State, now_s: float) -> list[e.Effect]:
    """After a restart: all outstanding effects, derived from the durable part alone."""
    durable = state.durable
    state.volatile = Volatile(snapshot_s=now_s, closed_s=now_s, started_s=now_s)
    for member in durable.members.values():
        if member.live:
            state.volatile.pulses[member.name] = Pulse(now_s, base=durable.merged)
    turn = Turn(state, now_s)
    if durable.spec is not None:
        recovery.resend_to_synchronizer(turn)
    return turn.effects


def wake_s(state: State, now_s: float) -> float | None:
    """When to send the next Tick at the latest."""
    times = [p.last_s + p.deadline_s() for p in state.volatile.pulses.values() if not p.suspected(now_s)]
    if state.volatile.again_s is not None:
        times.append(state.volatile.again_s)
    if state.volatile.asking:
        times.append(now_s + 1.0)
    if (due_s := state.volatile.refusals.due_s()) is not None:
        times.append(due_s)
    return min(times, default=None)


def _start_run(turn: Turn, stimulus: s.StartRun) -> None:
    if turn.durable.spec is None:
        turn.emit(f.RunStarted(stimulus.spec))
    elif stimulus.gather:  # a run is resumed: who took part has ended, or will say again what it holds
        turn.volatile.gathering = True
        for pulse in turn.volatile.pulses.values():
            pulse.base = None


def _take_lead(turn: Turn, stimulus: s.TakeLead) -> None:
    turn.emit(f.LeaderElected(stimulus.epoch))


def _join(turn: Turn, stimulus: s.Join) -> None:
    durable = turn.durable
    assert durable.spec is not None
    if durable.finished:
        assert durable.committed is not None
        turn.order(e.Refuse(stimulus.name, stimulus.incarnation, f"the run is finished ({durable.finished})"))
        return
    if not NAME.fullmatch(stimulus.name) or stimulus.name in OURS or len(stimulus.incarnation) > 80:
        reason = "a learner's name is letters, digits, '.', '_' and '-', and none of plesio's own"
        turn.refuse(stimulus.name, reason)
        turn.order(e.Refuse(stimulus.name, stimulus.incarnation, reason))
        return
    if durable.signature and stimulus.signature != durable.signature:
        reason = (
            f"learner {stimulus.name!r} brings another model than this run trains "
            f"({stimulus.parameters} parameters, signature {stimulus.signature[:12]} instead of "
            f"{durable.signature[:12]}); give every learner the same model, or start a new run"
        )
        turn.refuse(stimulus.name, reason)
        turn.order(e.Refuse(stimulus.name, stimulus.incarnation, reason))
        return
    member = durable.members.get(stimulus.name)
    same = member is not None and member.live and member.incarnation == stimulus.incarnation
    if not same:
        if member is not None and member.live:
            recovery.end_member(turn, member, "replaced")
        generation = 1 + (member.generation if member else durable.forgotten)
        if not durable.signature:
            turn.emit(f.ModelDeclared(stimulus.signature, stimulus.parameters))
        known = list(durable.members)
        turn.emit(f.MemberJoined(stimulus.name, generation, stimulus.incarnation))
        for name in known:
            if name not in durable.members:
                turn.order(e.Forget(name))
        turn.volatile.pulses[stimulus.name] = Pulse(turn.now_s)
        if turn.volatile.started_s is None:
            turn.volatile.started_s = turn.now_s
    member = durable.members[stimulus.name]
    turn.pulse(stimulus.name).beat(turn.now_s)
    turn.pulse(stimulus.name).base = None  # who asks to join has no state, whatever a restart made us assume
    turn.order(e.Admit(stimulus.name, member.generation, member.incarnation))
    turn.order(e.Welcome(stimulus.name, member.generation, durable.spec, durable.lineage))


def _hold(turn: Turn, stimulus: s.Hold) -> None:
    member = turn.current(stimulus.name, stimulus.generation)
    if member is None:
        return
    durable = turn.durable
    if durable.finished and durable.committed is not None:
        turn.order(e.EndRun(durable.committed, durable.finished))
    elif stimulus.base.lineage < durable.lineage and durable.merged is not None:
        turn.pulse(stimulus.name).base = None  # it needs the state of this lineage first
        turn.order(recovery.roll_back_order(turn, member))
    else:
        turn.pulse(stimulus.name).base = stimulus.base
        for seq in member.voided:  # the answer may have been lost with its connection
            turn.order(e.AnswerPush(member.name, member.generation, seq, "stale"))


def _beat(turn: Turn, stimulus: s.Beat) -> None:
    turn.current(stimulus.name, stimulus.generation)


def _ask_units(turn: Turn, stimulus: s.AskUnits) -> None:
    member = turn.current(stimulus.name, stimulus.generation)
    if member is None:
        return
    durable = turn.durable
    if not _sound(stimulus.dataset):
        turn.refuse(member.name, "asks for units of a dataset that has none")
        return
    if durable.dataset is None:
        turn.emit(f.DatasetDeclared(stimulus.dataset))
    elif durable.dataset != stimulus.dataset:
        reason = (
            f"learner {member.name!r} asks for {stimulus.dataset.n_samples} samples in units of "
            f"{stimulus.dataset.unit_size}, but this run deals {durable.dataset.n_samples} in units of "
            f"{durable.dataset.unit_size}; give every learner the same run.units(...)"
        )
        turn.refuse(member.name, reason)
        turn.order(e.Refuse(member.name, member.incarnation, reason))
        return
    if stimulus.request == member.request:
        turn.order(e.GrantUnits(member.name, member.generation, member.request, member.granted))
    elif stimulus.request > member.request:
        stimulus = msgspec.structs.replace(stimulus, count=min(max(1, stimulus.count), MAX_ASK))
        turn.volatile.asking[member.name] = stimulus
        turn.volatile.told.pop(member.name, None)


def _sound(dataset: Dataset) -> bool:
    return dataset.n_samples > 0 and dataset.unit_size > 0 and dataset.epochs >= 0


def _serve_waiting(turn: Turn) -> None:
    """Deals units to those who wait; takes back the leases of the long silent when there are no others."""
    told = turn.volatile.told
    for name, asked in list(turn.volatile.asking.items()):
        if rounds.over(turn):
            return
        spans = ledger.next_units(turn.durable, asked.count)
        if not spans:
            _reclaim_from_silent(turn)
            spans = ledger.next_units(turn.durable, asked.count)
        if name not in turn.volatile.asking:
            continue  # it was one of the silent
        if not spans:
            if told.get(name) != (asked.generation, asked.request):
                told[name] = (asked.generation, asked.request)
                turn.order(e.GrantUnits(name, asked.generation, asked.request, ()))
            continue
        del turn.volatile.asking[name]
        turn.emit(f.UnitsLeased(name, asked.generation, spans, asked.request))
        turn.order(e.GrantUnits(name, asked.generation, asked.request, spans))


def _reclaim_from_silent(turn: Turn) -> None:
    for member in list(turn.durable.members.values()):
        if member.live and turn.pulse(member.name).silent(turn.now_s):
            recovery.end_member(turn, member, "silent")


def _leave(turn: Turn, stimulus: s.Leave) -> None:
    member = turn.durable.members.get(stimulus.name)
    if member is not None and member.live and member.generation == stimulus.generation:
        turn.pulse(member.name).beat(turn.now_s)
        turn.volatile.leaving[member.name] = member.generation
    else:
        turn.order(e.Goodbye(stimulus.name, stimulus.generation))


def _process_ended(turn: Turn, stimulus: s.ProcessEnded) -> None:
    member = turn.durable.members.get(stimulus.name)
    if member is not None and member.live and process_of(member.incarnation) == process_of(stimulus.incarnation):
        recovery.end_member(turn, member, stimulus.reason)


def _synchronizer_up(turn: Turn, stimulus: s.SynchronizerUp) -> None:
    durable = turn.durable
    if stimulus.incarnation != durable.synchronizer:
        turn.emit(f.SynchronizerSeen(stimulus.incarnation))
        turn.volatile.donor = ""
        if durable.committed is not None:
            recovery.roll_back(turn)
    recovery.resend_to_synchronizer(turn)


def _push_arrived(turn: Turn, stimulus: s.PushArrived) -> None:
    if stimulus.incarnation != turn.durable.synchronizer:
        return
    push = stimulus.contribution
    if ledger.is_known(turn.durable, push) or turn.durable.merged is None:
        return  # said again after a reconnection, perhaps before the version that it is based on; its sender may have ended
    member = turn.current(push.contributor, push.generation)
    if member is None:
        turn.order(e.AnswerPush(push.contributor, push.generation, push.seq, "generation"))
        return
    if push.seq <= member.seq:
        if push.seq in member.voided:  # the answer was lost
            turn.order(e.AnswerPush(push.contributor, push.generation, push.seq, "stale"))
        return
    reason = rounds.refusal(turn, push)
    if reason == "":
        turn.emit(f.ContributionAccepted(push))
        turn.volatile.admitting.discard(member.name)
        pulse = turn.pulse(member.name)
        pulse.base = max(push.base, pulse.base or push.base)
        pulse.tokens = pulse.tokens if push.last and pulse.tokens else push.tokens
        pulse.step_s = push.step_s
        return
    if reason in ("run", "future", "lease"):
        turn.refuse(member.name, f"push {push.seq} of generation {push.generation}: {rounds.REFUSED[reason]}")
    if reason == "stale":
        back, partial = ledger.refused_units(turn.durable, push)
        turn.emit(f.ContributionVoided(member.name, member.generation, push.seq, back, reason, partial))
    turn.order(e.AnswerPush(push.contributor, push.generation, push.seq, reason))


def _merged(turn: Turn, stimulus: s.Merged) -> None:
    closing = turn.durable.closing
    if stimulus.incarnation != turn.durable.synchronizer or closing is None or closing.version != stimulus.version:
        return
    turn.emit(f.VersionMerged(stimulus.version))
    spent_s = turn.now_s - turn.volatile.closed_s
    turn.volatile.merge_s += 0.3 * (spent_s - turn.volatile.merge_s)


def _snapshot_written(turn: Turn, stimulus: s.SnapshotWritten) -> None:
    durable = turn.durable
    version = stimulus.version
    if stimulus.incarnation != durable.synchronizer or version.lineage != durable.lineage:
        return
    if durable.committed is None:
        fresh = version == Version(durable.lineage, 0)
    else:
        fresh = durable.merged is not None and durable.committed.number < version.number <= durable.merged.number
    if not fresh:
        return
    turn.volatile.donor = ""
    turn.volatile.snapshot_cost_s += 0.3 * (stimulus.seconds - turn.volatile.snapshot_cost_s)
    turn.emit(f.VersionCommitted(version, stimulus.snapshot, stimulus.digest, durable.facts))


def _loss_measured(turn: Turn, stimulus: s.LossMeasured) -> None:
    if turn.current(stimulus.name, stimulus.generation) is not None:
        turn.volatile.evaluation_cost_s = stimulus.seconds
        turn.volatile.evaluated_s = turn.now_s
        turn.emit(f.Evaluated(stimulus.version, stimulus.loss, stimulus.name))


def _refused(turn: Turn, stimulus: s.Refused) -> None:
    turn.refuse(stimulus.who, stimulus.reason)


def _drain(turn: Turn, _: s.Drain) -> None:
    rounds.ask_commit(turn)


def _all_ended(turn: Turn, _: s.AllEnded) -> None:
    turn.volatile.all_ended = True


def _tick(turn: Turn, _: s.Tick) -> None:
    pass


_HANDLERS: dict[type, Callable[[Turn, Any], None]] = {
    s.StartRun: _start_run,
    s.TakeLead: _take_lead,
    s.Join: _join,
    s.Hold: _hold,
    s.Beat: _beat,
    s.AskUnits: _ask_units,
    s.Leave: _leave,
    s.ProcessEnded: _process_ended,
    s.SynchronizerUp: _synchronizer_up,
    s.PushArrived: _push_arrived,
    s.Merged: _merged,
    s.SnapshotWritten: _snapshot_written,
    s.LossMeasured: _loss_measured,
    s.Refused: _refused,
    s.Drain: _drain,
    s.AllEnded: _all_ended,
    s.Tick: _tick,
}

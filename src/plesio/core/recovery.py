"""What is given back, and told to whom, when a generation or the synchronizer is lost. Pure."""

from __future__ import annotations

from plesio.core import effects as e
from plesio.core import facts as f
from plesio.core import ledger
from plesio.core.state import Member
from plesio.core.turn import Turn


def end_member(turn: Turn, member: Member, reason: str) -> None:
    """Ends a generation; its leases go back."""
    returned, partial = ledger.given_back(turn.durable, member)
    turn.emit(f.MemberEnded(member.name, member.generation, reason, returned, partial))
    turn.volatile.pulses.pop(member.name, None)
    turn.volatile.asking.pop(member.name, None)
    turn.volatile.told.pop(member.name, None)
    turn.volatile.leaving.pop(member.name, None)
    turn.volatile.admitting.discard(member.name)
    if turn.volatile.donor == member.name:
        turn.volatile.donor = ""


def roll_back_order(turn: Turn, member: Member) -> e.RollBack:
    """Tells a learner where the lineage goes on."""
    assert turn.durable.committed is not None
    return e.RollBack(
        member.name,
        member.generation,
        turn.durable.lineage,
        turn.durable.committed,
        tuple(member.voided),
        member.settled,
    )


def roll_back(turn: Turn) -> None:
    """The synchronizer lost what was not committed."""
    durable = turn.durable
    assert durable.committed is not None
    returned, reheld, partial = ledger.rolled_back(durable)
    voided = tuple(p for closed in durable.provisional for p in closed.pushes)
    if durable.timeline.back_to(durable.committed.number).at(durable.committed.number + 1).sends == "gradient":
        voided += tuple((c.contributor, c.generation, c.seq) for c in durable.held)
    turn.emit(f.RolledBack(durable.committed, durable.lineage + 1, returned, reheld, voided, partial))
    turn.volatile.quorum_s = None
    turn.volatile.admitting.clear()
    for member in durable.members.values():
        if member.live:
            turn.pulse(member.name).base = None
            turn.order(roll_back_order(turn, member))


def resend_to_synchronizer(turn: Turn) -> None:
    """All that the synchronizer must know to go on; it may know it already."""
    durable = turn.durable
    assert durable.spec is not None
    if durable.finished and durable.committed is not None:
        turn.order(e.EndRun(durable.committed, durable.finished))
        return
    live = [m for m in durable.members.values() if m.live]
    may_push, incarnations = tuple((m.name, m.generation) for m in live), tuple(m.incarnation for m in live)
    turn.order(
        e.LoadState(
            durable.spec, durable.lineage, durable.committed, durable.snapshot, may_push, incarnations, durable.ends
        )
    )
    if durable.closing is not None:
        turn.order(close_order(durable.closing))


def close_order(closed: f.RoundClosed) -> e.CloseRound:
    """The synchronizer's part of a closed round."""
    return e.CloseRound(
        closed.version, closed.pushes, closed.factors, closed.contributors, closed.final, closed.donor,
        closed.evaluator, closed.ends,
    )  # fmt: skip

"""What locks promise in rare moments: one test each, on the pure core and the pure side of a client."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import locks, values
from plesio.core.pool import stimuli as s
from plesio.core.pool.grants import HEARD, Grants
from plesio.core.pool.messages import GRACE_S
from plesio.core.pool.places import (
    ADD,
    BARRIER,
    COUNTER,
    EVENT,
    GET,
    LEASE_S,
    LOCK,
    PUT,
    RWLOCK,
    SEMAPHORE,
)  # fmt: skip
from plesio.core.pool.retention import RETENTION_S
from plesio.core.pool.state import Durable, Kept, apply, freeze, thaw
from plesio.core.pool.turn import State

ANN, BEN, CYD = "a" * 16, "b" * 16, "c" * 16

encode = msgspec.msgpack.Encoder().encode
decode_facts = msgspec.msgpack.Decoder(list[f.AnyFact]).decode
decode_kept = msgspec.msgpack.Decoder(Kept).decode


class Bench:
    """A pool with three clients; keeps its journal."""

    def __init__(self) -> None:
        self.state, self.journal = State(), Durable()
        self.now_s, self.numbers = 1.0, 0
        self.give(s.TakeLead(1), *(s.ClientUp(who) for who in (ANN, BEN, CYD)))

    def give(self, *stimuli: Any) -> list[Any]:
        facts, effects = core.handle(self.state, self.now_s, stimuli)
        for fact in decode_facts(encode(facts)):
            apply(self.journal, fact)
        return effects

    def wait(self, seconds: float) -> list[Any]:
        self.now_s += seconds
        return self.give(s.Tick())

    def restart(self) -> None:
        self.state = State(thaw(decode_kept(encode(freeze(self.journal)))))
        core.recover(self.state, self.now_s)
        self.give(s.TakeLead(2))

    def lock(self, who: str, number: int, name: str = "x", owner: str = "main", wait: bool = True) -> list[Any]:
        return self.give(s.Want(who, number, LOCK, name, owner, wait=wait))

    def add(self, who: str, number: int, amount: int = 1, fence: int = 0) -> list[Any]:
        return self.give(s.Change(who, number, COUNTER, "n", ADD, amount, fence=fence))


def test_a_silent_holder_loses_what_it_has_and_the_next_has_a_greater_token() -> None:
    bench = Bench()
    assert bench.lock(ANN, 1) == [e.Granted(ANN, 1, 1)] and bench.lock(BEN, 1) == []
    bench.wait(LEASE_S / 2)
    bench.give(s.Renew(ANN), s.Renew(BEN))
    bench.wait(LEASE_S * 0.9)
    bench.give(s.Renew(BEN))
    assert bench.wait(LEASE_S * 0.2) == [e.Lapsed(ANN), e.Granted(BEN, 1, 2)]
    assert bench.give(s.Release(ANN, 2, 1)) == [e.Answer(ANN, 2, 0, False)]
    [refused] = bench.add(ANN, 3, fence=1)
    assert refused.why == e.LOST and bench.add(BEN, 2, fence=2) == [e.Answer(BEN, 2, 1)]


def test_one_that_comes_back_in_time_keeps_what_it_has_and_hears_of_it_again() -> None:
    bench = Bench()
    bench.lock(ANN, 1)
    bench.give(s.ClientLost(ANN))
    bench.wait(GRACE_S / 2)
    bench.give(s.ClientUp(ANN))
    bench.wait(GRACE_S)
    assert bench.lock(ANN, 1) == [e.Granted(ANN, 1, 1)] and bench.lock(BEN, 1, wait=False)[0].why == e.BUSY
    bench.give(s.ClientLost(ANN), s.Want(BEN, 2, LOCK, "x", "main"))
    bench.wait(GRACE_S / 2)
    assert bench.wait(GRACE_S) == [e.Granted(BEN, 2, 2)]


def test_nothing_is_granted_to_one_that_is_gone() -> None:
    bench = Bench()
    for number, who in enumerate((ANN, BEN, CYD), 1):
        bench.lock(who, number)
    bench.give(s.ClientLost(BEN))
    assert bench.give(s.Release(ANN, 9, 1)) == [e.Answer(ANN, 9, 1), e.Granted(CYD, 3, 2)]


def test_all_who_are_silent_are_gone_before_anything_is_granted() -> None:
    bench = Bench()
    for number, who in enumerate((ANN, BEN, CYD), 1):
        bench.lock(who, number)
    bench.wait(LEASE_S * 0.9)
    bench.give(s.Renew(CYD))
    assert bench.wait(LEASE_S * 0.2) == [e.Lapsed(ANN), e.Lapsed(BEN), e.Granted(CYD, 3, 2)]


def test_after_a_restart_a_holder_has_a_whole_lease_and_tokens_go_on() -> None:
    bench = Bench()
    bench.lock(ANN, 1)
    bench.wait(LEASE_S * 0.9)
    bench.restart()
    bench.give(s.ClientUp(BEN))
    bench.lock(BEN, 1)
    bench.wait(LEASE_S * 0.9)
    bench.give(s.Renew(BEN))
    assert list(bench.journal.places.holds) == [1]
    assert bench.wait(LEASE_S * 0.2) == [e.Granted(BEN, 1, 2)]


def test_what_is_said_again_is_done_once_also_after_a_restart() -> None:
    bench = Bench()
    assert bench.add(ANN, 1, 5) == bench.add(ANN, 1, 5) == [e.Answer(ANN, 1, 5)]
    bench.lock(ANN, 2)
    bench.give(s.Release(ANN, 3, 2))
    bench.restart()
    bench.give(s.ClientUp(ANN))
    assert bench.add(ANN, 1, 5) == [e.Answer(ANN, 1, 5)]
    assert bench.give(s.Release(ANN, 3, 2)) == [e.Answer(ANN, 3, 1)]
    bench.give(s.Heard(ANN, 3, (1,)))
    assert bench.add(ANN, 1, 5) == [e.Answer(ANN, 1, 5)] and bench.give(s.Release(ANN, 3, 2)) == []


def test_what_did_nothing_does_nothing_when_it_comes_again() -> None:
    bench = Bench()
    swap = s.Change(ANN, 1, COUNTER, "n", PUT, 7, 1)
    clear = s.Change(ANN, 2, EVENT, "x", PUT, 0)
    assert bench.give(swap, clear) == [e.Answer(ANN, 1, 0, False), e.Answer(ANN, 2, 0)]
    bench.add(BEN, 1)
    bench.give(s.Change(BEN, 2, EVENT, "x", PUT, 1))
    assert bench.give(swap, clear) == []
    assert bench.give(s.Change(BEN, 3, COUNTER, "n", GET), s.Change(BEN, 4, EVENT, "x", GET))[0].value == 1


def test_what_was_refused_does_nothing_when_it_comes_again_and_is_answered_on_a_new_connection() -> None:
    bench = Bench()
    bench.add(BEN, 1, values.LARGEST)
    [refused] = bench.add(ANN, 1)
    assert refused.why == e.WRONG
    bench.add(BEN, 2, -5)
    assert bench.add(ANN, 1) == []
    bench.give(s.Heard(ANN, 1, ()))
    assert bench.add(ANN, 1) == []
    swap = s.Change(ANN, 3, COUNTER, "n", PUT, 7, 1)
    assert bench.give(swap)[0].ok is False and bench.give(swap) == []
    bench.give(s.ClientUp(ANN))
    assert bench.give(swap)[0].ok is False
    assert bench.add(ANN, 2) == [e.Answer(ANN, 2, values.LARGEST - 4)]


def test_a_barrier_tells_a_party_that_missed_it_which_time_it_passed() -> None:
    bench = Bench()
    party = [s.Want(who, 1, BARRIER, "b", "main", True, 2) for who in (ANN, BEN)]
    bench.give(party[0])
    assert bench.give(party[1]) == [e.Answer(ANN, 1, 0), e.Answer(BEN, 1, 0)]
    bench.give(s.Want(BEN, 2, BARRIER, "b", "main", True, 2), s.Want(CYD, 1, BARRIER, "b", "main", True, 2))
    bench.restart()
    bench.give(s.ClientUp(ANN))
    assert bench.give(party[0]) == [e.Answer(ANN, 1, 0)]


@pytest.mark.parametrize("waits", [True, False])
def test_a_wait_that_was_refused_or_withdrawn_is_no_party_when_it_comes_again(waits: bool) -> None:
    bench = Bench()
    wait = s.Want(ANN, 1, BARRIER, "b", "main", True, 2, waits)
    told = bench.give(wait, s.Release(ANN, 2, 1)) if waits else bench.give(wait)
    assert len(told) == 1
    assert bench.give(wait) == [] == bench.give(s.Want(BEN, 1, BARRIER, "b", "main", True, 2))
    bench.give(s.Heard(ANN, 2, ()))
    assert bench.give(wait) == [] and not bench.state.durable.places.barriers


def test_a_wait_whose_refusal_was_not_heard_is_asked_again_on_a_new_connection() -> None:
    bench = Bench()
    wait = s.Want(ANN, 1, BARRIER, "b", "main", True, 2, False)
    assert bench.give(wait, s.Want(BEN, 1, BARRIER, "b", "main", True, 2))[0].why == e.BUSY
    bench.give(s.ClientUp(ANN))
    assert bench.give(wait) == [e.Answer(BEN, 1, 0), e.Answer(ANN, 1, 0)]


def test_a_barrier_that_nobody_passed_for_a_day_is_forgotten() -> None:
    bench = Bench()
    bench.give(s.Want(ANN, 1, BARRIER, "b", "main", True, 1))
    bench.wait(RETENTION_S / 2)
    assert bench.state.durable.places.barriers
    bench.wait(RETENTION_S)
    assert not bench.state.durable.places.barriers


def test_nothing_is_left_of_what_is_not_used() -> None:
    bench = Bench()
    empty = len(encode(freeze(bench.journal).places))
    for number in range(1, 2 * HEARD, 2):
        bench.lock(ANN, number, f"lock {number}")
        bench.give(s.Release(ANN, number + 1, number))
        bench.give(
            s.Change(BEN, number, COUNTER, f"{number}", ADD, 1),
            s.Change(BEN, number + 1, COUNTER, f"{number}", ADD, -1),
        )
    bench.give(*(s.Heard(who, 2 * HEARD, ()) for who in (ANN, BEN)))
    assert len(encode(freeze(bench.journal).places)) < empty + 20
    bench.wait(LEASE_S * 2)
    assert core.wake_s(bench.state, bench.now_s) is None


def test_a_newer_wait_of_an_owner_ends_its_earlier_one() -> None:
    bench = Bench()
    bench.lock(ANN, 1)
    bench.lock(BEN, 1)
    assert bench.lock(BEN, 2, "y") == [e.Granted(BEN, 2, 2)] and bench.give(s.Release(ANN, 9, 1)) == [
        e.Answer(ANN, 9, 1)
    ]
    bench.lock(CYD, 2)
    bench.lock(BEN, 5)
    assert bench.lock(BEN, 4, "y") == []


@pytest.mark.parametrize(
    "want",
    [
        s.Want(ANN, 1, LOCK, "", "main"),
        s.Want(ANN, 1, LOCK, "x" * 500, "main"),
        s.Want(ANN, 1, LOCK, "x", ""),
        s.Want(ANN, 1, LOCK, "x", "main", True),
        s.Want(ANN, 1, RWLOCK, "x", "main", True, 1),
        s.Want(ANN, 1, SEMAPHORE, "x", "main", True, 0),
        s.Want(ANN, 1, SEMAPHORE, "x", "main", False, 2),
        s.Want(ANN, 1, BARRIER, "x", "main", True, 0),
        s.Want(ANN, 1, COUNTER, "x", "main"),
        s.Change(ANN, 1, "nonsense", "x", ADD, 1),
        s.Change(ANN, 1, COUNTER, "x", "nonsense", 1),
        s.Change(ANN, 1, COUNTER, "", ADD, 1),
        s.Change(ANN, 1, COUNTER, "x", ADD, 1 << 63),
        s.Change(ANN, 1, EVENT, "x", PUT, 2),
    ],
)  # fmt: skip
def test_nonsense_is_refused(want: Any) -> None:
    bench = Bench()
    [refused] = bench.give(want)
    assert refused.why == e.WRONG and refused.reason
    assert bench.journal.places.freeze() == Durable().places.freeze()


def test_names_are_bounded_and_the_refusal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "MOST", 2)
    bench = Bench()
    for number in (1, 2):
        bench.give(s.Change(ANN, number, COUNTER, f"{number}", ADD, 1))
    [refused] = bench.give(s.Change(ANN, 3, COUNTER, "3", ADD, 1))
    assert refused.why == e.WRONG and "counters, events and barriers at most" in refused.reason
    assert bench.give(s.Want(ANN, 4, BARRIER, "b", "main", True, 1))[0].why == e.WRONG
    bench.give(s.Change(ANN, 5, COUNTER, "1", PUT, 0))
    assert bench.give(s.Change(ANN, 6, COUNTER, "3", ADD, 1)) == [e.Answer(ANN, 6, 1)]
    for number in (7, 8):
        bench.lock(ANN, number, f"{number}")
    assert bench.lock(ANN, 9, "9")[0].why == e.WRONG


def test_answers_that_nobody_hears_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MOST_UNHEARD", 2)
    bench = Bench()
    said = [bench.add(ANN, number)[0] for number in (1, 2, 3)]
    assert isinstance(said[1], e.Answer) and said[2].why == e.WRONG
    bench.give(s.Heard(ANN, 3, ()))
    assert bench.add(ANN, 4) == [e.Answer(ANN, 4, 3)]


def test_a_client_that_is_forgotten_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plesio.core.pool.clients.CLIENTS_KEPT", 3)
    bench = Bench()
    bench.lock(ANN, 1)
    bench.give(s.ClientLost(ANN), s.ClientUp("d" * 16))
    assert not bench.journal.places.holds and bench.lock(BEN, 1) == [e.Granted(BEN, 1, 2)]


# -- a client's side


def test_what_is_granted_to_nobody_is_given_back() -> None:
    grants = Grants(ANN)
    want = grants.want(LOCK, "x", "main", False, 1, True)
    release = grants.give_up(want.number)
    assert release == s.Release(ANN, 2, 1) and grants.resend()[1:] == [release]
    assert grants.receive(e.Granted(ANN, 1, 7)) == s.Release(ANN, 3, 1)  # they crossed: it may be one grant more
    grants.receive(e.Answer(ANN, 2, 7))
    assert grants.settling()
    grants.receive(e.Answer(ANN, 3, 0, False))
    assert not grants.settling()


def test_one_that_holds_or_waits_says_that_it_is_alive_and_another_says_nothing() -> None:
    grants = Grants(ANN)
    assert grants.due(100.0) == []
    want = grants.want(LOCK, "x", "main", False, 1, True)
    assert (
        grants.due(100.0) == [s.Renew(ANN)]
        and grants.due(100.1) == []
        and grants.due(100.0 + LEASE_S / 4) == [s.Renew(ANN)]
    )
    grants.receive(e.Granted(ANN, 1, 7))
    grants.take(want.number)
    assert grants.due(200.0) == [s.Renew(ANN)]
    release = grants.release(want.number)
    grants.receive(e.Answer(ANN, release.number, 7))
    assert grants.due(300.0) == []


def test_one_that_was_taken_for_gone_says_its_waits_again() -> None:
    grants = Grants(ANN)
    first, second = (grants.want(LOCK, name, "main", False, 1, True) for name in "xy")
    grants.change(COUNTER, "n", ADD, 1)
    grants.receive(e.Granted(ANN, first.number, 7))
    assert grants.lapsed() == [second]


def test_a_wait_that_is_being_withdrawn_may_still_end_well() -> None:
    grants = Grants(ANN)
    for ends_well in (True, False):
        wait = grants.want(BARRIER, "b", "main", True, 2, True)
        release = grants.release(wait.number)
        assert grants.resend()[1:] == [wait, release]
        if ends_well:
            grants.receive(e.Answer(ANN, wait.number, 7))
        grants.receive(e.Answer(ANN, release.number, 0, False))
        assert grants.arrived(release.number) and grants.arrived(wait.number) == ends_well
        assert grants.resend()[1:] == [] and not grants.settling()


def test_what_was_heard_is_said_now_and_then() -> None:
    grants = Grants(ANN)
    for _ in range(HEARD):
        grants.receive(e.Answer(ANN, grants.change(COUNTER, "n", GET).number, 0))
    waits = grants.want(EVENT, "x", "main", True, 1, True)
    assert grants.due(0.0) == [s.Heard(ANN, HEARD + 1, (waits.number,))]


def test_whoever_waits_for_a_pool_that_forgot_this_client_is_told() -> None:
    grants = Grants(ANN)
    want = grants.want(LOCK, "x", "main", False, 1, True)
    grants.forget("why")
    assert grants.take(want.number) == e.Refuse(ANN, want.number, e.LOST, "why") and not grants.settling()

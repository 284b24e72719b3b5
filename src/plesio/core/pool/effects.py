"""Effects of a pool: what the driver is to do, in the imperative. Each may be done again without harm."""

from __future__ import annotations

import msgspec


class Effect(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An order to the driver."""


class Welcome(Effect, frozen=True):
    """To a client: your number, and how many of your tasks are known already."""

    session: str
    client: int
    known: int


class Accept(Effect, frozen=True):
    """To a client: `count` of your tasks, from number `first` on, are durable. soon: somebody may wait for just this."""

    session: str
    first: int
    count: int
    soon: bool = False


class Decline(Effect, frozen=True):
    """To a client: `count` of your tasks, from number `first` on, are not taken. retry_s: try again then; 0: never."""

    session: str
    first: int
    count: int
    reason: str
    retry_s: float = 0.0


class Again(Effect, frozen=True):
    """To a client: there is room for your tasks from number `first` on, which were declined for now."""

    session: str
    first: int


class Tell(Effect, frozen=True):
    """To a client: these tasks ended well, with these results."""

    session: str
    ids: tuple[int, ...]
    results: tuple[bytes, ...]


class TellFailure(Effect, frozen=True):
    """To a client: this task ended otherwise. kind: see outcome.py."""

    session: str
    id: int
    kind: str
    message: str


class Order(msgspec.Struct, frozen=True, array_like=True):
    """Tasks of one function. inputs: of each task, the results that its arguments refer to, as (id, result).

    attempt: how many of each are over; the same number comes back with a failure. yields: they are told when the slot ends.
    """

    fn: str
    timeout_s: float
    ids: tuple[int, ...]
    args: tuple[bytes, ...]
    inputs: tuple[tuple[tuple[int, bytes], ...], ...] = ()
    attempt: int = 0
    yields: bool = False


class Run(Effect, frozen=True):
    """To a slot: run these, in order."""

    slot: str
    orders: tuple[Order, ...]


class Give(Effect, frozen=True):
    """To a client: messages that it asked for with this number. They are its until it settles them, or is gone."""

    session: str
    number: int
    ids: tuple[int, ...]
    values: tuple[bytes, ...]
    attempts: tuple[int, ...]  # how often each came back


class Settled(Effect, frozen=True):
    """To a client: what you said of messages with this number is durable."""

    session: str
    number: int


class Granted(Effect, frozen=True):
    """To a client: you hold what you wanted with this number. token: greater than all before."""

    session: str
    number: int
    token: int


class Answer(Effect, frozen=True):
    """To a client: what you said with this number came to this. ok: it did what it should."""

    session: str
    number: int
    value: int
    ok: bool = True


class Refuse(Effect, frozen=True):
    """To a client: what you said with this number is not done. why: one of the words below."""

    session: str
    number: int
    why: str
    reason: str


DEADLOCK, BUSY, LOST, WRONG = "deadlock", "busy", "lost", "wrong"


class Lapsed(Effect, frozen=True):
    """To a client: nothing was heard of you for too long. You hold nothing; say again what you wait for."""

    session: str


class Revoke(Effect, frozen=True):
    """To a slot: give back those of these that you have not begun."""

    slot: str
    ids: tuple[int, ...]


class Disconnect(Effect, frozen=True):
    """End the connection of this slot, which was taken for gone: if it lives, it comes again and says what it has."""

    slot: str


class StopTask(Effect, frozen=True):
    """To a slot's node: end this task if the slot is at it. grace_s: what it has for that; 0: as any other."""

    node: str
    slot: str
    incarnation: str
    id: int
    grace_s: float = 0.0


AnyEffect = (
    Welcome | Accept | Decline | Again | Tell | TellFailure | Give | Settled | Granted | Answer | Refuse | Lapsed | Run
    | Revoke | Disconnect | StopTask
)  # fmt: skip
TO_CLIENT = (Welcome, Accept, Decline, Again, Tell, TellFailure, Give, Settled, Granted, Answer, Refuse, Lapsed)
TO_SLOT = (Run, Revoke)

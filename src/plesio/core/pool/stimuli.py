"""Stimuli of a pool: what reaches its coordinator. Messages of clients, nodes and slots, and time."""

from __future__ import annotations

from typing import Annotated

import msgspec

from plesio.core.pool.recipe import QueueChange, Recipe
from plesio.core.refusals import REASON_LENGTH, WHO_LENGTH


class Stimulus(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something that reached the coordinator."""


class TakeLead(Stimulus, frozen=True):
    """This coordinator was elected."""

    epoch: int


class ClientUp(Stimulus, frozen=True):
    """A client connected. session: its own secret; the same one again is the same client. near: it reads segments.

    holds: the messages that it has taken and not settled, or not heard to be settled.
    """

    session: str
    near: bool = False
    holds: tuple[int, ...] = ()


class ClientLost(Stimulus, frozen=True):
    """Its connection ended."""

    session: str


class Submit(Stimulus, frozen=True):
    """A client's tasks number `first` and so on. What is known already is not submitted twice."""

    session: str
    first: int
    recipe: Recipe
    args: tuple[bytes, ...]
    delay_s: float = 0.0
    key: str = ""
    needs: tuple[int, ...] = ()


class Await(Stimulus, frozen=True):
    """A client wants to know how these tasks end; said again after a reconnection."""

    session: str
    ids: tuple[int, ...]


class Taken(Stimulus, frozen=True):
    """A client has these outcomes; they need not be kept for it."""

    session: str
    ids: tuple[int, ...]


class Cancel(Stimulus, frozen=True):
    """Somebody does not want these tasks any more."""

    ids: tuple[int, ...]


class Revive(Stimulus, frozen=True):
    """Somebody gives a dead letter another chance."""

    id: int


class SetQueue(Stimulus, frozen=True):
    """Make a queue, or change it."""

    name: str
    change: QueueChange


class RemoveQueue(Stimulus, frozen=True):
    """Remove a queue; what waits in it is cancelled."""

    name: str


class NodeUp(Stimulus, frozen=True):
    """A worker's machine connected; said again as a sign of life. slots: those whose processes are alive.

    running: what each of them is at; 0: nothing.
    """

    node: str
    slots: tuple[tuple[str, str], ...]  # (slot, incarnation)
    running: tuple[int, ...] = ()


class NodeLost(Stimulus, frozen=True):
    """Its connection ended."""

    node: str


class SlotUp(Stimulus, frozen=True):
    """A slot's process connected. holds: the tasks it has, or whose results it will send again. near: it reads segments."""

    slot: str
    node: str
    incarnation: str
    tags: tuple[tuple[str, float], ...] = ()
    holds: tuple[int, ...] = ()
    near: bool = False


class SlotLost(Stimulus, frozen=True):
    """Its connection ended."""

    slot: str
    incarnation: str


class SlotExited(Stimulus, frozen=True):
    """Its node saw the process end. running: the task it was at; 0: none. kind: see outcome.py."""

    slot: str
    incarnation: str
    running: int
    kind: str
    message: str


class Finished(Stimulus, frozen=True):
    """A slot's results, in order."""

    slot: str
    incarnation: str
    ids: tuple[int, ...]
    results: tuple[bytes, ...]
    busy_s: float  # spent on these


class Failed(Stimulus, frozen=True):
    """A slot's task failed, and the slot lives on. kind: see outcome.py. attempt: as its order said."""

    slot: str
    incarnation: str
    id: int
    kind: str
    message: str
    attempt: int = 0


class Concurrent(Stimulus, frozen=True):
    """A slot found that many calls of this function may be under way in one process: it is a coroutine, or for threads."""

    slot: str
    incarnation: str
    fn: str


class GaveBack(Stimulus, frozen=True):
    """A slot has not begun these and will not: it was asked to, or it is about to leave."""

    slot: str
    incarnation: str
    ids: tuple[int, ...]


class SlotLeaves(Stimulus, frozen=True):
    """A slot takes no more tasks."""

    slot: str
    incarnation: str


class Take(Stimulus, frozen=True):
    """A client wants up to `count` messages of a queue, when there are some. count 0: not any more. number: of this wish."""

    session: str
    number: int
    queue: str
    count: int


class Settle(Stimulus, frozen=True):
    """A client is done with these messages: they are acknowledged, or come again after `delay_s`. number: of saying so."""

    session: str
    number: int
    ids: tuple[int, ...]
    ok: bool
    delay_s: float = 0.0


class Publish(Stimulus, frozen=True):
    """A client's tasks number `first` and so on are messages for all subscriptions of a topic."""

    session: str
    first: int
    topic: str
    args: tuple[bytes, ...]
    priority: int = 0


class Subscribe(Stimulus, frozen=True):
    """From now on a subscription of this topic has a copy of each message; or no more, and its queue is removed."""

    topic: str
    name: str
    on: bool = True


class Want(Stimulus, frozen=True):
    """A client's thread or task (owner) waits for a place, an event or a barrier; said again after a reconnection.

    kind: see places.py. shared: with others. limit: of a semaphore, or a barrier's parties. wait: else now or never.
    """

    session: str
    number: int
    kind: str
    name: str
    owner: str
    shared: bool = False
    limit: int = 1
    wait: bool = True


class Release(Stimulus, frozen=True):
    """A client does not hold any more, or wait any more for, what it wanted with number `of`."""

    session: str
    number: int
    of: int


class Change(Stimulus, frozen=True):
    """A client reads (how: 'get') or changes ('add', 'put') a counter or an event. number: the same one is done once.

    expected: put only if it is this. fence: only if this token's hold still stands; 0: none. how 'check': that alone.
    """

    session: str
    number: int
    kind: str
    name: str
    how: str
    amount: int = 0
    expected: int | None = None
    fence: int = 0


class Heard(Stimulus, frozen=True):
    """A client has the answers to all its numbers up to `upto` but these; they need not be kept for it."""

    session: str
    upto: int
    but: tuple[int, ...]


class Renew(Stimulus, frozen=True):
    """A client that holds or waits is alive."""

    session: str


class Refused(Stimulus, frozen=True):
    """The wire turned somebody away; or a client did, at a door of its own."""

    who: Annotated[str, msgspec.Meta(max_length=WHO_LENGTH)]
    reason: Annotated[str, msgspec.Meta(max_length=REASON_LENGTH)]


class Tick(Stimulus, frozen=True):
    """Time passed."""


AnyStimulus = (
    TakeLead | ClientUp | ClientLost | Submit | Await | Taken | Cancel | Revive | SetQueue | RemoveQueue | NodeUp
    | NodeLost | SlotUp | SlotLost | SlotExited | Finished | Failed | Concurrent | GaveBack | SlotLeaves | Take | Settle
    | Publish | Subscribe | Want | Release | Change | Heard | Renew | Refused | Tick
)  # fmt: skip

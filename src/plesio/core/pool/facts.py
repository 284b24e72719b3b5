"""Facts of a pool: what happened, in the past tense. They alone are journaled, and the state is their fold.

Most speak of many tasks at once: what reached the coordinator together is decided and written together.
"""

from __future__ import annotations

import msgspec

from plesio.core.facts import LeaderElected, PeerRefused
from plesio.core.pool.places import Hold
from plesio.core.pool.recipe import QueueSettings, Recipe


class Fact(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Something that happened and will stay true."""


class ClientJoined(Fact, frozen=True):
    """A client submits under this number from now on. session: what proves, on another connection, that it is this one.

    forgets: the number of one that is remembered no longer; 0: none.
    """

    client: int
    session: str
    forgets: int = 0


class TasksSubmitted(Fact, frozen=True):
    """A client's tasks number `first`, first + 1, ... exist, one for each of `args`. They may begin at `due_s`."""

    client: int
    first: int
    recipe: Recipe
    args: tuple[bytes, ...]
    at_s: float
    due_s: float = 0.0
    key: str = ""  # of one task: the same key is the same task
    needs: tuple[int, ...] = ()  # ids of the tasks that must have ended well before these begin


class Published(Fact, frozen=True):
    """A client's tasks number `first` and so on were messages to a topic: each subscription has a copy of each.

    copies: (queue of the subscription, number of its first copy, as a task of the pool itself, client 0).
    """

    client: int
    first: int
    priority: int
    args: tuple[bytes, ...]
    at_s: float
    copies: tuple[tuple[str, int], ...]


class TopicSet(Fact, frozen=True):
    """A topic has these subscriptions, each with a queue named '<topic>/<subscription>'. None: it is gone."""

    topic: str
    subscriptions: tuple[str, ...]


class TasksLeased(Fact, frozen=True):
    """A slot has these tasks, in this order."""

    slot: str
    ids: tuple[int, ...]


class TasksDone(Fact, frozen=True):
    """A slot's results: of each task the first, and the only one that counts."""

    slot: str
    ids: tuple[int, ...]
    results: tuple[bytes, ...]
    at_s: float


class TasksReturned(Fact, frozen=True):
    """They wait again where they were; it was not their fault. reason: 'lost', 'given back', 'unfit'.

    suspect: the one of them that was probably running when its worker was lost; 0: none.
    """

    slot: str
    ids: tuple[int, ...]
    reason: str
    suspect: int = 0


class TaskYielded(Fact, frozen=True):
    """It has left its slot, as it was told to, or was put out. It waits from now on."""

    id: int
    slot: str
    at_s: float


class AttemptFailed(Fact, frozen=True):
    """A task failed and will be tried again at `due_s`. kind: see outcome.py."""

    id: int
    slot: str
    kind: str
    message: str
    due_s: float


class TaskDied(Fact, frozen=True):
    """A task failed for good: it is a dead letter. kind: see outcome.py."""

    id: int
    slot: str
    kind: str
    message: str
    at_s: float


class TasksCancelled(Fact, frozen=True):
    """Nobody wants them any more."""

    ids: tuple[int, ...]
    at_s: float


class TaskRevived(Fact, frozen=True):
    """A dead letter was given another chance."""

    id: int
    at_s: float


class TasksForgotten(Fact, frozen=True):
    """They ended, and their results are not kept any longer."""

    ids: tuple[int, ...]


class SlotJoined(Fact, frozen=True):
    """A place where one task runs at a time. incarnation names its process; tags: what it offers, as (tag, amount)."""

    slot: str
    node: str
    incarnation: str
    tags: tuple[tuple[str, float], ...]


class SlotEnded(Fact, frozen=True):
    """Its process is gone, or silent. What it held is told by other facts."""

    slot: str
    incarnation: str
    reason: str


class QueueSet(Fact, frozen=True):
    """A queue exists with these settings."""

    name: str
    settings: QueueSettings


class QueueRemoved(Fact, frozen=True):
    """A queue is gone; it was empty."""

    name: str


class PlaceTaken(Fact, frozen=True):
    """A client has a lock, a read-write lock or a part of a semaphore."""

    hold: Hold


class PlaceReleased(Fact, frozen=True):
    """It gave it back, and said so with this number."""

    token: int
    number: int


class PlacesLost(Fact, frozen=True):
    """A client has these no more: it was silent or gone for too long."""

    client: int
    tokens: tuple[int, ...]
    reason: str


class ValueSet(Fact, frozen=True):
    """A client made a counter or an event so, and said so with this number."""

    client: int
    number: int
    kind: str
    name: str
    value: int


class BarrierPassed(Fact, frozen=True):
    """All parties, as (client, number), came to a barrier."""

    name: str
    generation: int
    parties: tuple[tuple[int, int], ...]
    at_s: float


class BarriersForgotten(Fact, frozen=True):
    """Nobody came to them for long: they begin again at generation 0."""

    names: tuple[str, ...]


class AnswersHeard(Fact, frozen=True):
    """A client has the answers to all its numbers up to `upto` but these."""

    client: int
    upto: int
    but: tuple[int, ...]


AnyFact = (
    LeaderElected | ClientJoined | TasksSubmitted | Published | TopicSet | TasksLeased | TasksDone | TasksReturned
    | AttemptFailed | TaskDied | TaskYielded
    | PlaceTaken | PlaceReleased | PlacesLost | ValueSet | BarrierPassed | BarriersForgotten | AnswersHeard
    | TasksCancelled | TaskRevived | TasksForgotten | SlotJoined | SlotEnded | QueueSet | QueueRemoved | PeerRefused
)  # fmt: skip

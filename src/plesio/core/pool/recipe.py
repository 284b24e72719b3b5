"""What a task is asked to be, as its submitter said it. Plain frozen records."""

from __future__ import annotations

import msgspec

DEFAULT_QUEUE = "default"
MAX_PRIORITY = 1000
HEAVY = b"\xc1"  # begins a value with large buffers, or with a segment of shared memory; see values/encoding.py
TOPIC = "@topic"  # ... is for all subscriptions of a topic; a word between a client's threads only
MESSAGE = "@message"  # in place of a function: what is submitted is for whoever takes it out of the queue
CLIENT_SHIFT = 40  # a task's id: its client's number, then a count of that client's tasks


class Recipe(msgspec.Struct, frozen=True, array_like=True):
    """All that tasks may have in common. fn: 'package.module:function', or 'path/to/script.py:function'.

    retries: how often one that raised, or ran out of time, runs again. requires: what a worker's tags must offer at
    least, as (tag, amount). timeout_s: 0: none; seconds of one attempt, from when it begins to run. yields_s: it holds its
    slot for long, and leaves it for a task of a higher priority, when told to, within so many seconds; 0: it does not.
    """

    fn: str
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    timeout_s: float = 0.0
    retries: int = 0
    requires: tuple[tuple[str, float], ...] = ()
    yields_s: float = 0.0


class QueueSettings(msgspec.Struct, frozen=True, array_like=True):
    """capacity: tasks that may wait in it; more are refused. rate_per_s: tasks that may begin in a second; 0: any."""

    capacity: int = 2_000_000
    rate_per_s: float = 0.0
    paused: bool = False


class QueueChange(msgspec.Struct, frozen=True, array_like=True):
    """What of QueueSettings is to be otherwise; None: it stays as it is."""

    capacity: int | None = None
    rate_per_s: float | None = None
    paused: bool | None = None


def task_id(client: int, n: int) -> int:
    """The id of a client's n-th task, from 1."""
    return client << CLIENT_SHIFT | n


def client_of(id: int) -> int:
    """Whose task it is."""
    return id >> CLIENT_SHIFT


def name_of(id: int) -> str:
    """As people read it: '3-17' is the 17th task of client 3."""
    return f"{id >> CLIENT_SHIFT}-{id & (1 << CLIENT_SHIFT) - 1}"


def id_of(name: str) -> int:
    """The id that `name_of` shows so. Raises ValueError."""
    client, dash, n = name.partition("-")
    if not dash or not (client.isdecimal() and n.isdecimal()):
        raise ValueError(f"{name!r} is no task; tasks are named like 3-17")
    return task_id(int(client), int(n))

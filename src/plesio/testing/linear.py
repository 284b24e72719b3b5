"""Is a recorded history linearizable? The search of Wing and Gong, with what was tried before remembered (Lowe).

Each operation must be able to have happened at one moment between its call and its return; one that never returned may
have happened at any moment after its call, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

NEVER_S = math.inf
TAKING = ("acquire", "read", "write")


class Op(NamedTuple):
    """One call. result: None: it never returned."""

    called_s: float
    returned_s: float
    name: str
    argument: Any
    result: Any = None


class Model(Protocol):
    """What the thing is that the calls are of."""

    def start(self) -> Hashable:
        """Its state before all calls."""

    def step(self, state: Any, op: Op) -> Hashable | None:
        """The state after this call; None: it cannot have happened now."""


class Places:
    """A lock (n 1), a semaphore, or a read-write lock. State: the tokens that are held, each with its parts; the newest.

    'acquire' and 'read' take one of n parts, 'write' takes all, and each has its token as its result; without one, its
    argument stands for it. 'release' and 'check' of a token have 'done' or 'lost'. 'lose' of a token: its holder was
    killed or paused then, and the pool may take it at any time.
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def start(self) -> Hashable:
        """Nobody holds anything."""
        return frozenset(), 0

    def step(self, state: tuple[frozenset[tuple[Any, int]], int], op: Op) -> Hashable | None:
        """See Model."""
        held, newest = state
        if op.name in TAKING:
            token = op.argument if op.result is None else op.result
            known, parts = op.result is not None, self.n if op.name == "write" else 1
            if sum(taken for _, taken in held) + parts > self.n or (known and token <= newest):
                return None
            return held | {(token, parts)}, token if known else newest
        left = frozenset(hold for hold in held if hold[0] != op.argument)
        there = left != held
        if op.name == "lose":
            return (left, newest) if there else None
        if op.result is not None and there != (op.result == "done"):
            return None
        return (left, newest) if op.name == "release" else state


class Count:
    """A counter. 'add' has the new value as its result, 'get' the value, 'swap' (expected, new) whether it did."""

    def start(self) -> Hashable:
        """Nobody counted."""
        return 0

    def step(self, state: int, op: Op) -> Hashable | None:
        """See Model."""
        if op.name == "get":
            return state if op.result in (None, state) else None
        if op.name == "add":
            return state + op.argument if op.result in (None, state + op.argument) else None
        expected, new = op.argument
        if op.result not in (None, state == expected):
            return None
        return new if state == expected else state


class Flag:
    """An event. 'set', 'clear'; 'get' has whether it is set; 'wait', by its timeout, whether it was.

    A wait that lasts says False also when the pool could not be reached: that tells nothing.
    """

    def start(self) -> Hashable:
        """Nobody set it."""
        return False

    def step(self, state: bool, op: Op) -> Hashable | None:
        """See Model."""
        if op.name in ("set", "clear"):
            return op.name == "set"
        tells = op.result is not None and (op.name == "get" or op.result or op.argument == 0)
        return None if tells and op.result != state else state


class Meeting:
    """A barrier of n parties. State: times passed, and how many have come since.

    A wait is two calls within its time, as of what waits for others (Scherer and Scott, DISC 2004): 'come', and 'go' once
    it is passed; both have its number as their result. So the n waits of a number have one moment in common
    (set-linearizability: Neiger, PODC 1994). One that never returned has only come, or not. One that timed out is no call.
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def start(self) -> Hashable:
        """Nobody came."""
        return 0, 0

    def step(self, state: tuple[int, int], op: Op) -> Hashable | None:
        """See Model."""
        passed, come = state
        if op.name == "go":
            return state if op.result < passed else None
        if op.result not in (None, passed):
            return None
        return (passed + 1, 0) if come + 1 == self.n else (passed, come + 1)


def is_linearizable(history: Sequence[Op], model: Model) -> bool:
    """Is there an order of the calls that explains all results?"""
    ops = sorted(history, key=lambda op: op.called_s)
    wanted = sum(1 << i for i, op in enumerate(ops) if op.returned_s < NEVER_S)
    start = (0, model.start())
    seen, ahead = {start}, [start]
    while ahead:
        done, state = ahead.pop()
        if done & wanted == wanted:
            return True
        for i in _next(ops, done):
            after = model.step(state, ops[i])
            if after is not None and (done | 1 << i, after) not in seen:
                seen.add((done | 1 << i, after))
                ahead.append((done | 1 << i, after))
    return False


def _next(ops: Sequence[Op], done: int) -> list[int]:
    """Those that may be next: nothing else that is not done returned before they were called."""
    found: list[int] = []
    first_s = NEVER_S
    at = (~done & done + 1).bit_length() - 1  # the first that is not done
    for i in range(at, len(ops)):
        if ops[i].called_s > first_s:
            break
        if not done >> i & 1:
            found.append(i)
            first_s = min(first_s, ops[i].returned_s)
    return sorted(found, key=lambda i: -ops[i].returned_s)  # the one that returned first is tried first

"""Is a recorded history linearizable? The search of Wing and Gong, with what was tried before remembered (Lowe).

Each operation must be able to have happened at one moment between its call and its return; one that never returned may
have happened at any moment after its call, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

NEVER_S = math.inf


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
    """A lock (n 1) or a semaphore. State: the tokens that are held, and the newest.

    'acquire' has its token as its result; without one, its argument stands for it. 'release' and 'check' of a token have
    'done' or 'lost'. 'lose' of a token: its holder was killed or paused then, and the pool may take it at any time.
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def start(self) -> Hashable:
        """Nobody holds anything."""
        return frozenset(), 0

    def step(self, state: tuple[frozenset[Any], int], op: Op) -> Hashable | None:
        """See Model."""
        held, newest = state
        if op.name == "acquire":
            token = op.argument if op.result is None else op.result
            known = op.result is not None
            if len(held) >= self.n or (known and token <= newest):
                return None
            return held | {token}, token if known else newest
        there = op.argument in held
        if op.name == "lose":
            return (held - {op.argument}, newest) if there else None
        if op.result is not None and there != (op.result == "done"):
            return None
        return (held - {op.argument}, newest) if op.name == "release" and there else state


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

"""Looking once more before going to sleep: to be woken costs about .1 ms, an answer is often there sooner.

A bounded busy wait that gives the core away between two looks, and only where something came a moment ago and looks have not
been in vain, so that who is idle stays idle. The same idea as the kernel's SO_BUSY_POLL, which sockets of one machine do not
have.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SELECT_LOOK_S = 0.0003  # of an event loop
VAIN, MOST_VAIN, LET_GO = 3, 9, 32  # one look in vain outweighs three that were not; looks let go by when too many were


def look(at: Callable[[], T], for_s: float) -> T | None:
    """What `at` returns, as soon as it is something; None when it is not within this time."""
    until_s = time.perf_counter() + for_s
    while True:
        found = at()
        if found:
            return found
        if time.perf_counter() > until_s:
            return None
        os.sched_yield()


class Looker:
    """Looks where that pays: once most looks are in vain, it tries it again only now and then."""

    def __init__(self) -> None:
        self._in_vain = self._let_go = 0

    def look(self, at: Callable[[], T], for_s: float) -> T | None:
        """As `look`, or None at once."""
        if self._let_go:
            self._let_go -= 1
            return None
        there = at()
        if there:
            return there
        found = look(at, for_s)
        self._in_vain = max(0, self._in_vain - 1) if found else min(self._in_vain + VAIN, MOST_VAIN)
        self._let_go = LET_GO if self._in_vain > VAIN else 0
        return found


class LookingSelector(selectors.DefaultSelector):
    """For an event loop whose answers somebody waits for."""

    def __init__(self) -> None:
        super().__init__()
        self._busy = False  # did something come last time?
        self._looker = Looker()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the selector's own."""
        found = None
        if self._busy and (timeout is None or timeout > 0):
            look_s = min(SELECT_LOOK_S, timeout or SELECT_LOOK_S)
            found = self._looker.look(lambda: super(LookingSelector, self).select(0), look_s)
        found = found or super().select(timeout)
        self._busy = bool(found)
        return found


def looking_loop() -> asyncio.AbstractEventLoop:
    """A new event loop with that selector."""
    return asyncio.SelectorEventLoop(LookingSelector())

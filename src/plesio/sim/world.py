"""Virtual time: one event queue, one seeded generator. Every run replays from its seed."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any


class Killed(Exception):  # noqa: N818  the process is gone: no error
    """The process that is running was killed at this instruction."""


class World:
    """Owns time, randomness and the queue of events."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.events = 0
        self.before_event: Callable[[], None] = lambda: None
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        """Calls `action` after `delay_s`."""
        self._order += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._order, action, args))

    def run(self, until_s: float, done: Callable[[], bool]) -> bool:
        """Runs events until `done`, or until `until_s` (then False)."""
        while self._queue and not done():
            if self._queue[0][0] > until_s:
                return False
            self.now_s, _, action, args = heapq.heappop(self._queue)
            self.events += 1
            try:
                self.before_event()
                action(*args)
            except Killed:
                pass
        return done()


class Process:
    """One life of a simulated process. Killed: its timers and messages do nothing. Paused: they wait."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused = False
        self._backlog: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def later(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        """A timer of this process."""
        self.world.at(delay_s, self.do, action, *args)

    def do(self, action: Callable[..., None], *args: Any) -> None:
        """Runs in this process, now or when it goes on."""
        if not self.alive:
            return
        if self.paused:
            self._backlog.append((action, args))
        else:
            action(*args)

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        while self._backlog and self.alive and not self.paused:
            action, args = self._backlog.popleft()
            action(*args)

    def connected(self, connection: Any) -> None:
        """A connection is up; connection.kind says which."""

    def lost(self, connection: Any) -> None:
        """A connection broke; what was under way on it is lost."""

    def receive(self, connection: Any, message: Any, payload: Any) -> None:
        """A message arrived."""

"""A learner's counters, for metrics: steps, tokens, time in the user's code and time waiting in plesio."""

from __future__ import annotations

import time

import msgspec


class Meter(msgspec.Struct):
    """Written by the main thread; read by the link's (torn reads are harmless: it is only shown)."""

    tokens: int = 0
    steps: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0
    loss: float = float("nan")
    phase: str = "joining"
    step_s: float = 0.0  # smoothed seconds of one step in the user's code
    tokens_per_s: float = 0.0
    left_s: float = msgspec.field(default_factory=time.monotonic)

    def enter(self) -> float:
        """The user's code handed over; returns the seconds it had."""
        now_s = time.monotonic()
        spent_s = now_s - self.left_s
        self.busy_s += spent_s
        self.left_s = now_s
        return spent_s

    def leave(self) -> None:
        """The user's code goes on."""
        now_s = time.monotonic()
        self.wait_s += now_s - self.left_s
        self.left_s = now_s

    def step(self, tokens: int, loss: float | None, spent_s: float) -> None:
        """One step was done."""
        self.tokens += tokens
        self.steps += 1
        if loss is not None:
            self.loss = loss
        self.step_s = spent_s if self.steps == 1 else self.step_s + 0.1 * (spent_s - self.step_s)
        whole_s = self.busy_s + self.wait_s
        self.tokens_per_s = self.tokens / whole_s if whole_s else 0.0

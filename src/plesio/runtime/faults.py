"""Faults that a supervisor injects into its own run (`--chaos`): what, whom, when."""

from __future__ import annotations

import re
import signal

import msgspec

from plesio.errors import UserError

_PATTERN = re.compile(r"^(kill|stop) ([a-z]+(?:-\d+)?) at (\d+)(s| tokens)(?: for (\d+(?:\.\d+)?)s)?$")


class Fault(msgspec.Struct, frozen=True):
    """SIGKILL or SIGSTOP to a process of a run, at a time since its start or at a number of merged tokens."""

    target: str  # 'learner-1', 'synchronizer', 'coordinator', 'all'
    signum: int
    at_s: float | None = None
    at_tokens: int | None = None
    lasts_s: float = 10.0  # of a SIGSTOP

    def __str__(self) -> str:
        return f"{signal.Signals(self.signum).name} to {self.target}"

    def due(self, since_s: float, tokens: int) -> bool:
        """Is it time?"""
        if self.at_tokens is not None:
            return tokens >= self.at_tokens
        return since_s >= (self.at_s or 0.0)


def parse(text: str, learners: int) -> tuple[Fault, ...]:
    """'kill learner-1 at 30s; stop learner-0 at 40s for 10s; kill coordinator at 50000 tokens'. Of a run of so many."""
    faults, there = [], {"all", "coordinator", "synchronizer", *(f"learner-{n}" for n in range(learners))}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        found = _PATTERN.match(part)
        if found is None:
            raise UserError(f"fault {part!r} is not understood; write e.g. 'kill learner-1 at 30s'")
        verb, target, amount, unit, lasts = found.groups()
        if target not in there:
            raise UserError(f"fault {part!r}: this run has no {target!r}, but {', '.join(sorted(there))}")
        signum = signal.SIGKILL if verb == "kill" else signal.SIGSTOP
        at_s, at_tokens = (float(amount), None) if unit == "s" else (None, int(amount))
        faults.append(Fault(target, signum, at_s, at_tokens, float(lasts or 10.0)))
    return tuple(faults)

"""What the coordinator shows: estimates and counters for the live table and metrics.jsonl. Nothing is decided here."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterable

from plesio.core import facts as f
from plesio.core.turn import State
from plesio.wire import messages as m


class StatusBoard:
    """The newest figures of every peer. Forgotten at a restart, but for what the journal's tail holds."""

    def __init__(self) -> None:
        self.latest: dict[str, m.Metrics] = {}
        self.pushed_unix_s: dict[str, float] = {}
        self.effective = 0
        self.losses: deque[tuple[int, float]] = deque(maxlen=500)
        self.faults = 0
        self.elections = 0
        self.sent_s = 0.0
        self.closed_control_bytes = 0
        self.trouble = ""  # what keeps the run's folder from being complete

    def measure(self, metrics: m.Metrics) -> None:
        """A peer's counters."""
        self.latest[metrics.name] = metrics

    def note(self, facts: list[f.Fact], unix_s: float) -> None:
        """What the facts say to a reader of the table."""
        for fact in facts:
            if isinstance(fact, f.RoundClosed):
                self.effective = fact.contributors
            elif isinstance(fact, f.ContributionAccepted):
                self.pushed_unix_s[fact.contribution.contributor] = unix_s
            elif isinstance(fact, f.Evaluated):
                self.losses.append((fact.version.number, fact.loss))
            elif isinstance(fact, f.RolledBack) or (isinstance(fact, f.MemberEnded) and fact.reason != "left"):
                self.faults += 1
            elif isinstance(fact, f.LeaderElected):
                self.elections += 1
                self.faults += self.elections > 1

    def recall(self, faults: int, losses: Iterable[tuple[int, float]]) -> None:
        """What facts said that are not told one by one any more."""
        self.faults = faults
        self.losses.clear()
        self.losses.extend(losses)

    def status(self, state: State, now_s: float) -> m.Status:
        """For the live table."""
        durable = state.durable
        assert durable.spec is not None
        newest = durable.merged
        chosen = durable.timeline.at((newest.number if newest else 0) + 1)
        total = durable.dataset.units * durable.dataset.epochs if durable.dataset else 0
        return m.Status(
            version=newest,
            committed=durable.committed,
            strategy=chosen.name,
            tokens=durable.tokens,
            merged_tokens=durable.tokens_merged,
            target=durable.spec.until_tokens,
            units=(durable.book.done, total),
            effective=self.effective,
            live=sum(x.live for x in durable.members.values()),
            losses=tuple(self.losses)[-60:],
            learners=tuple(self._learner(state, name, now_s) for name in sorted(durable.members)),
            finished=durable.finished,
            faults=self.faults,
            trouble=self.trouble,
        )

    def _learner(self, state: State, name: str, now_s: float) -> m.LearnerStatus:
        member = state.durable.members[name]
        pulse = state.volatile.pulses.get(name)
        shown = self.latest.get(name, m.Metrics(name, 0))
        if not member.live:
            what = "gone"
        elif pulse is None or pulse.suspected(now_s):
            what = "silent"
        elif pulse.base is None:
            what = "joining"
        else:
            what = "idle" if name in state.volatile.asking else shown.phase or "training"
        newest = state.durable.merged
        behind = newest.number - shown.base.number if newest and shown.base else 0
        return m.LearnerStatus(
            name,
            what,
            member.generation,
            shown.tokens_per_s if what != "gone" else 0.0,
            shown.tokens,
            shown.loss,
            max(0, behind),
            time.time() - self.pushed_unix_s.get(name, time.time()),
            shown.up_bytes,
            shown.down_bytes,
        )

    def metrics_line(self, state: State, control_bytes: int) -> str:
        """One line of metrics.jsonl; '' before anybody reported."""
        known = {"synchronizer", *state.durable.members}
        self.latest = {name: x for name, x in self.latest.items() if name in known}
        self.pushed_unix_s = {name: at for name, at in self.pushed_unix_s.items() if name in known}
        if not self.latest:
            return ""
        server = self.latest.get("synchronizer", m.Metrics("synchronizer", 0))
        learners = {
            name: {
                "tokens": x.tokens,
                "steps": x.steps,
                "busy_s": _rounded(x.busy_s, 3) or 0.0,
                "wait_s": _rounded(x.wait_s, 3) or 0.0,
                "tokens_per_s": _rounded(x.tokens_per_s, 1) or 0.0,
                "loss": _rounded(x.loss, 5),
                "state": x.phase,
                "generation": x.generation,
                "base": [x.base.lineage, x.base.number] if x.base else None,
                "up_bytes": x.up_bytes,
                "down_bytes": x.down_bytes,
                **_pulse(state, name),
            }
            for name, x in self.latest.items()
            if name != "synchronizer"
        }
        wire_bytes = {"up": server.down_bytes, "down": server.up_bytes, "control": control_bytes}
        line = {
            "unix_s": time.time(),
            "learners": learners,
            "wire_bytes": wire_bytes,
            "committed_tokens": state.durable.tokens,
        }
        return json.dumps(line, allow_nan=False)


def _pulse(state: State, name: str) -> dict[str, float]:
    """Its longest silence, what it may be silent for, and how often it was silent for longer."""
    pulse = state.volatile.pulses.get(name)
    if pulse is None:
        return {}
    return {
        "longest_silence_s": round(pulse.longest_s, 3),
        "deadline_s": round(pulse.deadline_s(), 3),
        "missed_deadlines": pulse.missed,
    }


def _rounded(value: float, digits: int) -> float | None:
    """None for what JSON has no word for: a peer may report anything, and a diverged loss is honest."""
    return round(value, digits) if math.isfinite(value) else None

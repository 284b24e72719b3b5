"""What a learner has done, sent and not yet seen merged: its side of the ledger. Pure; no tensors.

The training loop tells it units and steps; the runtime tells it versions, refusals and roll-backs.
"""

from __future__ import annotations

import msgspec

from plesio.core.state import spans
from plesio.records import Contribution, Version
from plesio.strategies.base import MAX_IN_FLIGHT


class Work(msgspec.Struct):
    """Steps done since the last push. Owned by the PushBook."""

    tokens: int = 0
    steps: int = 0
    ended: set[tuple[int, int]] = set()
    begun: set[tuple[int, int]] = set()

    def add(self, other: Work) -> None:
        """Takes over the work of a push that came back."""
        self.tokens += other.tokens
        self.steps += other.steps
        self.ended |= other.ended
        self.begun |= other.begun - other.ended


class PushBook(msgspec.Struct):
    """A learner's pushes under one generation. Owned by its runtime."""

    run: str
    name: str
    generation: int = 0
    base: Version | None = None
    seq: int = 0
    unsent: Work = msgspec.field(default_factory=Work)
    in_flight: dict[int, Work] = {}
    parts: dict[tuple[int, int], list[int]] = {}  # units that were pushed before they ended: in which pushes

    def step(self, tokens: int, unit: tuple[int, int] | None = None, ends: bool = False) -> None:
        """One optimizer step was done, in `unit` (None: an anonymous one), which ends with it or not."""
        self.unsent.tokens += tokens
        self.unsent.steps += 1
        if unit is not None:
            (self.unsent.ended if ends else self.unsent.begun).add(unit)
            if ends:
                self.unsent.begun.discard(unit)

    def end(self, unit: tuple[int, int]) -> None:
        """A unit ended without a further step."""
        self.unsent.begun.discard(unit)
        self.unsent.ended.add(unit)

    def due(self, every: int) -> bool:
        """Is it time to push: H steps, at a unit boundary?"""
        return self.unsent.steps >= every and not (self.unsent.begun and every > 1)

    def full(self) -> bool:
        """Are as many pushes under way as may be?"""
        return len(self.in_flight) >= MAX_IN_FLIGHT

    def cut(self, codec: str, digest: str, size_bytes: int, step_s: float, last: bool) -> Contribution:
        """The unsent work becomes a push."""
        assert self.base is not None
        self.seq += 1
        work, self.unsent = self.unsent, Work()
        self.in_flight[self.seq] = work
        for unit in work.begun:
            self.parts.setdefault(unit, []).append(self.seq)
        return Contribution(
            run=self.run,
            contributor=self.name,
            generation=self.generation,
            seq=self.seq,
            bases=(self.base,),
            tokens=work.tokens,
            steps=work.steps,
            ended=spans(work.ended),
            begun=spans(work.begun),
            codec=codec,
            digest=digest,
            size_bytes=size_bytes,
            step_s=step_s,
            last=last,
        )

    def arrived(self, version: Version, merged_seq: int) -> list[int]:
        """A version arrived that holds this learner's pushes up to `merged_seq`; returns those now settled."""
        self.base = version
        return self._drop([q for q in self.in_flight if q <= merged_seq])

    def refused(self, seq: int, reason: str) -> list[int]:
        """A push does not count. Only 'stale' is final; the others end in a roll-back or a rejoin."""
        if reason not in ("stale", "lease") or seq not in self.in_flight:
            return []
        for unit in self.in_flight[seq].begun:  # they are this learner's no more
            self.parts.pop(unit, None)
        return self._drop([seq])

    def torn(self, voided: tuple[int, ...]) -> bool:
        """Would a unit of ours lack a part, now that these pushes are gone? Then only a rejoin is right."""
        return any(seq in voided for seqs in self.parts.values() for seq in seqs)

    def rolled_back(
        self, version: Version, voided: tuple[int, ...], keep: bool, settled: int = 0
    ) -> tuple[list[int], list[int]]:
        """The lineage goes on from `version`. Returns (pushes whose work is unsent again, dropped pushes).

        keep: deltas come back; gradients (False) belong to versions that are gone. settled: the newest push that
        is committed, though its version may not have arrived here.
        """
        gone = self._drop([q for q in self.in_flight if q <= settled or q in voided or not keep])
        back = sorted(self.in_flight)
        for seq in back:
            self.unsent.add(self.in_flight.pop(seq))
        self.base = version
        return back, gone

    def rejoined(self, generation: int) -> None:
        """A new generation: everything before it is dropped; its units went back."""
        self.generation, self.base, self.seq = generation, None, 0
        self.unsent, self.in_flight, self.parts = Work(), {}, {}

    def _drop(self, seqs: list[int]) -> list[int]:
        for seq in seqs:
            for unit in self.in_flight.pop(seq).ended:
                self.parts.pop(unit, None)
        return seqs

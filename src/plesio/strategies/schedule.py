"""Which strategy makes which version: phases, and where each of them ended. Pure records.

A phase may end after so many rounds or committed tokens; at which version that was is a fact of the run, so every
process that needs it holds a Timeline. Source: DESIGN section 6, hybrids.
"""

from __future__ import annotations

import msgspec

from plesio.strategies.base import Strategy


class Phase(msgspec.Struct, frozen=True):
    """A strategy, and until when: so many rounds or merged tokens since the run began. Neither: for ever."""

    strategy: Strategy
    until_rounds: int | None = None
    until_tokens: int | None = None

    def is_over(self, number: int, tokens: int) -> bool:
        """Is version `number`, with so many tokens merged, its last?"""
        rounds = self.until_rounds is not None and number >= self.until_rounds
        return rounds or (self.until_tokens is not None and tokens >= self.until_tokens)


class Schedule(msgspec.Struct, frozen=True):
    """The phases of a run, in order; the last has no end."""

    phases: tuple[Phase, ...]

    @classmethod
    def of(cls, main: Strategy, start: Strategy | None = None, start_rounds: int = 0) -> Schedule:
        """One strategy, perhaps after some rounds of another."""
        before = (Phase(start, until_rounds=start_rounds),) if start is not None and start_rounds else ()
        return cls((*before, Phase(main)))


class Timeline(msgspec.Struct, frozen=True):
    """A schedule so far. ends: the last version of each phase that is over."""

    schedule: Schedule
    ends: tuple[int, ...] = ()

    def at(self, number: int) -> Strategy:
        """The strategy of the round that makes version `number` (>= 1)."""
        return self.schedule.phases[sum(end < number for end in self.ends)].strategy

    def changes_at(self, number: int) -> bool:
        """Is the state kept elsewhere after version `number`? That version is committed before the next round."""
        return number > 0 and self.at(number).kind != self.at(number + 1).kind

    def reloads_at(self, number: int) -> bool:
        """Must learners load version `number` from the synchronizer? (After synchronous rounds they hold it all.)"""
        return self.changes_at(number) and self.at(number).kind != "replicated"

    def closed(self, number: int, tokens: int) -> Timeline:
        """After version `number`, with so many tokens merged in all."""
        ends = self.ends
        while len(ends) < len(self.schedule.phases) - 1 and self.schedule.phases[len(ends)].is_over(number, tokens):
            ends = (*ends, number)
        return Timeline(self.schedule, ends)

    def back_to(self, number: int) -> Timeline:
        """What was known at version `number`."""
        return Timeline(self.schedule, tuple(end for end in self.ends if end <= number))

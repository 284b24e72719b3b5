"""The committed rounds of a run in bounded space: exact totals, and columns for drawings that widen as it goes on."""

from __future__ import annotations

import msgspec

MAX_COLUMNS = 480
RECENT = 1024  # rounds whose tokens are known one by one


class Spread(msgspec.Struct):
    """How many values there were, their sum, and the extremes."""

    count: int = 0
    total: int = 0
    least: int = 0
    most: int = 0

    def add(self, value: int) -> None:
        """One more."""
        self.least = value if not self.count else min(self.least, value)
        self.most = max(self.most, value)
        self.count += 1
        self.total += value

    @property
    def mean(self) -> float:
        """0 for none."""
        return self.total / self.count if self.count else 0.0


class Round(msgspec.Struct):
    """A closed round."""

    number: int
    lineage: int
    unix_s: float
    tokens: int
    pushes: list[tuple[str, int, int]]  # (contributor, generation, seq)
    staleness: list[tuple[str, int]]  # (contributor, versions behind) of each push
    effective: int  # how many different ones took part


class Column(msgspec.Struct):
    """One round, or several that followed each other. number, unix_s: of the last; tokens: of the run, up to it."""

    number: int
    unix_s: float
    tokens: int
    effective: int  # summed over its rounds
    behind: dict[str, int]  # who took part: versions behind at most
    taken: dict[str, int]  # ... and in how many of its rounds
    rounds: int = 1

    @staticmethod
    def of(closed: Round, tokens_before: int) -> Column:
        """A single round."""
        behind = dict(reversed(closed.staleness))
        tokens = tokens_before + closed.tokens
        return Column(closed.number, closed.unix_s, tokens, closed.effective, behind, dict.fromkeys(behind, 1))

    def take(self, other: Column) -> None:
        """The next one becomes a part of it."""
        self.number, self.unix_s, self.tokens = other.number, other.unix_s, other.tokens
        self.effective += other.effective
        self.rounds += other.rounds
        for name, behind in other.behind.items():
            self.behind[name] = max(self.behind.get(name, 0), behind)
            self.taken[name] = self.taken.get(name, 0) + other.taken[name]


class Course(msgspec.Struct):
    """The committed rounds. Owned by the Story. All columns but the last hold `width` rounds."""

    rounds: int = 0
    tokens: int = 0
    effective: Spread = msgspec.field(default_factory=Spread)
    width: int = 1
    columns: list[Column] = []
    recent: list[tuple[int, int, int]] = []  # (number, lineage, tokens of the run up to it)

    def add(self, closed: Round) -> None:
        """It is committed."""
        column = Column.of(closed, self.tokens)
        self.rounds += 1
        self.tokens += closed.tokens
        self.effective.add(closed.effective)
        self.recent.append((closed.number, closed.lineage, self.tokens))
        if len(self.recent) >= 2 * RECENT:
            del self.recent[:RECENT]
        if self.columns and self.columns[-1].rounds < self.width:
            self.columns[-1].take(column)
            return
        if len(self.columns) == MAX_COLUMNS:
            for first, second in zip(self.columns[::2], self.columns[1::2], strict=True):
                first.take(second)
            del self.columns[1::2]
            self.width *= 2
        self.columns.append(column)

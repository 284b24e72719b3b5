"""Plain frozen records that several rooms share: units, versions, contributions. No behaviour beyond counting."""

from __future__ import annotations

import msgspec


class Span(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """Units [start, stop) of a data epoch. A unit is one range of sample indices."""

    epoch: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """A point of the lineage. `lineage` rises at each roll-back; numbers of committed versions only grow."""

    lineage: int
    number: int


class Contribution(msgspec.Struct, frozen=True, array_like=True):
    """What a push says of itself (its bytes travel beside it).

    seq counts a contributor's pushes within its generation, from 1. `ended` and `begun` name the units that
    ended, and that have begun but not ended, since its last push. tokens, steps: work in it.
    """

    run: str
    contributor: str
    generation: int
    seq: int
    bases: tuple[Version, ...]  # one per fragment
    tokens: int
    steps: int
    ended: tuple[Span, ...] = ()
    begun: tuple[Span, ...] = ()
    codec: str = "none"
    digest: str = ""
    size_bytes: int = 0
    step_s: float = 0.0  # seconds of one step, as measured; an estimate for the grace
    last: bool = False  # nothing follows until new units are given: do not wait for more

    @property
    def base(self) -> Version:
        """The oldest base of its fragments."""
        return min(self.bases)


class Dataset(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the ledger deals: samples 0..n_samples-1 in units of unit_size, so many epochs (0: without end)."""

    n_samples: int
    unit_size: int
    epochs: int

    @property
    def units(self) -> int:
        """Units of one epoch."""
        return -(-self.n_samples // self.unit_size)

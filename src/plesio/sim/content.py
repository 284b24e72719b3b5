"""What a model has learned, in place of its weights: the steps in it. Equal digests mean equal replicas."""

from __future__ import annotations

from collections.abc import Iterator

Step = tuple[tuple[int, int], int]  # (unit, which step of it)


class Content:
    """An immutable chain: its parent, and the steps that were added."""

    __slots__ = ("digest", "parent", "steps")

    def __init__(self, parent: Content | None, steps: tuple[Step, ...]) -> None:
        self.parent = parent
        self.steps = steps
        self.digest: int = hash((parent.digest if parent else 0, tuple(sorted(steps))))

    def __iter__(self) -> Iterator[Step]:
        link: Content | None = self
        while link is not None:
            yield from link.steps
            link = link.parent

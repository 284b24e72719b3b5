"""A task that does nothing: to measure a pool, or to see whether it works."""

from __future__ import annotations


def noop(*args: object) -> None:
    """Takes anything, returns None."""

"""Batch inference: a function over a million records, each of them in the output exactly once."""

from __future__ import annotations

from plesio.batch.mapping import Progress, Summary, map_records

__all__ = ["Progress", "Summary", "map_records"]

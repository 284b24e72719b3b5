"""`plesio log` of a pool: reads its journal, whether the pool runs or not, and changes nothing in it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from plesio.core.pool.recipe import id_of
from plesio.core.pool.state import Durable
from plesio.errors import UserError
from plesio.reporting.poollog import Batch, lines
from plesio.runtime.journal import POOL, Journal
from plesio.stores.sqlite import SqliteStore

FORMATS = (("%H:%M:%S", 1.0), ("%H:%M", 60.0), ("%H", 3600.0))  # and how long each lasts


def show(folder: Path, task: str | None, at: str | None) -> None:
    """Prints what the journal tells. Raises UserError."""
    try:
        id = id_of(task) if task else 0
    except ValueError as error:
        raise UserError(str(error)) from error
    since_s, until_s = read_time(at, time.time()) if at else (0.0, float("inf"))
    told = False
    for line in lines(asyncio.run(_batches(folder)), id, since_s, until_s):
        told = True
        print(line)
    if not told:
        raise UserError("the journal tells nothing of that (any more)")


def read_time(text: str, now_s: float) -> tuple[float, float]:
    """'14:03', with or without a date: today's, or yesterday's when that is yet to come. Unix seconds [since, until)."""
    for form, lasts_s in FORMATS:
        for whole in (f"%Y-%m-%d {form}", form):
            try:
                parsed = time.strptime(text.strip(), whole)
            except ValueError:
                continue
            if whole != form:
                return (since_s := time.mktime(parsed)), since_s + lasts_s
            today = time.localtime(now_s)
            since_s = time.mktime((*today[:3], *parsed[3:6], 0, 0, -1))
            if since_s > now_s:
                since_s = time.mktime((*today[:2], today.tm_mday - 1, *parsed[3:6], 0, 0, -1))
            return since_s, since_s + lasts_s
    raise UserError(f"{text!r} is no time; say 14:03, 14:03:20 or '2026-11-21 14:03'")


async def _batches(folder: Path) -> list[Batch]:
    store = SqliteStore(folder / "journal.db")
    await store.open()
    try:
        journal: Journal[Any, Durable] = Journal(store, 0, POOL)
        return await journal.since(0)
    finally:
        await store.close()

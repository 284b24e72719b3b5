"""Tasks and queues for user programs: `plesio.connect()`, `@plesio.task`. Durable, scheduled, recovered."""

from __future__ import annotations

from plesio.tasks.client import Client
from plesio.tasks.embedded import attach, connect
from plesio.tasks.future import Future
from plesio.tasks.naming import task

__all__ = ["Client", "Future", "attach", "connect", "task"]

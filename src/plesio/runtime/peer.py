"""A connection that comes back: the same for learner, synchronizer and launcher."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from plesio.errors import AccessRefused, WireError
from plesio.wire import channel as wire
from plesio.wire.tls import Tls

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


async def keep_connected(
    host: str,
    port: int,
    token: str,
    role: str,
    on_connected: Callable[[wire.Channel], None],
    on_message: wire.OnMessage,
    kind: str = "control",
    on_lost: Callable[[], None] = lambda: None,
    tls: Tls | None = None,
) -> None:
    """Connects, and connects again with back-off whenever the connection ends; until cancelled.

    What no further attempt would change is raised: a refused token, TLS or protocol that the sides do not agree on.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        closed = asyncio.Event()
        try:
            channel = await wire.connect(host, port, token, role, kind, on_message, _setter(closed), tls)
        except AccessRefused:
            raise
        except (TimeoutError, OSError, WireError):
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            continue
        pause_s = FIRST_PAUSE_S
        try:
            with contextlib.suppress(WireError):  # it is closed again already
                on_connected(channel)
            await closed.wait()
        finally:
            channel.close()
        on_lost()
        await asyncio.sleep(FIRST_PAUSE_S)


def _setter(event: asyncio.Event) -> wire.OnClose:
    return lambda channel, error: event.set()

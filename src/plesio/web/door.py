"""Connections that say nothing are closed: uvicorn waits without end for a first request, or for the rest of one's head."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 30  # without a request that is under way


class Door(H11Protocol):
    """One connection."""

    idle_s: float = IDLE_S
    _seen: Any = ()  # the newest request when it was last looked at; none: None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.loop.call_later(self.idle_s, self._look)

    def _look(self) -> None:
        """A request that is under way may take its time; and so may what comes between two of them, once."""
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and (self.cycle is None or self._seen is self.cycle):
            self.transport.abort()
            return
        self._seen = self.cycle
        self.loop.call_later(self.idle_s, self._look)

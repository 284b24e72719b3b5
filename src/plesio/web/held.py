"""Messages that HTTP clients took: each is its taker's for a while, and comes again when nobody has settled it by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from plesio.core.pool.recipe import name_of
from plesio.tasks.queues import Message

MOST_HELD = 10_000


class Held:
    """Of one event loop. give_back: carries out what may block."""

    def __init__(self, give_back: Callable[[Callable[[], object]], object]) -> None:
        self._give_back = give_back
        self._messages: dict[str, tuple[Message, asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: Message, lease_s: float) -> str:
        """Its name."""
        name = name_of(message.id)
        timer = asyncio.get_running_loop().call_later(lease_s, self._expire, name)
        self._messages[name] = (message, timer)
        return name

    def get(self, name: str) -> Message | None:
        """None: it was not taken here, or came again, or is settled."""
        found = self._messages.get(name)
        return found[0] if found is not None else None

    def drop(self, name: str) -> None:
        """It is settled for good."""
        found = self._messages.pop(name, None)
        if found is not None:
            found[1].cancel()

    def _expire(self, name: str) -> None:
        message, _ = self._messages.pop(name)
        if not message.settled:
            self._give_back(message.nack)

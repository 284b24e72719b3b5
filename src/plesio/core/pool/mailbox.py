"""A client's side of message queues: what it wished for, was given, holds, and has settled; all until it is durable.

Pure: whoever drives it sends what it gives. What is not durable is said again on a new connection.
"""

from __future__ import annotations

from collections.abc import Sequence

from plesio.core.pool.effects import Give, Settled
from plesio.core.pool.stimuli import Settle, Take


class Mailbox:
    """Of one client."""

    def __init__(self, session: str) -> None:
        self.session = session
        self._said = 0  # wishes and settlements are numbered together
        self._wishes: dict[int, Take] = {}
        self._given: dict[int, Give] = {}
        self._held: set[int] = set()  # messages given to us, until it is durable that they are settled
        self._settling: dict[int, Settle] = {}  # said, and not durable yet

    def wish(self, queue: str, count: int) -> Take:
        """For up to `count` messages, as soon as there are some."""
        self._said += 1
        wish = self._wishes[self._said] = Take(self.session, self._said, queue, count)
        return wish

    def arrived(self, number: int) -> bool:
        """Was this wish granted?"""
        return number in self._given

    def end_wish(self, number: int) -> tuple[Give | None, Take | None]:
        """What it brought, if anything; or what to say so that it brings nothing."""
        wish, given = self._wishes.pop(number), self._given.pop(number, None)
        return given, None if given is not None else Take(self.session, number, wish.queue, 0)

    def receive(self, given: Give) -> Settle | None:
        """Messages came. Returns what to say when nobody waits for them any more."""
        self._held.update(given.ids)
        if given.number not in self._wishes:
            return self.settle(given.ids, False)
        self._given[given.number] = given
        return None

    def settle(self, ids: Sequence[int], ok: bool, delay_s: float = 0.0) -> Settle:
        """They are done with, or come again after `delay_s`."""
        self._said += 1
        said = self._settling[self._said] = Settle(self.session, self._said, tuple(ids), ok, delay_s)
        return said

    def settled(self, message: Settled) -> None:
        """It is durable."""
        said = self._settling.pop(message.number, None)
        self._held.difference_update(said.ids if said is not None else ())

    def settling(self, number: int | None = None) -> bool:
        """Is this, or anything, not durable yet?"""
        return bool(self._settling) if number is None else number in self._settling

    def holds(self) -> tuple[int, ...]:
        """The messages that a new connection says are still here."""
        return tuple(self._held)

    def resend(self) -> list[Settle | Take]:
        """What a new connection says again."""
        return [*self._settling.values(), *self._wishes.values()]

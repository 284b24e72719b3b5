"""A client's tasks until the pool has them for good: their numbers, their groups, and what is sent again when.

Pure: whoever drives it sends what it gives, in its order, and passes the time in. A group that is sent stays here until
it is durable or refused, so that a new connection begins with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from plesio.core.pool.recipe import MESSAGE, TOPIC, Recipe, task_id
from plesio.core.pool.stimuli import Publish, Submit

GROUP = 512  # tasks sent together
Group = Submit | Publish


class Outbox:
    """Of one client, which numbers its tasks 1, 2, 3 and so on. number: the client's own, known once it is welcome."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.number = 0
        self.unconfirmed = 0  # tasks that were sent
        self._next = 1
        self._open: tuple[Recipe, int, list[bytes]] | None = None  # the group that grows
        self._unsent: list[Group] = []
        self._sent: dict[int, Group] = {}  # by their first number
        self._put_off: list[tuple[float, int]] = []  # (when to send again, first number)

    def add(self, recipe: Recipe, args: bytes, delay_s: float = 0.0, key: str = "", needs: tuple[int, ...] = ()) -> int:
        """The task's id. Neighbours with the same recipe object, and nothing else of their own, make a group."""
        n = self._next
        self._next = n + 1
        group = self._open
        if needs or key or delay_s:
            self._close()
            self._unsent.append(Submit(self.session, n, recipe, (args,), delay_s, key, needs))
        elif group is not None and group[0] is recipe and len(group[2]) < GROUP:
            group[2].append(args)
        else:
            self._close()
            self._open = (recipe, n, [args])
        return task_id(self.number, n)

    def _close(self) -> None:
        if self._open is not None:
            recipe, first, args = self._open
            if recipe.fn == TOPIC:
                self._unsent.append(Publish(self.session, first, recipe.queue, tuple(args), recipe.priority))
            else:
                self._unsent.append(Submit(self.session, first, recipe, tuple(args)))
            self._open = None

    def cut(self) -> list[Group]:
        """What was not sent yet; from now on it was."""
        self._close()
        groups, self._unsent = self._unsent, []
        for group in groups:
            self._sent[group.first] = group
            self.unconfirmed += len(group.args)
        return groups

    def confirmed(self, first: int, count: int) -> Group | None:
        """Of a group these, its first ones, are durable or refused; the rest is a group of its own. Returns these."""
        group = self._sent.pop(first, None)
        if group is None:
            return None
        args, rest = group.args[:count], group.args[count:]
        if rest:
            self._sent[first + count] = msgspec.structs.replace(group, first=first + count, args=rest)
        self.unconfirmed -= len(args)
        return msgspec.structs.replace(group, args=args) if rest else group

    def put_off(self, first: int, until_s: float) -> None:
        """The pool did not take this group, and said when to try again."""
        self._put_off.append((until_s, first))

    def again(self, first: int) -> None:
        """There is room for it now."""
        self._put_off = [(0.0 if first == n else at_s, n) for at_s, n in self._put_off]

    def due(self, now_s: float) -> list[Group]:
        """Groups that were put off until now."""
        due = [first for at_s, first in self._put_off if at_s <= now_s]
        self._put_off = [(at_s, first) for at_s, first in self._put_off if at_s > now_s]
        return [self._sent[first] for first in due if first in self._sent]

    @property
    def puts_off(self) -> bool:
        """Is a group waiting for room?"""
        return bool(self._put_off)

    def due_s(self) -> float:
        """When the first of them is due; 0: none waits."""
        return min((at_s for at_s, _ in self._put_off), default=0.0)

    def resend(self) -> list[Group]:
        """All that was sent and is not confirmed: what a new connection begins with."""
        self._put_off = []
        return [group for _, group in sorted(self._sent.items())]

    def ids(self, first: int, count: int) -> list[int]:
        """Of these tasks."""
        return [task_id(self.number, n) for n in range(first, first + count)]

    def here(self) -> Iterator[int]:
        """The ids of all that is not confirmed: the pool need not be asked about them."""
        for group in (*self._unsent, *self._sent.values()):
            yield from self.ids(group.first, len(group.args))
        if self._open is not None:
            yield from self.ids(self._open[1], len(self._open[2]))

    def forget(self) -> None:
        """The pool does not know this client any more: what was sent is lost."""
        self._sent.clear()
        self._put_off = []
        self.unconfirmed = 0


def is_message(group: Group) -> bool:
    """Is it done, for its sender, once it is durable? A task is done when it was run."""
    return isinstance(group, Publish) or group.recipe.fn == MESSAGE

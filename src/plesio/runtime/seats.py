"""Who may speak under which learner's name, on which connection. A name alone proves nothing, an incarnation does:

only the process itself and those who admitted it know it. It decides nothing of the run, and does no I/O.
"""

from __future__ import annotations

from typing import Any

from plesio.core import stimuli as s
from plesio.core.membership import process_of
from plesio.core.state import Member
from plesio.errors import WireError
from plesio.wire.channel import Channel


class Bound:
    """At the coordinator: the name that each learner's control connection speaks under. Owned by its event loop."""

    def __init__(self) -> None:
        self.names: dict[Channel, str] = {}

    def admit(self, channel: Channel, message: Any, member: Member | None, taken: bool, forgotten: int = 0) -> str:
        """The name that this message is said under. member: of that name; taken: another connection has the name.

        forgotten: up to which generation a member may have been that is not remembered; it is told to join anew.

        Raises WireError when the sender may not say it.
        """
        name: str = message.name
        known = self.names.get(channel)
        if known not in (None, name):
            raise WireError(f"speaks under another name than its own: {name!r}")
        if isinstance(message, s.Join):
            if (
                taken
                and member is not None
                and member.live
                and process_of(message.incarnation) != process_of(member.incarnation)
            ):
                raise WireError(f"the name {name!r} is taken by a learner that is alive; choose another --name")
        elif message.generation > (member.generation if member else forgotten) or (not member and not forgotten):
            raise WireError(f"{name!r} has no generation {message.generation}")
        elif member is None:
            pass
        elif isinstance(message, (s.Hold, s.Beat)):
            if message.generation == member.generation and message.incarnation != member.incarnation:
                raise WireError(f"it is not the learner {name!r}")
            if message.generation < member.generation and taken:
                raise WireError(f"the name {name!r} is taken by a learner that is alive; choose another --name")
        elif known is None:
            raise WireError(f"{name!r} has not said who it is")
        self.names[channel] = name
        return name

    def gone(self, channel: Channel) -> None:
        """The connection ended."""
        self.names.pop(channel, None)


class Seats:
    """At the synchronizer: which generation of whom each bulk connection is. Owned by its event loop."""

    def __init__(self) -> None:
        self.admitted: dict[str, tuple[int, str]] = {}  # (generation, incarnation)
        self.taken: dict[Channel, tuple[str, int]] = {}

    def admit(self, name: str, generation: int, incarnation: str) -> None:
        """The coordinator says that this is a learner's newest generation."""
        if generation >= self.generation(name):  # what is said again on a new connection may be older
            self.admitted[name] = (generation, incarnation)

    def generation(self, name: str) -> int:
        """The newest; 0 for a stranger."""
        return self.admitted.get(name, (0, ""))[0]

    def sit(self, channel: Channel, name: str, generation: int, incarnation: str) -> None:
        """Raises WireError unless it is the learner that it says it is, or when it said so before."""
        if channel in self.taken:
            raise WireError(f"{name!r} subscribes twice")
        if self.admitted.get(name) != (generation, incarnation):
            raise WireError(f"it is not the learner {name!r} of generation {generation}")
        self.taken[channel] = (name, generation)

    def seat(self, channel: Channel) -> tuple[str, int]:
        """(name, generation). Raises WireError for a connection that has not said who it is."""
        if channel not in self.taken:
            raise WireError("it has not subscribed")
        return self.taken[channel]

    def check(self, channel: Channel, name: str, generation: int) -> None:
        """Raises WireError unless this connection is that learner's."""
        if self.taken.get(channel) != (name, generation):
            raise WireError(f"it speaks for {name!r} of generation {generation}, and is not")

    def gone(self, channel: Channel) -> None:
        """The connection ended."""
        self.taken.pop(channel, None)

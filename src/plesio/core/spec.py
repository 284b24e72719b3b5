"""What a run is asked to be; journaled once, before all else, and given to every process."""

from __future__ import annotations

import msgspec

from plesio.strategies.base import Kind
from plesio.strategies.schedule import Schedule


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run. `learners` are waited for before the first round, for at most START_WAIT_S."""

    run: str
    learners: int
    schedule: Schedule
    strategy: str = ""  # the schedule as the user said it
    uplink: str = "none"  # codec text, as given by the user
    gradient_uplink: str = ""  # the codec of gradients, where they have one of their own
    downlink: str = "none"
    until_tokens: int | None = None
    epochs: int | None = None
    seed: int = 0
    script: str = ""
    argv: tuple[str, ...] = ()
    started_unix_s: float = 0.0

    def uplink_of(self, kind: Kind) -> str:
        """The codec of what learners send in rounds of that kind."""
        return self.uplink if kind == "local" else self.gradient_uplink or self.uplink

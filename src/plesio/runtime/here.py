"""What a function that runs in a slot may know of its slot and its pool, and a script that such a function started.

Set once, by the slot's process; scripts are told in their environment, where there is nothing secret.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plesio.errors import UserError

if TYPE_CHECKING:
    from plesio.runtime.slot import SlotSettings
    from plesio.wire.tls import Tls

VARIABLE = "PLESIO_POOL"


@dataclass(frozen=True)
class PoolAddress:
    """How the pool is reached from here. priority: of the run that the script belongs to."""

    url: str
    token_file: str
    tls: str = ""
    priority: int = 0

    def environment(self) -> dict[str, str]:
        """For a script; see `pool`."""
        return {VARIABLE: "\n".join((self.url, self.token_file, self.tls, str(self.priority)))}


def pool() -> PoolAddress | None:
    """Of the pool that runs this script, if one does."""
    told = os.environ.get(VARIABLE)
    if not told:
        return None
    url, token_file, tls, priority = told.split("\n")
    return PoolAddress(url, token_file, tls, int(priority))


_slot: SlotSettings | None = None
_tls: Tls | None = None


def enter(settings: SlotSettings, tls: Tls | None) -> None:
    """This process is that slot from now on."""
    global _slot, _tls
    _slot, _tls = settings, tls


def slot() -> SlotSettings:
    """The slot. Raises UserError elsewhere."""
    if _slot is None:
        raise UserError("this is for functions that a worker of a pool runs")
    return _slot


def tls() -> Tls | None:
    """How the slot encrypts, if it does."""
    return _tls

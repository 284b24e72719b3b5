"""What a function that runs in a slot may know of its slot and its pool. Set once, by the slot's process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plesio.errors import UserError

if TYPE_CHECKING:
    from plesio.runtime.slot import SlotSettings
    from plesio.wire.tls import Tls

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

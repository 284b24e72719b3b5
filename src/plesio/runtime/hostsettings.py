"""What whoever starts a pool's host tells it, and where the host is found. Light: clients import it."""

from __future__ import annotations

from typing import Literal

import msgspec

ADDRESS = "address.json"  # in a pool's folder, while it runs: where, and by which process


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """listener: descriptor of a bound socket. slots: 0: a coordinator only. See Pool for embedded and sync."""

    folder: str
    token: str
    listener: int
    slots: int
    name: str = "here"
    sync: Literal["normal", "full"] = "normal"
    embedded: bool = False
    tls: str = ""
    tags: tuple[tuple[str, float], ...] = ()
    memory_bytes: int = 0

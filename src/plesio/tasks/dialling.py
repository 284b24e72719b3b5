"""How a client gets its connection: again and again, until a pool answers and welcomes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plesio.core.pool.effects import Welcome
from plesio.core.pool.stimuli import ClientUp
from plesio.errors import WireError
from plesio.wire import poolmessages as m
from plesio.wire.blocking import BlockingChannel, connect
from plesio.wire.tls import Tls

PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0  # between two attempts
WELCOME_S = 5.0


@dataclass(frozen=True)
class Address:
    """Of a pool. revive: starts an embedded pool again when it is gone."""

    host: str
    port: int
    token: str
    tls: Tls | None = None
    revive: Callable[[], None] | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Answer = tuple[BlockingChannel, int, list[Any]]  # (channel, the client's number, messages that came with the welcome)


def dial(
    to: Address, hello: Callable[[], ClientUp], closed: Callable[[], bool], patience_s: float | None
) -> Answer | None:
    """A connection that was welcomed; None when `closed` meanwhile. patience_s: None: for ever.

    Raises AccessRefused, or WireError after `patience_s`.
    """
    pause_s, began_s = PAUSE_S, time.monotonic()
    while not closed():
        try:
            channel = connect(to.host, to.port, to.token, "client", to.tls)
            number, others = _greet(channel, hello())
            return channel, number, others
        except (OSError, WireError) as error:
            if patience_s is not None and time.monotonic() - began_s > patience_s:
                raise WireError(f"no pool answers at {to}: {error}") from error
        if to.revive is not None:
            to.revive()
        time.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
    return None


def _greet(channel: BlockingChannel, hello: ClientUp) -> tuple[int, list[Any]]:
    channel.send(m.encode(hello))
    until_s = time.monotonic() + WELCOME_S
    others: list[Any] = []
    number = 0
    while not number and time.monotonic() < until_s:
        for body in channel.wait(0.2):
            message = m.decode("from", body)
            if isinstance(message, Welcome):
                number = message.client
            else:
                others.append(message)
    if not number:
        channel.close()
        raise WireError("the pool did not welcome this client")
    return number, others

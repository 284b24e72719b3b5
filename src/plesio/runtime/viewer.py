"""Looking on at a run from anywhere: a connection that may watch and probe, and do nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core import effects as e
from plesio.errors import AccessRefused, UserError, WireError
from plesio.runtime.peer import FIRST_PAUSE_S, LONGEST_PAUSE_S
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.greeting import AUTH_DEADLINE_S
from plesio.wire.tls import Tls

REACH_S = 5.0
CONNECT_S = 5.0
FAREWELL_S = 2.0


async def connect(
    target: Target, on_message: wire.OnMessage, on_close: wire.OnClose, kind: str = "control"
) -> wire.Channel:
    """A viewer's channel. Raises as `wire.connect` does; TimeoutError when nothing answers the connection."""
    made = wire.connect(
        target.host, target.port, target.token, "viewer", kind, on_message, on_close, target.tls
    )  # fmt: skip
    return await asyncio.wait_for(made, CONNECT_S + AUTH_DEADLINE_S)


class Target(msgspec.Struct, frozen=True):
    """Which run."""

    host: str
    port: int
    token: str
    tls: Tls | None = None


class Viewer:
    """Shows every Status of a run until it is over, `stop` is called or nobody ever answered."""

    def __init__(self, target: Target, show: Callable[[m.Status], None], say: Callable[[str], None]) -> None:
        self.target = target
        self.show = show
        self.say = say
        self.seen = False
        self._over = asyncio.Event()  # `stop` was called or the run is over
        self._ending = False

    def stop(self) -> None:
        """`run` returns."""
        self._over.set()

    async def run(self) -> None:
        """Connects again whenever the connection ends. Raises AccessRefused; UserError: no run there."""
        began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
        while not self._over.is_set():
            lost = asyncio.Event()
            try:
                channel = await self._connect(lost)
            except AccessRefused:
                raise
            except (TimeoutError, OSError, WireError) as error:
                if not self.seen and (is_version_refused(error) or time.monotonic() - began_s > REACH_S):
                    raise self._nobody(error) from error
                await self._wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                continue
            if channel is None:
                return
            pause_s = FIRST_PAUSE_S
            await self._watch(channel, lost)

    async def _connect(self, lost: asyncio.Event) -> wire.Channel | None:
        """None: stopped meanwhile."""
        made = asyncio.create_task(connect(self.target, self._on_message, lambda c, error: lost.set()))
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait([made, over], return_when=asyncio.FIRST_COMPLETED)
            return await made if made.done() else None
        finally:
            made.cancel()
            over.cancel()

    async def _watch(self, channel: wire.Channel, lost: asyncio.Event) -> None:
        ends = [asyncio.create_task(event.wait()) for event in (lost, self._over)]
        try:
            channel.send(m.encode(m.Watch()))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except WireError:
            pass  # it closed at once: the same as later
        finally:
            for end in ends:
                end.cancel()
            channel.close()
        if self._ending:
            self._over.set()
        elif not self._over.is_set():
            self.say(f"{self.target.host}:{self.target.port} closed the connection; trying again (Ctrl-C ends this)")
            await self._wait(FIRST_PAUSE_S)

    async def _wait(self, pause_s: float) -> None:
        waits = asyncio.create_task(self._over.wait())
        await asyncio.wait([waits], timeout=pause_s)
        waits.cancel()

    def _on_message(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        message = m.decode("from", body)
        if isinstance(message, m.Status):
            if not self._over.is_set():
                self.seen = True
                self.show(message)
            if message.finished:
                self._over.set()
        elif isinstance(message, e.EndRun):  # a Status that says so follows, unless the connection ends before
            self._ending = True
            asyncio.get_running_loop().call_later(FAREWELL_S, self._over.set)

    def _nobody(self, error: Exception) -> UserError:
        where = f"{self.target.host}:{self.target.port}"
        if is_version_refused(error):
            return UserError(f"{where}: {error}")
        why = str(error) or "no answer"
        return UserError(f"no run answers at {where} ({why}); try `plesio doctor {where}`")


def is_version_refused(error: Exception) -> bool:
    """Did the other side turn us away for our protocol version?"""
    return isinstance(error, WireError) and "protocol version" in str(error)

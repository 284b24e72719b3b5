"""Connections: reliable and in order until they break; a break loses what is under way. Different ones race."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plesio.sim.world import Process, World

PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.4


class Connection:
    """Between `client` and `server`. Owned by the Network."""

    def __init__(self, network: Network, kind: str, client: Process, server: Process) -> None:
        self.network = network
        self.kind = kind
        self.client = client
        self.server = server
        self.up = True
        self._free_s = {id(client): 0.0, id(server): 0.0}  # when the last message to it arrives

    def send(self, sender: Process, message: Any, payload: Any = None) -> None:
        """To the other end; lost when the connection is, or gets, broken."""
        if not self.up:
            return
        to = self.server if sender is self.client else self.client
        world = self.network.world
        delay_s, copies = self.network.weather()
        arrives_s = max(self._free_s[id(to)], world.now_s + delay_s)
        self._free_s[id(to)] = arrives_s
        for _ in range(copies):
            world.at(arrives_s - world.now_s, self._deliver, to, message, payload)

    def _deliver(self, to: Process, message: Any, payload: Any) -> None:
        if self.up:
            to.do(self._receive, to, message, payload)

    def _receive(self, to: Process, message: Any, payload: Any) -> None:
        if self.up or to.paused is False:
            to.receive(self, message, payload)

    def abort(self) -> None:
        """Breaks it. Both ends notice, each after a while."""
        if not self.up:
            return
        self.up = False
        self.network.connections.discard(self)
        for end in (self.client, self.server):
            end.later(self.network.world.rng.uniform(0.0, 0.05), end.lost, self)


class Network:
    """Who listens, who is connected."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.connections: set[Connection] = set()
        self.listening: dict[str, Process] = {}
        self.weather: Callable[[], tuple[float, int]] = self.fair

    def fair(self) -> tuple[float, int]:
        """(seconds, copies) of one message."""
        return self.world.rng.uniform(0.001, 0.02), 1

    def connect(self, client: Process, server: str, kind: str, pause_s: float = PAUSE_S) -> None:
        """Tries until it is connected; then both ends hear of it."""
        other = self.listening.get(server)
        if other is None or not other.alive or other.paused:
            client.later(pause_s, self.connect, client, server, kind, min(LONGEST_PAUSE_S, 2 * pause_s))
            return
        connection = Connection(self, kind, client, other)
        self.connections.add(connection)
        other.do(other.connected, connection)
        client.do(client.connected, connection)

    def kill(self, process: Process) -> None:
        """The process is gone; its connections break."""
        process.alive = False
        if self.listening.get(process.name) is process:
            del self.listening[process.name]
        for connection in sorted(self.of(process), key=lambda c: (c.kind, c.client.name)):
            connection.abort()

    def of(self, process: Process) -> list[Connection]:
        """Its connections."""
        return [c for c in self.connections if process in (c.client, c.server)]

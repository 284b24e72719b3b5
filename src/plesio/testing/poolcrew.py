"""A pool of real processes for tests: a host, nodes, and every way to kill them."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from plesio.runtime.hostsettings import HostSettings
from plesio.runtime.node import NodeSettings
from plesio.tasks.client import Client
from plesio.tasks.dialling import Address
from plesio.tasks.link import Link
from plesio.testing.waiting import free_port, wait_for


class PoolCrew:
    """Owns the processes; `with` ends them all. The coordinator is a child of the host, slots are of their node."""

    def __init__(self, folder: Path, sync: Literal["normal", "full"] = "normal") -> None:
        self.folder = folder
        self.sync: Literal["normal", "full"] = sync
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.host: subprocess.Popen[bytes] | None = None
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> PoolCrew:
        self.start_host()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.nodes.values(), self.host):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.send_signal(signal.SIGKILL)
                process.wait()

    def start_host(self) -> None:
        """With a coordinator and no slots, at the same port each time."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for(lambda: _bound(listener, self.port), "the port is free again")
        listener.listen(128)
        settings = HostSettings(
            folder=str(self.folder), token=self.token, listener=listener.fileno(), slots=0, sync=self.sync
        )
        self.host = self._start("plesio.runtime.poolhost", settings, [listener.fileno()])
        listener.close()

    def start_node(self, name: str, slots: int = 1, memory_bytes: int = 0, **tags: float) -> None:
        """A node with so many slots."""
        settings = NodeSettings(
            host="127.0.0.1", port=self.port, token=self.token, name=name, slots=slots, memory_bytes=memory_bytes,
            folder=str(self.folder / "logs"), tags=tuple(tags.items()),
        )  # fmt: skip
        self.nodes[name] = self._start("plesio.runtime.node", settings, [])

    def _start(self, module: str, settings: msgspec.Struct, descriptors: list[int]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, pass_fds=descriptors, stdout=subprocess.DEVNULL
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        process.stdin.close()
        return process

    def client(self) -> Client:
        """A new client in this process."""
        link = Link(Address("127.0.0.1", self.port, self.token))
        link.open()
        return Client(link)

    def wait_for_slots(self, client: Client, count: int) -> None:
        """Until so many are connected."""
        wait_for(lambda: sum(x["connected"] for x in client.ask("workers")) >= count, f"{count} slots")

    # -- faults

    def kill_coordinator(self) -> None:
        """The host starts it again."""
        assert self.host is not None
        for pid in children(self.host.pid):
            _kill(pid, signal.SIGKILL)

    def kill_host(self) -> None:
        """And with it the coordinator."""
        assert self.host is not None
        self.host.kill()
        self.host.wait()

    def kill_node(self, name: str) -> None:
        """And with it its slots."""
        self.nodes[name].kill()
        self.nodes[name].wait()
        del self.nodes[name]

    def kill_slot(self, rng: random.Random) -> None:
        """One of somebody's."""
        pids = [pid for node in self.nodes.values() for pid in children(node.pid)]
        if pids:
            _kill(rng.choice(pids), signal.SIGKILL)

    def signal_node(self, name: str, number: signal.Signals) -> None:
        """To the node and its slots."""
        node = self.nodes[name]
        for pid in (node.pid, *children(node.pid)):
            _kill(pid, number)


def _bound(listener: socket.socket, port: int) -> bool:
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found: list[int] = []
    for path in (Path("/proc") / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

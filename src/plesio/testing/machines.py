"""Machines made of network namespaces: each with its own address, on one switch, with links that are slow or cut.

Needs `ip` and `tc`, and the right to make namespaces: root's, or a user namespace's (see .ci/with-namespaces).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

BURST = "32kb"
QUEUE = "400ms"  # what waits longer for the link is dropped


def shell(*words: str) -> str:
    """Its output. Raises CalledProcessError."""
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout


def port(letter: str) -> str:
    """Of the switch."""
    return f"port-{letter}"


class Machines:
    """Owns namespaces a, b, c ... with addresses 10.77.0.1, .2, .3 ... and the one of the switch; `close` deletes them."""

    def __init__(self, letters: str = "abc") -> None:
        self.names = {letter: f"plesio-{os.getpid()}-{letter}" for letter in letters}
        self.hub = f"plesio-{os.getpid()}-hub"

    def build(self) -> None:
        """Makes them. Raises CalledProcessError when that is not allowed here."""
        shell("ip", "netns", "add", self.hub)
        shell("ip", "-n", self.hub, "link", "add", "switch", "type", "bridge")
        shell("ip", "-n", self.hub, "link", "set", "switch", "up")
        for letter, name in self.names.items():
            shell("ip", "netns", "add", name)
            wire = ["link", "add", "eth0", "type", "veth", "peer", "name", port(letter), "netns", self.hub]
            shell("ip", "-n", name, *wire)
            shell("ip", "-n", self.hub, "link", "set", port(letter), "master", "switch", "up")
            shell("ip", "-n", name, "addr", "add", f"{self.address(letter)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                shell("ip", "-n", name, "link", "set", device, "up")

    def address(self, letter: str) -> str:
        """Of the machine."""
        return f"10.77.0.{1 + list(self.names).index(letter)}"

    def slow_down(self, letter: str, up: str, down: str = "") -> None:
        """What it sends, and what it is sent (default: the same); as for `tc`: '5mbit'."""
        for (space, device), rate in zip(self._ends(letter), (up, down or up), strict=True):
            limit = ["rate", rate, "burst", BURST, "latency", QUEUE]
            shell("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", device, "root", "tbf", *limit)

    def sent_bytes(self, letter: str) -> tuple[int, int]:
        """What has left the machine, and what has come to it."""
        counts = []
        for space, device in self._ends(letter):
            row = shell("ip", "netns", "exec", space, "cat", f"/sys/class/net/{device}/statistics/tx_bytes")
            counts.append(int(row))
        return counts[0], counts[1]

    def cut(self, letter: str, away: bool) -> None:
        """Takes its cable out, or puts it in."""
        shell("ip", "-n", self.hub, "link", "set", port(letter), "down" if away else "up")

    def start(self, letter: str, command: list[str], folder: Path) -> subprocess.Popen[str]:
        """Runs a command there."""
        words = ["ip", "netns", "exec", self.names[letter], *command]
        return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def close(self) -> None:
        """Deletes what there is."""
        for name in (*self.names.values(), self.hub):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=20)

    def _ends(self, letter: str) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.names[letter], "eth0"), (self.hub, port(letter))

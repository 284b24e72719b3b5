"""A Redis of its own for a peer: a private port and folder, a journal that is synced every second."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import children

JOURNAL = "redis, appendonly yes, appendfsync everysec: a crash of redis' machine loses up to about a second"
READY_S = 20.0


class Redis:
    """Owns nothing once started: children.folder stops it."""

    def __init__(self) -> None:
        self.port = 0

    @property
    def url(self) -> str:
        """Without a database's number."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self, folder: Path) -> None:
        """Returns when it answers."""
        program = shutil.which("redis-server")
        if program is None:
            raise SystemExit("redis-server is missing; install it: apt-get install redis-server")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(folder), "save": "",
            "appendonly": "yes", "appendfsync": "everysec", "daemonize": "no",
        }  # fmt: skip
        command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        process = children.start(command, folder / "redis.log")
        until_s = time.monotonic() + READY_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"redis-server did not start: {(folder / 'redis.log').read_text()}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def drop_journal(self) -> None:
        """From now on a crash of redis loses everything."""
        command = ["redis-cli", "-p", str(self.port), "config", "set", "appendonly", "no"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

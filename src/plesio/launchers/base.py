"""The contract of a launcher: what to start (`ProcessSpec`), how one ended (`Exit`), and `Launcher`.

It knows nothing of learners or coordinators, and it restarts nothing: that is the caller's decision.
"""

from __future__ import annotations

import os
import socket
from typing import Protocol

import msgspec

SOCKETS_VARIABLE = "PLESIO_SOCKETS"  # "name=fd,name=fd" in the child's environment


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: a `target` or a `script`, exactly one of them.

    A forked process shares the torch that was loaded before it: a variable which a library reads
    while it loads (`LD_PRELOAD`, `MKL_*`) needs `fresh=True`. `OMP_NUM_THREADS` works either way.
    """

    name: str
    target: str = ""  # "package.module:function", called with no arguments; installed or on PYTHONPATH
    script: str = ""  # path of a Python file, run as __main__
    argv: tuple[str, ...] = ()  # becomes sys.argv[1:]
    env: dict[str, str] = {}  # added to the owner's as of its first fork
    secrets: dict[str, str] = {}  # added to os.environ once it runs: the system shows them to nobody (ps, /proc)
    fresh: bool = False  # a new interpreter instead of a fork (CUDA, other libraries)
    sockets: dict[str, int] = {}  # name -> the caller's descriptor; see `inherited_socket`
    log_name: str = ""  # file for stdout and stderr in the launcher's folder; default "<name>.log"

    def __post_init__(self) -> None:
        if bool(self.target) == bool(self.script):
            raise ValueError(f"process {self.name!r} needs a target or a script, and not both")


class Exit(msgspec.Struct, frozen=True):
    """A process ended. `code` is its exit status; negative: the signal that ended it."""

    id: str
    name: str
    code: int


class Launcher(Protocol):
    """Starts processes and reports every end exactly once, through `poll` or `wait_exit`."""

    async def start(self, spec: ProcessSpec) -> str:
        """Start a process; returns its id, never used again, once it has a pid.

        The caller keeps its own copies of `spec.sockets` and may close them afterwards.
        Not idempotent: every call is a new process. Raises PlesioError if none could be started;
        cancelled, it leaves no process behind.
        """
        ...

    def poll(self) -> list[Exit]:
        """The ends since the last `poll` or `wait_exit`, in order; never waits."""
        ...

    async def wait_exit(self) -> Exit:
        """The next end; waits for one. A cancelled wait loses none."""
        ...

    async def stop(self, id: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s` seconds; returns once the process has ended.

        Idempotent: nothing happens if it already ended. Its end is still reported.
        """
        ...

    def signal(self, id: str, signum: int) -> None:
        """Send a signal; nothing happens if the process already ended."""
        ...

    def pid(self, id: str) -> int | None:
        """The process's number on its machine, None once it has ended."""
        ...

    async def close(self) -> None:
        """SIGKILL whatever still runs and return once all of it has ended. Idempotent."""
        ...


def inherited_socket(name: str) -> socket.socket:
    """In a started process: the socket that its spec passed as `name`. Raises KeyError if none was.

    Call it once a name: the returned object owns the descriptor.
    """
    passed = os.environ.get(SOCKETS_VARIABLE, "")
    descriptors = dict(entry.split("=", 1) for entry in passed.split(",") if entry)
    return socket.socket(fileno=int(descriptors[name]))

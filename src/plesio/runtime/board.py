"""What a slot's process and its node tell each other without a word: a few bytes of shared memory."""

from __future__ import annotations

import mmap
import struct

_RUNNING = struct.Struct(
    "<Qd"
)  # id of the task that runs (0: none), when it has to end on the monotonic clock (0: never)
_STOP = struct.Struct("<Q")  # id of the task that is to stop
_STOP_AT = 32


class Board:
    """Made by the node before it forks the slot. The slot writes what it runs, the node what is to stop."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 64)

    def begin(self, id: int, deadline_s: float = 0.0) -> None:
        """The slot is at this task; 0: at none."""
        _RUNNING.pack_into(self._memory, 0, id, deadline_s)

    def running(self) -> tuple[int, float]:
        """(task, when it has to end); (0, 0.0): none."""
        id, deadline_s = _RUNNING.unpack_from(self._memory, 0)
        return id, deadline_s

    def ask_to_stop(self, id: int) -> None:
        """The node wants this task to stop; it sends a signal, too."""
        _STOP.pack_into(self._memory, _STOP_AT, id)

    def to_stop(self) -> int:
        """Which task is to stop."""
        (id,) = _STOP.unpack_from(self._memory, _STOP_AT)
        return int(id)

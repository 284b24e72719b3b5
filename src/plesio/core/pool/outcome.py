"""How an attempt, or a task, can fail. Kinds are words of the wire and of the journal."""

from __future__ import annotations

RAISED = "raised"  # the function raised
TIMED_OUT = "timed out"  # it ran for longer than its timeout_s
CRASHED = "crashed"  # its process ended under it: a signal, os._exit
MEMORY = "memory"  # its process was over the memory limit of a slot
LOST = "lost"  # its worker was lost; nobody's fault
NOT_FOUND = "not importable"  # no worker has such a function
UNSENDABLE = "unsendable"  # it returned what cannot be sent
CANCELLED = "cancelled"
NEEDED = "needed"  # a task that it needs has failed
FORGOTTEN = "forgotten"  # it ended long ago, or it never was

KINDS = frozenset({RAISED, TIMED_OUT, CRASHED, MEMORY, LOST, NOT_FOUND, UNSENDABLE, CANCELLED, NEEDED, FORGOTTEN})
BY_RETRIES = frozenset({RAISED, TIMED_OUT})  # tried again as often as the recipe says
BY_CRASHES = frozenset({CRASHED, MEMORY})  # tried again elsewhere, CRASHES times in all
CRASHES = 3
LOSSES = 10  # attempts that a task may lose with its worker: one that takes machines down must end, too

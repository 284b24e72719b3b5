"""The task book: every task's state, moved through one transition table. Pure.

Training units are tasks with kind "unit"; they are materialised when first leased, and folded into counts
when they end, so a million units cost what is under way. The ledger (ledger.py) says when they move. Calls of
functions are tasks, too: pool/book.py keeps them, by the same table.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from plesio.errors import InternalError


class TaskState(StrEnum):
    """Where a task is."""

    WAITING = "waiting"  # for other tasks to end
    READY = "ready"  # nobody holds it
    LEASED = "leased"  # a worker holds it
    HELD = "held"  # its result has arrived and is not aggregated yet
    MERGED = "merged"  # aggregated into a provisional version
    DONE = "done"  # its effect is committed: applied; of a call: its result is recorded
    PARTIAL = "partial"  # some of its effect is committed and its worker is gone: never re-issued
    DEAD = "dead"  # it failed for good
    CANCELLED = "cancelled"  # nobody wants it any more


TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.WAITING: frozenset({TaskState.READY, TaskState.DONE, TaskState.DEAD, TaskState.CANCELLED}),
    TaskState.READY: frozenset({TaskState.LEASED, TaskState.DONE, TaskState.DEAD, TaskState.CANCELLED}),
    TaskState.LEASED: frozenset(
        {TaskState.HELD, TaskState.MERGED, TaskState.READY, TaskState.PARTIAL}
        | {TaskState.DONE, TaskState.DEAD, TaskState.CANCELLED}
    ),
    TaskState.HELD: frozenset({TaskState.MERGED, TaskState.READY, TaskState.LEASED, TaskState.PARTIAL}),
    TaskState.MERGED: frozenset({TaskState.DONE, TaskState.READY, TaskState.LEASED, TaskState.PARTIAL}),
    TaskState.DONE: frozenset(),
    TaskState.PARTIAL: frozenset(),
    TaskState.DEAD: frozenset({TaskState.READY}),
    TaskState.CANCELLED: frozenset(),
}


def check_move(id: object, state: TaskState, to: TaskState) -> None:
    """Raises InternalError when a task cannot go there."""
    if to not in TRANSITIONS[state]:
        raise InternalError(f"task {id} cannot go from {state} to {to}")


class Task(msgspec.Struct, array_like=True):
    """One unit. Owned and changed by the TaskBook alone. id: (data epoch, index)."""

    id: tuple[int, int]
    kind: str = "unit"
    state: TaskState = TaskState.READY
    owner: str = ""
    generation: int = 0
    seq: int = 0  # the push that carries its result
    touched: int = 0  # the first push that holds part of it, while it has not ended; 0: none
    version: int = 0  # the version it was merged into; 0: none
    incomplete: bool = False  # its worker is gone, and only a part of it is held or merged
    attempts: int = 0
    depends_on: tuple[tuple[int, int], ...] = ()
    affinity: str = ""
    payload_ref: str = ""


class TaskBook(msgspec.Struct):
    """All tasks that are under way or went back; ended ones are only counted. The only owner of Task."""

    tasks: dict[tuple[int, int], Task] = {}
    done: int = 0
    partial: int = 0
    issued: int = 0
    reissued: int = 0

    def lease(self, task_id: tuple[int, int], owner: str, generation: int) -> None:
        """A worker takes it. A task seen for the first time is made here."""
        task = self.tasks.get(task_id)
        if task is None:
            task = self.tasks[task_id] = Task(task_id)
            self.issued += 1
        else:
            self.reissued += 1
        self.move(task, TaskState.LEASED)
        task.owner, task.generation = owner, generation
        task.attempts += 1

    def move(self, task: Task, to: TaskState) -> None:
        """The only way a state changes."""
        check_move(task.id, task.state, to)
        task.state = to
        if to is TaskState.READY:
            task.owner, task.generation, task.seq, task.touched, task.version, task.incomplete = "", 0, 0, 0, 0, False
        elif to is TaskState.DONE:
            self.done += 1
            del self.tasks[task.id]
        elif to is TaskState.PARTIAL:
            self.partial += 1
            del self.tasks[task.id]

    def owned(self, owner: str, generation: int, *states: TaskState) -> list[Task]:
        """The tasks of one generation of a worker, in order of their ids."""
        mine = (t for t in self.tasks.values() if t.owner == owner and t.generation == generation)
        return sorted((t for t in mine if not states or t.state in states), key=lambda t: t.id)

    def in_state(self, state: TaskState) -> list[Task]:
        """All tasks in a state, in order of their ids."""
        return sorted((t for t in self.tasks.values() if t.state is state), key=lambda t: t.id)

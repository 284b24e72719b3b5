"""How a client's threads and event loops ask for locks and so on, and wait; what is said and kept is in core/pool/grants."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from plesio.core.pool import effects as e
from plesio.core.pool.grants import Grants, Outcome, Said
from plesio.core.pool.places import BARRIER
from plesio.core.pool.stimuli import Heard, Want
from plesio.errors import LeaseLost, UserError, WouldDeadlock
from plesio.tasks.future import in_loop

if TYPE_CHECKING:
    import asyncio

    from plesio.tasks.link import Link

ERRORS = {e.DEADLOCK: WouldDeadlock, e.LOST: LeaseLost, e.WRONG: UserError, e.BUSY: TimeoutError}

_count = itertools.count(1)
_of_thread = threading.local()
_of_task: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()


def this_thread() -> str:
    """Its name to people, and to the pool: no other thread has it."""
    if not hasattr(_of_thread, "number"):
        _of_thread.number = next(_count)
    return _owner(threading.current_thread().name, _of_thread.number)


def this_task() -> str:
    """The same of a task of an event loop."""
    import asyncio  # not before it is needed: it is slow to import

    task = asyncio.current_task()
    assert task is not None, "only coroutines come here"
    number = _of_task.get(task)
    if number is None:
        number = _of_task[task] = next(_count)
    return _owner(task.get_name(), number)


def _owner(name: str, number: int) -> str:
    return f"{socket.gethostname()[:64]}:{os.getpid()} {name[:64]}#{number}"


class Locking:
    """Of one client; shared by its threads."""

    def __init__(self, link: Link, session: str) -> None:
        self._link = link
        self._grants = Grants(session)
        self._lock = threading.Lock()  # of the grants and alarms; nothing else is locked while it is
        self._alarms: dict[int, Callable[[], object]] = {}  # of those that an event loop waits for

    def call(self, make: Callable[[Grants], Said], timeout: float | None = None) -> Outcome:
        """Says it, and waits for the outcome. Raises TimeoutError, LeaseLost, WouldDeadlock, UserError, WireError."""
        with self._lock:
            self._link.check()
            said = make(self._grants)
        try:
            self._link.tell(said)
            self._link.wait_until(lambda: self._grants.arrived(said.number), timeout)
            if self._counts(said):
                self.call(lambda grants: grants.release(said.number))
        except BaseException:
            self._give_up(said.number)
            raise
        return self._end(said, timeout)

    async def call_async(self, make: Callable[[Grants], Said], timeout: float | None = None) -> Outcome:
        """As `call`, for an event loop."""
        import asyncio

        loop, came = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._link.check()
            said = make(self._grants)
            self._alarms[said.number] = lambda: in_loop(loop, came.set)
        try:
            self._link.tell(said)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(came.wait(), timeout)
            self._link.check()
            if self._counts(said):
                await self.call_async(lambda grants: grants.release(said.number))
        except BaseException:
            self._give_up(said.number)
            raise
        return self._end(said, timeout)

    def _counts(self, said: Said) -> bool:
        """Has it waited in vain at a barrier? The others may go on with it until the pool knows that it is gone."""
        return isinstance(said, Want) and said.kind == BARRIER and not self._grants.arrived(said.number)

    def _end(self, said: Said, timeout: float | None) -> Outcome:
        with self._lock:
            self._alarms.pop(said.number, None)
            outcome = self._grants.take(said.number) if self._grants.arrived(said.number) else None
        if outcome is None:
            assert isinstance(said, Want) and timeout is not None, "nothing else is given up"
            self._give_up(said.number)
            raise TimeoutError(f"{said.kind} {said.name!r} was waited for in vain for {timeout:g} s")
        if isinstance(outcome, e.Refuse):
            self._link.check()
            raise ERRORS[outcome.why](outcome.reason)
        return outcome

    def _give_up(self, number: int) -> None:
        with self._lock:
            self._alarms.pop(number, None)
            said = self._grants.give_up(number)
        if said is not None:
            self._link.tell(said)

    # -- the link's side

    def handle(self, message: Any) -> bool:
        """Was it for us?"""
        said: list[Said] = []
        if isinstance(message, (e.Granted, e.Answer, e.Refuse)):
            with self._lock:
                unwanted = self._grants.receive(message)
                alarm = self._alarms.get(message.number)
            said = [unwanted] if unwanted is not None else []
            if alarm is not None:
                alarm()
        elif isinstance(message, e.Lapsed):
            with self._lock:
                said = [*self._grants.lapsed()]
        else:
            return False
        for one in said:
            self._link.tell(one)
        return True

    def tell_due(self, now_s: float) -> None:
        """That we are alive, while it matters."""
        with self._lock:
            due = self._grants.due(now_s)
        for one in due:
            self._link.tell(one)

    def resend(self) -> list[Heard | Said]:
        """What a new connection says again."""
        with self._lock:
            return self._grants.resend()

    def let_go(self) -> None:
        """Of all that is held: this client is about to close."""
        with self._lock:
            said = self._grants.let_go()
        for one in said:
            self._link.tell(one)

    def settling(self) -> bool:
        """Is something given back of which it is not known that it is?"""
        with self._lock:
            return self._grants.settling()

    def end_all(self, reason: str) -> None:
        """Nothing more will be heard: whoever waits is told."""
        with self._lock:
            self._grants.forget(reason)
            alarms = list(self._alarms.values())
        for alarm in alarms:
            alarm()

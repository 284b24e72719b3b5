"""A run's coordinator and synchronizer on the pool's own machine; its learners are tasks that it submits to the pool.

As a program (`python -m plesio.runs.supervisor FOLDER PARENT`) it is what the task of a run starts. How it reaches the pool
comes as one line of JSON on stdin: it holds the token, which is the run's, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

import msgspec

from plesio.core.spec import RunSpec
from plesio.errors import PlesioError, PortInUse, UserError
from plesio.launchers.child import die_with_parent
from plesio.runs import member, shelf
from plesio.runs.hosting import Reach
from plesio.runtime.crew import Child
from plesio.runtime.hostsettings import running
from plesio.runtime.supervisor import Plan, Supervisor, bind
from plesio.tasks.client import Client
from plesio.tasks.dialling import Address
from plesio.tasks.future import Future
from plesio.tasks.link import Link
from plesio.wire import messages as m
from plesio.wire.tls import load

RETRIES = 1  # of a learner whose script raises
LEAVE_S = 30.0
PORTS = range(20000, 32000, 2)  # below those that systems give to connections


class PoolSupervisor(Supervisor):
    """Owns the learners' tasks."""

    def __init__(self, plan: Plan, record: shelf.Record, client: Client) -> None:
        super().__init__(plan, self._write_progress, say)
        self.record = record
        self.client = client
        self.members: list[Future] = []
        self.shown_s = 0.0

    async def run(self) -> None:
        """See Supervisor."""
        self.members = await asyncio.to_thread(self._submit)
        self.spawn(self._until_members_end())
        try:
            await super().run()
        finally:
            await asyncio.to_thread(self.client.cancel, [f.name for f in self.members if not f.done()])
            await asyncio.to_thread(self.client.close)

    def _submit(self) -> list[Future]:
        """A task for each learner; those of a life before go on."""
        record, spec = self.record, self.plan.spec
        futures = []
        for i in range(record.learners):
            told = member.Membership(
                run=record.run, name=f"pool-{i}", port=record.port, digest=record.digest, script=spec.script,
                argv=spec.argv, priority=record.priority,
            )  # fmt: skip
            futures.append(
                self.client.submit(
                    member.FUNCTION, msgspec.to_builtins(told), queue=shelf.QUEUE, key=f"{record.run}/{i} at {record.port}",
                    priority=record.priority, requires=record.requires, retries=RETRIES, yields_s=member.YIELDS_S,
                )
            )  # fmt: skip
        return futures

    async def _until_members_end(self) -> None:
        """All scripts ended by themselves: that ends a run that deals no data. All failed: it cannot go on."""
        ends = await asyncio.gather(*map(_outcome, self.members))
        errors = [error for error in ends if error is not None]
        if self.ending or self.finished.is_set():
            return
        if len(errors) == len(ends):
            self.give_up(UserError(f"no learner could go on: {shelf.words_of(errors[0])}"))
        else:
            self.on_all_done()

    async def stop(self, children: list[Child], grace_s: float) -> None:
        """See Crew. Its learners are asked to leave, and have until the run has heard of it."""
        await super().stop(children, grace_s)
        if children:
            return
        if self.finished.is_set():  # they have heard of it, and end by themselves
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*map(_outcome, self.members)), LEAVE_S)
        await asyncio.to_thread(self.client.cancel, [f.name for f in self.members if not f.done()])
        until_s = time.monotonic() + LEAVE_S
        while time.monotonic() < until_s and self.status is not None and self.status.live > 0:
            await asyncio.sleep(0.1)

    def _write_progress(self, status: m.Status) -> None:
        now_s = time.monotonic()
        if now_s - self.shown_s < 0.5 and not status.finished:
            return
        self.shown_s = now_s
        losses = [x.loss for x in status.learners if x.loss == x.loss]
        told = {
            "tokens": status.tokens, "until": status.target, "units": list(status.units), "live": status.live,
            "loss": sum(losses) / len(losses) if losses else None,
            "held_out": status.losses[-1][1] if status.losses else None,
        }  # fmt: skip
        with contextlib.suppress(OSError):
            shelf.put(self.plan.run_dir / shelf.PROGRESS, msgspec.json.encode(told))


async def _outcome(future: Future) -> PlesioError | None:
    try:
        await future
        return None
    except PlesioError as error:
        return error


def say(words: str) -> None:
    """To the log."""
    print(words, flush=True)


def main() -> None:
    """Entry of the process."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=Reach)
    try:
        _supervise(folder, told)
    except PlesioError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)


def _supervise(folder: Path, told: Reach) -> None:
    record = msgspec.json.decode((folder / shelf.RECORD).read_bytes(), type=shelf.Record)
    spec = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunSpec)
    found = running(folder.parent.parent)
    host = "127.0.0.1" if found is None else found.listens  # who reaches the pool reaches its runs
    record.port = _free_port(host, record.port)
    shelf.put(folder / shelf.RECORD, msgspec.json.encode(record))
    tls = load(told.tls, serves=True) if told.tls else None
    link = Link(Address(told.host, told.port, told.token, load(told.tls) if told.tls else None))
    link.open()
    plan = Plan(spec=spec, run_dir=folder, token=told.token, listen=(host, record.port), tls=tls, local=False)
    try:
        asyncio.run(PoolSupervisor(plan, record, Client(link)).run())
    finally:
        _report(folder)


def _free_port(host: str, last: int) -> int:
    """Two that follow each other: the same as last time, if nobody took them."""
    begin = os.getpid() * 2 % len(PORTS)
    for port in [last] * bool(last) + [PORTS[(begin + i) % len(PORTS)] for i in range(200)]:
        with contextlib.suppress(PortInUse):
            bind(host, port).close()
            bind(host, port + 1).close()
            return port
    raise UserError("no two free ports were found for the run")


def _report(folder: Path) -> None:
    from plesio.reporting.report import write_report
    from plesio.reporting.summary import summary_of, write_summary

    if (folder / "events.jsonl").exists():
        with contextlib.suppress(OSError):
            write_summary(folder, summary_of(folder))
            write_report(folder)


if __name__ == "__main__":
    main()

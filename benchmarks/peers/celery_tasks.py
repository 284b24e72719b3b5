"""Celery with Redis as broker and result backend: one worker with two processes; a group for many tasks.

Prefetch 128 a process, which its guide advises for many short tasks; rate limits, gossip, mingle and heartbeats off;
the rest as it is by default. With --kill: two workers of one process each, late acknowledgement and prefetch 1, with
the visibility timeout of an hour that is the default, and with 5 s, looked at every second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import children
import figures
import redis_server

SPEED = "speed"


def app_of(url: str, variant: str) -> Any:
    """A client's or a worker's; the tasks have the same names in both."""
    from celery import Celery

    app = Celery("peers", broker=f"{url}/0", backend=f"{url}/1")
    app.conf.update(worker_disable_rate_limits=True, broker_connection_retry_on_startup=True)
    app.conf.update(settings_of(variant))
    app.task(_noop, name="noop")
    app.task(figures.leave_effect, name="leave_effect")
    return app


def _noop() -> None:
    pass


def settings_of(variant: str) -> dict[str, Any]:
    """See the file's docstring; SPEED, or one of the variants."""
    if variant == SPEED:
        return {"worker_prefetch_multiplier": 128}
    late = {"task_acks_late": True, "task_reject_on_worker_lost": True, "worker_prefetch_multiplier": 1}
    if variant == "visibility_timeout 5 s":
        often = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        late["broker_transport_options"] = {"visibility_timeout": 5, **often}
    return late


class CeleryPeer:
    """See figures.Peer."""

    name = "celery"
    pins = ("celery[redis]==5.7.0", "redis==8.1.0", "hiredis==3.5.0")
    journal = redis_server.JOURNAL + "; a task that a worker holds is lost with it (early acknowledgement)"
    settings = "prefork, 2 processes, prefetch 128 each, group; no gossip, mingle, heartbeat"
    variants = ("acks_late", "visibility_timeout 5 s")

    def __init__(self) -> None:
        self.redis = redis_server.Redis()
        self.app: Any = None

    def _begin(self, folder: Path, variant: str) -> list[int]:
        workers, processes = (1, 2) if variant == SPEED else (2, 1)
        self.redis.start(folder)
        pids = []
        for number in range(workers):
            options = [self.redis.url, variant, str(processes), f"worker-{number}@localhost"]
            command = [sys.executable, str(Path(__file__).absolute()), "--worker", *options]
            pids.append(children.start(command, folder / f"worker-{number}.log", cwd=folder).pid)
        self.app = app_of(self.redis.url, variant)
        return pids

    def start(self, folder: Path) -> None:
        """See figures.Peer."""
        self._begin(folder, SPEED)

    def many(self, count: int) -> None:
        """See figures.Peer."""
        from celery import group

        noop = self.app.tasks["noop"]
        group(noop.s() for _ in range(count)).apply_async().get()

    def one(self) -> None:
        """See figures.Peer."""
        self.app.tasks["noop"].delay().get()

    def drop_journal(self) -> bool:
        """See figures.Peer."""
        self.redis.drop_journal()
        return True

    def stop(self) -> None:
        """See figures.Peer."""

    def start_nodes(self, folder: Path, variant: str) -> list[int]:
        """See figures.Peer."""
        return self._begin(folder, variant)

    def send(self, path: str, count: int) -> list[Any]:
        """See figures.Peer."""
        task = self.app.tasks["leave_effect"]
        return [task.delay(path, number) for number in range(count)]

    def unfinished(self, tasks: list[Any]) -> list[Any]:
        """See figures.Peer."""
        return [task for task in tasks if not task.ready()]


def work(url: str, variant: str, processes: str, name: str) -> None:
    """A worker, until it is stopped."""
    options = ["-n", name, "-c", processes, "--without-gossip", "--without-mingle", "--without-heartbeat"]
    app_of(url, variant).worker_main(["worker", "-l", "WARNING", *options])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        figures.main(CeleryPeer, __doc__)

"""Dramatiq with Redis as broker and for results: two worker processes, a group for many tasks.

Eight threads a process, which is the default, and a queue prefetch of 100, better here than its default of 16; the
Results middleware; defaults otherwise. With --kill: two workers of one process and one thread each, with the
default heartbeat timeout of a minute, and with 5 s and maintenance at every command.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import children
import figures
import redis_server

URL = "PEER_REDIS"  # the worker's command reads these two, as it calls `broker_of_worker` without arguments
VARIANT = "PEER_VARIANT"
SPEED = "speed"
LONG_MS = 600_000


def actors_of(url: str, variant: str) -> dict[str, Any]:
    """A client's or a worker's; they become the process' default broker and its actors."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    quick = {"heartbeat_timeout": 5_000, "maintenance_chance": 1_000_000} if variant == "heartbeat_timeout 5 s" else {}
    broker = RedisBroker(url=f"{url}/0", **quick)
    broker.add_middleware(Results(backend=RedisBackend(url=f"{url}/1"), store_results=True))
    dramatiq.set_broker(broker)
    return {
        "noop": dramatiq.actor(_noop, actor_name="noop"),
        "leave_effect": dramatiq.actor(figures.leave_effect, actor_name="leave_effect"),
    }


def _noop() -> int:
    return 0  # a result: None would be taken for a forgotten one, with a warning


def broker_of_worker() -> None:
    """What `dramatiq dramatiq_tasks:broker_of_worker` calls."""
    actors_of(os.environ[URL], os.environ[VARIANT])


class DramatiqPeer:
    """See figures.Peer."""

    name = "dramatiq"
    pins = ("dramatiq[redis]==2.2.1", "redis==8.1.0", "hiredis==3.5.0")
    journal = redis_server.JOURNAL + "; a task that a worker holds runs again (late acknowledgement)"
    settings = "2 processes, 8 threads each, prefetch 100, group, Results in redis"
    variants = ("defaults", "heartbeat_timeout 5 s")

    def __init__(self) -> None:
        self.redis = redis_server.Redis()
        self.actors: dict[str, Any] = {}

    def _begin(self, folder: Path, variant: str) -> list[int]:
        workers, processes, threads, prefetch = (1, 2, 8, 100) if variant == SPEED else (2, 1, 1, 2)
        self.redis.start(folder)
        here = {"PYTHONPATH": str(Path(__file__).parent), URL: self.redis.url, VARIANT: variant}
        environ = {**os.environ, **here, "dramatiq_queue_prefetch": str(prefetch)}
        command = [str(Path(sys.prefix) / "bin" / "dramatiq"), "dramatiq_tasks:broker_of_worker"]
        command += ["--processes", str(processes), "--threads", str(threads)]
        logs = [folder / f"worker-{number}.log" for number in range(workers)]
        pids = [children.start(command, log, env=environ, cwd=folder).pid for log in logs]
        self.actors = actors_of(self.redis.url, variant)
        return pids

    def start(self, folder: Path) -> None:
        """See figures.Peer."""
        self._begin(folder, SPEED)

    def many(self, count: int) -> None:
        """See figures.Peer."""
        from dramatiq import group

        sent = group([self.actors["noop"].message() for _ in range(count)]).run()
        for _ in sent.get_results(block=True, timeout=LONG_MS):
            pass

    def one(self) -> None:
        """See figures.Peer."""
        self.actors["noop"].send().get_result(block=True, timeout=LONG_MS)

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
        return [self.actors["leave_effect"].send(path, number) for number in range(count)]

    def unfinished(self, tasks: list[Any]) -> list[Any]:
        """See figures.Peer."""
        from dramatiq.results import ResultMissing

        missing = []
        for task in tasks:
            try:
                task.get_result()
            except ResultMissing:
                missing.append(task)
        return missing


if __name__ == "__main__":
    figures.main(DramatiqPeer, __doc__)

"""Ray on this machine: `num_cpus=2`, tasks, one `ray.get` for many of them; no dashboard.

Defaults otherwise (a task is run again up to three times when its worker or node dies), except for an object store of
150 MB and no usage reports. With --kill: a head without processors and two nodes of one processor each.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import figures

STORE_BYTES = 150_000_000
QUIET = {"include_dashboard": False, "object_store_memory": STORE_BYTES}


class RayPeer:
    """See figures.Peer."""

    name = "ray"
    pins = ("ray==2.60.0",)
    journal = "none: all is in memory; what a lost worker or node had runs again, what a lost client sent is gone"
    settings = "num_cpus=2, tasks, no dashboard"
    variants = ("defaults",)

    def __init__(self) -> None:
        self.ray: Any = None
        self.noop: Any = None
        self.leave_effect: Any = None

    def _settle_in(self, folder: Path) -> None:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}

    def _init(self, **options: Any) -> None:
        import ray

        self.ray = ray
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        self.noop = ray.remote(_noop)
        self.leave_effect = ray.remote(figures.leave_effect)

    def start(self, folder: Path) -> None:
        """See figures.Peer."""
        self._settle_in(folder)
        self._init(num_cpus=2, _node_ip_address="127.0.0.1", **QUIET)

    def many(self, count: int) -> None:
        """See figures.Peer."""
        self.ray.get([self.noop.remote() for _ in range(count)])

    def one(self) -> None:
        """See figures.Peer."""
        self.ray.get(self.noop.remote())

    def drop_journal(self) -> bool:
        """See figures.Peer."""
        return False

    def stop(self) -> None:
        """See figures.Peer."""
        if self.ray:
            self.ray.shutdown()

    def start_nodes(self, folder: Path, variant: str) -> list[int]:
        """See figures.Peer."""
        self._settle_in(folder)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **QUIET})
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(2)]
        cluster.wait_for_nodes()
        self._init(address=cluster.address)
        return [node.all_processes["raylet"][0].process.pid for node in nodes]

    def send(self, path: str, count: int) -> list[Any]:
        """See figures.Peer."""
        return [self.leave_effect.remote(path, number) for number in range(count)]

    def unfinished(self, tasks: list[Any]) -> list[Any]:
        """See figures.Peer."""
        return self.ray.wait(tasks, num_returns=len(tasks), timeout=0)[1] if tasks else []


def _noop() -> None:
    pass


if __name__ == "__main__":
    figures.main(RayPeer, __doc__)

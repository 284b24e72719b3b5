"""plesio: train and serve large models on machines that do not wait for each other.

`plesio.join()` in a training script; `plesio.connect()` for tasks; everything else from the command line. Importing it
loads no torch.
"""

from __future__ import annotations

from typing import Any

from plesio.version import VERSION

__version__ = VERSION
__all__ = ["attach", "connect", "join", "task"]


def __getattr__(name: str) -> Any:
    if name in ("join", "Learner", "Run", "Unit"):
        import plesio.training

        return getattr(plesio.training, name)
    if name in ("attach", "connect", "task", "Client", "Future"):
        import plesio.tasks

        return getattr(plesio.tasks, name)
    raise AttributeError(f"module 'plesio' has no attribute {name!r}")

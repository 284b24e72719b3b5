"""plesio: train and serve large models on machines that do not wait for each other.

`plesio.join()` in a training script; everything else from the command line. Importing it loads no torch.
"""

from __future__ import annotations

from typing import Any

from plesio.version import VERSION

__version__ = VERSION
__all__ = ["join"]


def __getattr__(name: str) -> Any:
    if name in ("join", "Learner", "Run", "Unit"):
        import plesio.training

        return getattr(plesio.training, name)
    raise AttributeError(f"module 'plesio' has no attribute {name!r}")

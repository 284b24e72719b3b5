"""What a training script imports, reached as `plesio.join` and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plesio.training.run import Learner, Run, Unit, join

if TYPE_CHECKING:
    from plesio.training.ddp import ddp_hook

__all__ = ["Learner", "Run", "Unit", "ddp_hook", "join"]


def __getattr__(name: str) -> Any:
    if name == "ddp_hook":  # not every torch has torch.distributed, and `join` needs none
        from plesio.training.ddp import ddp_hook

        return ddp_hook
    raise AttributeError(f"module 'plesio.training' has no attribute {name!r}")

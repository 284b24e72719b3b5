"""What a training script imports, reached as `plesio.join` and its kin."""

from plesio.training.ddp import ddp_hook
from plesio.training.run import Learner, Run, Unit, join

__all__ = ["Learner", "Run", "Unit", "ddp_hook", "join"]

"""The user's optimizer: its step put off until the mean gradient is there, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plesio.errors import UserError


class BoundOptimizer:
    """Binds `optimizer.step`: in gradient rounds it only notes the gradients; `finish` steps on their mean.

    Owned by the learner's main thread. `deferring` says which kind of round it is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.deferring = False
        self.noted = False
        self._rates: list[float] = []
        self._step: Callable[..., Any] = optimizer.step
        optimizer.step = self._bound_step  # type: ignore[method-assign]

    def _bound_step(self, closure: Callable[[], float] | None = None) -> Any:
        if not self.deferring:
            return self._step(closure) if closure is not None else self._step()
        if closure is not None:
            raise UserError("synchronous rounds need optimizer.step() without a closure; use AdamW, SGD or Adam")
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.noted = True
        return None

    def gradients(self) -> list[Tensor]:
        """The gradients just noted; zeros where there is none."""
        if not self.noted:
            raise UserError("learner.step(...) was called without optimizer.step() before it; call it after")
        self.noted = False
        return [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]

    def finish(self, mean: list[Tensor]) -> None:
        """The real step, on these gradients, with the learning rates of the moment when it was asked for."""
        for parameter, gradient in zip(self.parameters, mean, strict=True):
            parameter.grad = gradient
        now = [group["lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, self._rates or now, strict=True):
            group["lr"] = rate
        self._step()
        for group, rate in zip(self.optimizer.param_groups, now, strict=True):
            group["lr"] = rate

    def state(self) -> dict[str, Tensor]:
        """Its state: 'optim.<parameter number>.<key>' -> tensor; numbers as 0-d float64 under '<key>#'."""
        found: dict[str, Tensor] = {}
        for index, parameter in enumerate(self._all()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optim.{index}.{key}"] = value.detach().clone()
                elif isinstance(value, (int, float)):
                    found[f"optim.{index}.{key}#"] = torch.tensor(float(value), dtype=torch.float64)
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes over such a state; what is not in it is dropped."""
        parameters = self._all()
        self.optimizer.state.clear()
        for name, value in tensors.items():
            if not name.startswith("optim."):
                continue
            _, index, key = name.split(".", 2)
            if int(index) < len(parameters):
                state = self.optimizer.state[parameters[int(index)]]
                state[key.removesuffix("#")] = value.item() if key.endswith("#") else value.clone()

    def _all(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

"""The user's optimizer: its step put off until the gradient to step on is there; its state and its rule as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from plesio.errors import CodecError, UserError

# those that the synchronizer can keep, and what they read at each step
SERVED: dict[str, tuple[type[torch.optim.Optimizer], tuple[str, ...]]] = {
    "SGD": (torch.optim.SGD, ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")),
    "Adam": (torch.optim.Adam, ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")),
    "AdamW": (torch.optim.AdamW, ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")),
}
NOT_OURS = -1  # a parameter of the optimizer that is no trained parameter of the model


class Group(msgspec.Struct, frozen=True, array_like=True):
    """A parameter group. members: numbers of the model's parameters, in the group's order, or NOT_OURS."""

    members: tuple[int, ...]
    options: dict[str, float | bool | tuple[float, float]]


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """An optimizer as it stands at one step: a name of SERVED, and its groups."""

    name: str
    groups: tuple[Group, ...]


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
            raise UserError("rounds of gradients need optimizer.step() without a closure; use AdamW, SGD or Adam")
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

    def rule(self) -> bytes:
        """How it would step now, for the synchronizer to do it. Raises UserError when that has no such optimizer."""
        name = type(self.optimizer).__name__
        kept, options = SERVED.get(name, (None, ()))
        if type(self.optimizer) is not kept:
            raise UserError(
                f"strategy 'async' keeps the optimizer's state at the synchronizer, which has {', '.join(SERVED)} of "
                f"torch.optim, not {name}; use one of them, or another strategy"
            )
        number = {id(p): i for i, p in enumerate(self.parameters)}
        return msgspec.msgpack.encode(
            Rule(
                name,
                tuple(
                    Group(
                        tuple(number.get(id(p), NOT_OURS) for p in group["params"]),
                        {key: _plain(group[key]) for key in options},
                    )
                    for group in self.optimizer.param_groups
                ),
            )
        )

    def state(self) -> dict[str, Tensor]:
        """See `export`."""
        return export(self.optimizer)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """See `restore`."""
        restore(self.optimizer, tensors)


class ServedOptimizer:
    """The optimizer of a parameter server: the learner's rule, on the synchronizer's parameters, with state of its own.

    Owned by the merge thread. Source: Downpour SGD (Dean 2012).
    """

    def __init__(self, parameters: Sequence[Tensor], state: dict[str, Tensor]) -> None:
        self.parameters = parameters
        self._state = state
        self._optimizer: torch.optim.Optimizer | None = None
        self._made_for: Any = None

    def step(self, data: bytes, gradient: Sequence[Tensor]) -> None:
        """One step by this rule (see `read_rule`). gradient: one per parameter, in its shape."""
        rule = read_rule(data, len(self.parameters))
        shape = (rule.name, [(g.members, bool(g.options.get("amsgrad"))) for g in rule.groups])
        if self._optimizer is None or shape != self._made_for:
            self._state = self.state()
            self._optimizer, self._made_for = self._make(rule), shape
        for group, wanted in zip(self._optimizer.param_groups, rule.groups, strict=True):
            group.update(wanted.options)
            for parameter, index in zip(group["params"], wanted.members, strict=True):
                parameter.grad = gradient[index] if index != NOT_OURS else None
        self._optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """See `export`."""
        return export(self._optimizer) if self._optimizer is not None else self._state

    def _make(self, rule: Rule) -> torch.optim.Optimizer:
        groups = [
            {"params": [torch.empty(0) if i == NOT_OURS else self.parameters[i] for i in g.members], **g.options}
            for g in rule.groups
        ]
        optimizer: Any = SERVED[rule.name][0](groups, lr=0.0)  # type: ignore[call-arg]
        restore(optimizer, self._state)
        made: torch.optim.Optimizer = optimizer
        return made


def read_rule(data: bytes, parameters: int) -> Rule:
    """A learner's rule, for a model of so many parameters. Raises CodecError unless it is one that can be followed."""
    try:
        rule = msgspec.msgpack.decode(data, type=Rule)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not an optimizer's rule: {error}") from error
    members = [i for group in rule.groups for i in group.members if i != NOT_OURS]
    if rule.name not in SERVED or not rule.groups:
        raise CodecError(f"no optimizer {rule.name[:40]!r} with {len(rule.groups)} groups is kept here")
    if len(members) != len(set(members)) or not all(0 <= i < parameters for i in members):
        raise CodecError("an optimizer's rule names parameters that the model has not, or twice")
    known = SERVED[rule.name][1]
    for group in rule.groups:
        if len(group.members) > 2 * parameters + 64 or set(group.options) != set(known):
            raise CodecError(f"an optimizer's rule must have {', '.join(known)}")
        for key, value in group.options.items():
            if isinstance(value, tuple) != (key == "betas") or not _sound(value, 1.0 if key == "betas" else math.inf):
                raise CodecError(f"{key}={value!r} is no setting of an optimizer")
    return rule


def export(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its state: 'optim.<parameter number>.<key>' -> tensor; numbers as 0-d float64 under '<key>#'."""
    found: dict[str, Tensor] = {}
    for index, parameter in enumerate(_all(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"optim.{index}.{key}"] = value.detach().clone()
            elif isinstance(value, (int, float)):
                found[f"optim.{index}.{key}#"] = torch.tensor(float(value), dtype=torch.float64)
    return found


def restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Takes over such a state; what is not in it is dropped."""
    parameters = _all(optimizer)
    optimizer.state.clear()
    for name, value in tensors.items():
        if not name.startswith("optim."):
            continue
        _, index, key = name.split(".", 2)
        if int(index) < len(parameters):
            state = optimizer.state[parameters[int(index)]]
            state[key.removesuffix("#")] = value.item() if key.endswith("#") else value.clone()


def _all(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _plain(value: Any) -> Any:
    """An option as numbers; a schedule may have made it a tensor."""
    if isinstance(value, (tuple, list)):
        return tuple(float(v) for v in value)
    return value if isinstance(value, bool) else float(value)


def _sound(value: Any, below: float) -> bool:
    return all(0.0 <= v < below for v in (value if isinstance(value, tuple) else (value,)))

"""The optimizer that the synchronizer keeps: it follows a learner's rule to the bit, and no hostile one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from plesio.errors import CodecError, UserError
from plesio.runtime.optimizers import BoundOptimizer, ServedOptimizer, read_rule

MAKERS: dict[str, Any] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.02, amsgrad=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.02, betas=(0.8, 0.95)),
}


def parameters() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (4,), (2, 2))]


@pytest.mark.parametrize("name", MAKERS)
def test_it_steps_as_the_learners_own_would_through_rate_changes_and_a_restart(name: str) -> None:
    mine, theirs = parameters(), [p.detach().clone() for p in parameters()]
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    groups = [{"params": [mine[2], frozen], "lr": 0.3}, {"params": [mine[0], mine[1]]}]
    optimizer = MAKERS[name](groups)
    step = optimizer.step
    bound = BoundOptimizer(optimizer, mine)
    served = ServedOptimizer(theirs, {})
    for count in range(6):
        for parameter in mine:
            parameter.grad = torch.randn_like(parameter)
        optimizer.param_groups[0]["lr"] = 0.3 / (1 + count)
        if count == 3:
            served = ServedOptimizer(theirs, served.state())
        served.step(bound.rule(), [p.grad for p in mine])
        step()
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)
    assert served.state().keys() == bound.state().keys()


def test_another_optimizer_is_refused_by_name() -> None:
    class Adam(torch.optim.SGD):
        """Not torch's."""

    bound = BoundOptimizer(Adam(parameters(), lr=0.1), parameters())
    with pytest.raises(UserError, match="has SGD, Adam, AdamW of torch.optim"):
        bound.rule()


GOOD = {"lr": 0.1, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
ADAM = {"lr": 0.1, "betas": [0.9, 0.9], "eps": 0.0, "weight_decay": 0.0, "amsgrad": False, "maximize": False}


@pytest.mark.parametrize(
    "rule",
    [
        ["SGD", []],
        ["system", [[[0], GOOD]]],
        ["SGD", [[[3], GOOD]]],
        ["SGD", [[[-2], GOOD]]],
        ["SGD", [[[0, 0], GOOD]]],
        ["SGD", [[[0], GOOD], [[0], GOOD]]],
        ["SGD", [[[-1] * 1000, GOOD]]],
        ["SGD", [[[0], GOOD | {"lr": float("nan")}]]],
        ["SGD", [[[0], GOOD | {"lr": -1.0}]]],
        ["SGD", [[[0], GOOD | {"lr": [0.1, 0.2]}]]],
        ["SGD", [[[0], GOOD | {"foreach": True}]]],
        ["SGD", [[[0], {"lr": 0.1}]]],
        ["Adam", [[[0], ADAM | {"betas": [0.9, 1.0]}]]],
        "SGD",
    ],
)  # fmt: skip
def test_a_hostile_rule_is_refused(rule: Any) -> None:
    assert read_rule(msgspec.msgpack.encode(["SGD", [[[0, 2], GOOD]]]), 3).name == "SGD"
    assert read_rule(msgspec.msgpack.encode(["Adam", [[[1], ADAM]]]), 3).name == "Adam"
    with pytest.raises(CodecError):
        read_rule(msgspec.msgpack.encode(rule), 3)

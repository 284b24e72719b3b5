"""What a chaos schedule trains: a regression whose held-out loss falls to the noise in its data, at a paced step.

As a script it is a learner. Its bulk connection goes through the injector's relay, and the injector may hold its pace;
nothing else is changed. As a module it measures a finished model.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import plesio
from plesio.runtime import link

VIA = "PLESIO_CHAOS_VIA"  # HOST:PORT of the relay
HOLD = "PLESIO_CHAOS_HOLD"  # a file: while it is there the run hardly moves, for a process that takes long to start
SAMPLES, UNIT = 2048, 16
FEATURES, WIDTH = 32, 2048  # 68,000 parameters: a state of 270 kB
NOISE = 0.5  # standard deviation: the loss cannot fall below its square
STEP_S, HELD_STEP_S = 0.012, 0.25  # a paced step: what all ask for together stays below the machine
# Epochs, and the inner step size: the loss still falls a little at the end, so that lost work would show, and no more:
# one learner more makes fewer and larger synchronous rounds of the same data, 4 instead of 3 from the start on +3 %.
SETTINGS = {
    "decoupled": (12, 2e-5),
    "diloco": (12, 2e-5),
    "localsgd": (12, 1.4e-4),
    "sync": (7, 3e-4),  # each step is a round
}


def data(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """x: (samples, FEATURES), y: (samples, 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, FEATURES, generator=generator)
    y = torch.tanh(x[:, :4].sum(1, keepdim=True)) + NOISE * torch.randn(samples, 1, generator=generator)
    return x, y


def build() -> nn.Module:
    """The model before its first step."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def held_out_loss(model: nn.Module) -> float:
    """Mean squared error on data that nobody trains on."""
    x, y = data(2048, seed=2)
    with torch.no_grad():
        return nn.functional.mse_loss(model(x), y).item()


def loss_of(path: Path | None) -> float:
    """Of a finished run's model file; None: of the model before its first step."""
    from safetensors.torch import load_file

    model = build()
    if path is not None:
        model.load_state_dict(load_file(path))
    return held_out_loss(model)


def go_through(host: str, port: int) -> None:
    """Bulk connections of this process go to this address instead of the synchronizer's."""
    direct = link.keep_connected  # type: ignore[attr-defined]

    def by_way(to: str, at: int, token: str, role: str, *rest: Any) -> Coroutine[Any, Any, None]:
        return direct(host, port, token, role, *rest)

    def choose(*args: Any, **named: Any) -> Coroutine[Any, Any, None]:
        return by_way(*args) if "bulk" in args else direct(*args, **named)

    link.keep_connected = choose  # type: ignore[attr-defined]


def main() -> None:
    """A learner. Its argument: the strategy, which the settings go with."""
    torch.set_num_threads(1)
    if via := os.environ.get(VIA):
        host, _, port = via.rpartition(":")
        go_through(host, int(port))
    epochs, learning_rate = SETTINGS[sys.argv[1]]
    hold = os.environ.get(HOLD, "")
    x, y = data(SAMPLES, seed=1)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    run = plesio.join()
    learner = run.learner(model, optimizer, evaluate=held_out_loss)
    for unit in run.units(SAMPLES, UNIT, epochs=epochs):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        time.sleep(HELD_STEP_S if os.path.exists(hold) else STEP_S)
        learner.step(tokens=len(unit), loss=loss.item())


if __name__ == "__main__":
    main()

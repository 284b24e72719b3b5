"""Float64 regression on fixed batches: learner r of step t takes batch (t, r). Saves its weights at the end."""

import os
import sys
import time

import torch

import plesio

SIZES = [int(x) for x in sys.argv[2].split(",")]
INNER = sys.argv[3]


def model() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)).double()


def optimizer(of: torch.nn.Module) -> torch.optim.Optimizer:
    if INNER == "adamw":
        return torch.optim.AdamW(of.parameters(), lr=1e-2)
    if INNER == "rmsprop":
        return torch.optim.RMSprop(of.parameters(), lr=1e-3)
    return torch.optim.SGD(of.parameters(), lr=0.05, momentum=0.9 if INNER == "momentum" else 0.0, nesterov=False)


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(SIZES[rank], 5, generator=generator, dtype=torch.float64)
    return x, torch.sin(x[:, :2])


def main() -> None:
    net = model()
    inner = optimizer(net)
    run = plesio.join()
    learner = run.learner(net, inner)
    rank = int(os.environ["PLESIO_NAME"].rpartition("-")[2])
    step = learner.version  # the run may have been resumed
    while not run.finished:
        x, y = batch(step, rank)
        inner.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        inner.step()
        learner.step(tokens=len(x))
        time.sleep(float(os.environ.get("EXACT_PAUSE_S", "0")))
        step += 1
    torch.save(net.state_dict(), f"{sys.argv[1]}/weights-{rank}.pt")


if __name__ == "__main__":
    main()

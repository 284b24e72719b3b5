"""A script whose batches others prepare. A line of the file in FEEDING for each unit: was it prepared here?"""

import os
import time

import torch
from torch import nn

import plesio
import plesio.data


def prepare(records, seed):
    """Slow, and with chance in it."""
    time.sleep(0.01)
    x = torch.tensor([[r["x"]] for r in records]) + 0.01 * torch.randn(
        len(records), 1, generator=torch.Generator().manual_seed(seed)
    )
    return {"x": x, "y": torch.tensor([[r["y"]] for r in records]), "pid": os.getpid()}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = plesio.data.open_source(os.environ["FEEDING_SOURCE"])
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    run = plesio.join()
    learner = run.learner(model, optimizer)
    with plesio.connect() as client, open(os.environ["FEEDING"], "a", buffering=1) as log:
        for unit, batch in plesio.data.batches(run, source, 8, prepare, client=client, epochs=2):
            log.write(f"{unit.epoch} {unit.index} {batch['pid'] == os.getpid()}\n")
            time.sleep(0.01)
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(batch["x"]), batch["y"])
            loss.backward()
            optimizer.step()
            learner.step(tokens=len(unit), loss=loss.item())


if __name__ == "__main__":
    main()

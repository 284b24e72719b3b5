"""A paced step on batches: made before (FED=ready), here (FED=here), or by slots of a pool of this machine (FED=pool)."""

import json
import os
import time

import torch
from torch import nn

import plesio
import plesio.data

STEP_S, PREPARE_S, UNIT = 0.04, 0.04, 32
WARM = 20  # units before the clock starts


def prepare(records, seed):
    """As slow as the step."""
    time.sleep(PREPARE_S)
    return ready(records)


def ready(records):
    return torch.tensor([r["x"] for r in records]), torch.tensor([[r["y"]] for r in records])


def stream(run, source, how):
    if how == "ready":
        for unit in run.units(len(source), UNIT):
            yield unit, ready(source.__getitems__(unit.samples))
    elif how == "here":
        yield from plesio.data.batches(run, source, UNIT, prepare)
    else:
        with plesio.connect(folder=os.environ["FED_POOL"], workers=2) as client:
            yield from plesio.data.batches(run, source, UNIT, prepare, client=client)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = plesio.data.open_source(os.environ["FED_SOURCE"])
    model = nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    run = plesio.join()
    learner = run.learner(model, optimizer)
    began_s, count = 0.0, 0
    for unit, (x, y) in stream(run, source, os.environ["FED"]):
        if count == WARM:
            began_s = time.perf_counter()
        count += 1
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        time.sleep(STEP_S)
        learner.step(tokens=len(unit), loss=loss.item())
    print(json.dumps({"units": count - WARM, "seconds": time.perf_counter() - began_s}))


if __name__ == "__main__":
    main()

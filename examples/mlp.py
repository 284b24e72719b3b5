"""The smallest example: a 1000-64-1 regression on data drawn from a seed.

Alone: python examples/mlp.py.  On three learners: plesio run --learners 3 examples/mlp.py
"""

import torch
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import mse_loss

import plesio

torch.manual_seed(0)
x = torch.randn(10_000, 1000)
y = torch.tanh(x @ torch.randn(1000, 1) / 1000**0.5)  # (10000, 1), between -1 and 1
model = Sequential(Linear(1000, 64), ReLU(), Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

run = plesio.join()
learner = run.learner(model, optimizer)
for unit in run.units(8_000, 32, epochs=4):  # the last 2,000 rows stay unseen
    loss = mse_loss(model(x[unit.samples]), y[unit.samples])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    learner.step(tokens=len(unit.samples), loss=loss.item())
if run.first:
    print(f"unseen rows: loss {mse_loss(model(x[8_000:]), y[8_000:]):.4f}, variance {y[8_000:].var():.4f}")

"""A 1000-64-1 regression on generated data. `python examples/mlp.py`, or `plesio run --strategy sync examples/mlp.py`."""

import torch
from torch import nn

import plesio

torch.manual_seed(0)
x = torch.randn(8192, 1000)
y = torch.tanh(x[:, :8].sum(1, keepdim=True))
model = nn.Sequential(nn.Linear(1000, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x[:1024]), y[:1024]).item())
for unit in run.units(len(x), 32, epochs=4):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples])
    loss.backward()
    optimizer.step()
    learner.step(tokens=len(unit), loss=loss.item())
if run.first:
    print(f"mean squared error {nn.functional.mse_loss(model(x), y).item():.4f}")

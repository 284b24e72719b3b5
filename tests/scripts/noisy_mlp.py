"""A regression whose held-out loss falls slowly enough that two runs can be compared at equal committed tokens."""

import time

import torch
from torch import nn

import plesio

torch.manual_seed(0)
generator = torch.Generator().manual_seed(1)
x = torch.randn(4096, 64, generator=generator)
y = torch.tanh(x[:, :4].sum(1, keepdim=True)) + 0.5 * torch.randn(4096, 1, generator=generator)
x_held = torch.randn(2048, 64, generator=generator)
y_held = torch.tanh(x_held[:, :4].sum(1, keepdim=True)) + 0.5 * torch.randn(2048, 1, generator=generator)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x_held), y_held).item())
for unit in run.units(len(x), 16, epochs=12):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples])
    loss.backward()
    optimizer.step()
    time.sleep(0.004)  # a paced step: demand of all learners together stays below the machine
    learner.step(tokens=len(unit), loss=loss.item())

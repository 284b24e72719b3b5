"""A script of known length: 1,024 units of a step of 20 ms at least, so that there is time to do something to it."""

import time

import torch
from torch import nn

import plesio

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(2048, 4)
y = x.sum(1, keepdim=True)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x), y).item())
for unit in run.units(2048, 8, epochs=4):
    time.sleep(0.02)
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples])
    loss.backward()
    optimizer.step()
    learner.step(tokens=len(unit), loss=loss.item())

"""A loop of the script's own, without run.units; each learner takes a different number of steps."""

import os

import torch
from torch import nn

import plesio

torch.manual_seed(0)
x = torch.randn(256, 4)
y = x.sum(1, keepdim=True)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x), y).item())
for _ in range(30 + int(os.environ.get("PLESIO_NAME", "learner-0")[-1])):
    chosen = torch.randint(0, 256, (8,))
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[chosen]), y[chosen]).backward()
    optimizer.step()
    learner.step(tokens=8)

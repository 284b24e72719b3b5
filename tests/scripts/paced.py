"""A model of 130,000 parameters whose steps take a while: for slow links. argv: seconds a step."""

import sys
import time

import torch
from torch import nn

import plesio

torch.manual_seed(0)
x = torch.randn(4096, 32)
y = torch.sin(x.sum(1, keepdim=True))
model = nn.Sequential(nn.Linear(32, 3800), nn.Tanh(), nn.Linear(3800, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x), y).item())
for unit in run.units(4096, 4):
    time.sleep(float(sys.argv[1]))
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples]).backward()
    optimizer.step()
    learner.step(tokens=len(unit))

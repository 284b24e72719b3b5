"""The smallest whole script: 32 units of 8 samples, two epochs. Slow as long as a file `hold` lies in its folder."""

import time
from pathlib import Path

import torch
from torch import nn

import plesio

WIDTH = 8
torch.manual_seed(0)
x = torch.randn(256, 4)
y = x.sum(1, keepdim=True)
model = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x), y).item())
for unit in run.units(256, 8, epochs=2):
    time.sleep(0.1 if Path("hold").exists() else 0.0)
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples])
    loss.backward()
    optimizer.step()
    learner.step(tokens=len(unit), loss=loss.item())

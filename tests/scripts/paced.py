"""A model whose steps take a while: for slow links. argv: seconds a step, its width (34 parameters each), and a file

to wait for before the first step.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn

import plesio

torch.manual_seed(0)
x = torch.randn(4096, 32)
y = torch.sin(x.sum(1, keepdim=True))
width = int(sys.argv[2]) if len(sys.argv) > 2 else 3800
model = nn.Sequential(nn.Linear(32, width), nn.Tanh(), nn.Linear(width, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x[:256]), y[:256]).item())
while len(sys.argv) > 3 and not Path(sys.argv[3]).exists():
    time.sleep(0.05)
for unit in run.units(4096, 4):
    time.sleep(float(sys.argv[1]))
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples]).backward()
    optimizer.step()
    learner.step(tokens=len(unit))

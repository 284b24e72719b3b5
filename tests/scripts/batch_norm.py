"""A model with batch norm, on data far from zero; each learner leaves its final state in the run's folder."""

import os

import torch
from safetensors.torch import save_file
from torch import nn

import plesio

torch.manual_seed(0)
x = 3 + 2 * torch.randn(256, 4)
y = x.sum(1, keepdim=True)
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.mse_loss(m(x), y).item())
for unit in run.units(256, 8, epochs=3):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[unit.samples]), y[unit.samples]).backward()
    optimizer.step()
    learner.step(tokens=len(unit))
if "PLESIO_RUN_DIR" in os.environ:
    state = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(state, os.path.join(os.environ["PLESIO_RUN_DIR"], os.environ["PLESIO_NAME"] + ".safetensors"))

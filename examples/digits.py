"""A small CNN on scikit-learn's bundled digits. `python examples/digits.py`, or `plesio run examples/digits.py`."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import plesio

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
test = torch.arange(len(images)) % 5 == 0
x, y, x_test, y_test = images[~test], labels[~test], images[test], labels[test]

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
run = plesio.join()
learner = run.learner(model, optimizer, evaluate=lambda m: nn.functional.cross_entropy(m(x_test), y_test).item())
for unit in run.units(len(x), 32, epochs=10):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x[unit.samples]), y[unit.samples])
    loss.backward()
    optimizer.step()
    learner.step(tokens=len(unit), loss=loss.item())
if run.first:
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == y_test).float().mean().item()
    print(f"accuracy on held-out digits {accuracy:.3f}")

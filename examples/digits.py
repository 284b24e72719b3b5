"""A small convolutional network on scikit-learn's bundled 8 x 8 handwritten digits.

Alone:              python examples/digits.py
On three learners:  plesio run --learners 3 examples/digits.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

import plesio


def build_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),  # (batch, 32, 4, 4)
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, torch.tensor(labels), test_size=0.2, stratify=labels, random_state=0
    )

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        return cross_entropy(model(test_x), test_y).item()

    run = plesio.join()
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    learner = run.learner(model, optimizer, evaluate=evaluate)
    for unit in run.units(len(train_x), 32, epochs=10):
        optimizer.zero_grad()
        loss = cross_entropy(model(train_x[unit.samples]), train_y[unit.samples])
        loss.backward()
        optimizer.step()
        learner.step(tokens=len(unit.samples), loss=loss.item())

    if run.first:
        with torch.no_grad():
            accuracy = (model(test_x).argmax(1) == test_y).float().mean()
        print(f"test accuracy: {accuracy:.1%}")


if __name__ == "__main__":
    main()

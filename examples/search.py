"""A search for hyper-parameters and architecture of a CNN on the digits; bad trials are stopped early.

Successive halving (Jamieson & Talwalkar 2016): 18 trials train for a little, the better third goes on from where it was for
three times as long, and so on. A trial's state travels as its result, so that any worker goes on with it.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import plesio

TRIALS, FIRST_STEPS, KEEP = 18, 15, 3


def data() -> tuple[Tensor, Tensor]:
    """x: (n, 1, 8, 8), y: (n,). The last 360 are held out."""
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16.0, torch.tensor(digits.target)


def build(channels: int, depth: int) -> nn.Module:
    """depth: of 3x3 convolutions."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(channels if i else 1, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels * 16, 10))


def train(trial: dict, state: dict, begin: int, end: int) -> tuple[float, dict]:
    """Steps begin to end of a trial. Returns (accuracy on what was held out, the model's state)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = data()
    model = build(trial["channels"], trial["depth"])
    if state:
        model.load_state_dict(state)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=0.9)
    for step in range(begin, end):
        chosen = torch.randint(0, len(x) - 360, (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    with torch.no_grad():
        right = (model(x[-360:]).argmax(-1) == y[-360:]).float().mean().item()
    return right, dict(model.state_dict())


if __name__ == "__main__":
    trials = [
        {"channels": channels, "depth": depth, "lr": lr}
        for channels in (4, 16) for depth in (1, 2, 3) for lr in (1e-3, 1e-2, 1e-1)
    ]  # fmt: skip
    alive: list[tuple[dict, dict]] = [(trial, {}) for trial in trials]
    begin, steps, spent = 0, FIRST_STEPS, 0
    with plesio.connect() as client:
        while True:
            futures = [client.submit(train, trial, state, begin, begin + steps) for trial, state in alive]
            found = list(zip(alive, client.gather(futures), strict=True))
            found.sort(key=lambda each: -each[1][0])
            spent += steps * len(alive)
            print(f"{len(alive)} trials after {begin + steps} steps: the best has {found[0][1][0]:.1%}, {found[0][0][0]}")
            if len(alive) == 1:
                break
            alive = [(trial, state) for (trial, _), (_, state) in found[: max(1, len(alive) // KEEP)]]
            begin, steps = begin + steps, steps * KEEP
    everything, best = (begin + steps) * len(trials), found[0][1][0]
    print(f"{spent} steps instead of {everything}; the best of {len(trials)} trials has {best:.0%}")

"""One rank: small models under DDP, a codec each, and what came of it. python ddp.py RANK RANKS STORE OUT CODEC..."""

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from plesio.training import ddp_hook

STEPS = 40


class Net(nn.Module):
    """Its layers are made in another order than they are used in, so that DDP's first buckets are not its later ones."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 3)
        self.first = nn.Linear(20, 64)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        return self.last(self.middle(hidden.view(-1, 4, 4, 4)).flatten(1).tanh())


class Watch:
    """A hook around a hook: sums of what went in and came out, and which parameters a step's buckets had."""

    def __init__(self, hook: Any, names: dict[Tensor, str]) -> None:
        self.hook, self.names = hook, names
        self.went: dict[str, Tensor] = {}
        self.came: dict[str, Tensor] = {}
        self.buckets: list[list[str]] = []

    def __call__(self, state: Any, bucket: Any) -> Any:
        names = [self.names[each] for each in bucket.parameters()]
        self.buckets.append(names)
        gradients = bucket.gradients()
        self.add(self.went, names, gradients)

        def after(done: Any) -> Tensor:
            buffer: Tensor = done.value()
            self.add(self.came, names, gradients)
            return buffer

        return self.hook(state, bucket).then(after)

    def add(self, sums: dict[str, Tensor], names: list[str], gradients: list[Tensor]) -> None:
        for name, gradient in zip(names, gradients, strict=True):
            sums[name] = sums.get(name, 0) + gradient.double()


def net() -> DistributedDataParallel:
    torch.manual_seed(1)
    return DistributedDataParallel(Net(), bucket_cap_mb=0.001)


def watched_net(codec: str) -> tuple[DistributedDataParallel, Watch, Any]:
    """(a model, its watch, the hook's own object)"""
    model, hook = net(), ddp_hook(codec)
    watch = Watch(hook, {each: name for name, each in model.named_parameters()})

    def watched(state, bucket):  # type: ignore[no-untyped-def]
        return watch(state, bucket)

    model.register_comm_hook(None, watched)
    return model, watch, hook


def batch(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Of every rank another one."""
    draw = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(32, 20, generator=draw)
    return x, x[:, :3].tanh() - x[:, 3:6]


def stepped(model: nn.Module, rank: int, step: int, spoiled: bool = False) -> float:
    """The loss; gradients are there then."""
    x, y = batch(step, rank)
    model.zero_grad()
    loss = (model(x) - y).square().mean()
    (loss * torch.nan if spoiled else loss).backward()
    return loss.item()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def trained(codec: str, rank: int) -> dict[str, Any]:
    """The record of one codec."""
    model, watch, own = watched_net(codec)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(STEPS):
        losses.append(stepped(model, rank, step))
        optimizer.step()
    parameters = {name: each.detach().clone() for name, each in model.named_parameters()}
    keeps = {name: own.states.get(each) for name, each in model.named_parameters()}
    residuals = {name: state.residual.clone() for name, state in keeps.items() if hasattr(state, "residual")}
    record = {
        "losses": losses, "parameters": parameters, "residuals": residuals, "went": dict(watch.went),
        "came": dict(watch.came), "buckets": list(watch.buckets), "steps": STEPS,
    }  # fmt: skip
    stepped(model, rank, STEPS, spoiled=rank == 1)
    record["spoiled"] = gradients(model)
    record["kept"] = all(own.states.get(each) is keeps[name] for name, each in model.named_parameters())
    stepped(model, rank, STEPS + 1)
    return {**record, "next": gradients(model)}


def furthest_from_ddp(rank: int) -> float:
    """Of the gradients of `none` from those of DDP itself, relative to the largest, over some steps."""
    plain, ours = net(), net()
    ours.register_comm_hook(None, ddp_hook("none"))
    worst = 0.0
    for step in range(6):
        for model in (plain, ours):
            stepped(model, rank, step)
        for name, expected in gradients(plain).items():
            off = float((gradients(ours)[name] - expected).abs().max() / expected.abs().max())
            worst = max(worst, off)
        with torch.no_grad():
            for left, right in zip(plain.parameters(), ours.parameters(), strict=True):
                left -= 0.1 * left.grad  # type: ignore[operator]
                right.copy_(left)
    return worst


def main() -> None:
    rank, ranks, store, out, *codecs = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(ranks))
    record: dict[str, Any] = {codec: trained(codec, int(rank)) for codec in codecs}
    record["off"] = furthest_from_ddp(int(rank))
    torch.save(record, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

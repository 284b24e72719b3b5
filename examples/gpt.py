"""A byte-level GPT of about 3M parameters on the sources of this machine's Python standard library.

Alone: `python examples/gpt.py`. With three learners: `plesio run --learners 3 --until-tokens 700000 examples/gpt.py`.
"""

import argparse
import math
import sysconfig
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import plesio

MAX_BYTES = 8_000_000


def read_library() -> tuple[np.ndarray, np.ndarray]:
    """(training bytes, held-out bytes), split by a hash of each file's path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    total = 0
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or total > MAX_BYTES:
            continue
        text = path.read_bytes()
        total += len(text)
        held_out = zlib.crc32(path.relative_to(root).as_posix().encode()) % 20 == 0
        parts[held_out].append(text)
    train, held = (np.frombuffer(b"".join(p), dtype=np.uint8) for p in parts)
    return train, held


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, layers: int, width: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, max(1, width // 64)) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:  # (batch, time) -> (batch, time, 256)
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def windows(data: np.ndarray, which: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, each (len(which), context)."""
    rows = np.stack([data[i * context : i * context + context + 1] for i in which]).astype(np.int64)
    both = torch.from_numpy(rows)
    return both[:, :-1], both[:, 1:]


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def bigram_baseline(train: np.ndarray, x: Tensor, y: Tensor) -> float:
    """Nats per byte of add-one-smoothed byte pairs, on the held-out windows."""
    pairs = train[:-1].astype(np.int64) * 256 + train[1:]
    counts = np.bincount(pairs, minlength=65536).reshape(256, 256) + 1.0
    log_p = np.log(counts / counts.sum(1, keepdims=True))
    return float(-log_p[x.numpy(), y.numpy()].mean())


@torch.no_grad()
def write(model: GPT, start: bytes, count: int) -> str:
    ids = torch.tensor([list(start)])
    for _ in range(count):
        logits = model(ids[:, -model.context :])[0, -1] / 0.8
        ids = torch.cat([ids, torch.multinomial(logits.softmax(0), 1)[None]], 1)
    return bytes(ids[0].tolist()).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--max-samples", type=int, default=10**9)
    parser.add_argument("--generate", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    train, held = read_library()
    n_held = (len(held) - 1) // args.context
    x_held, y_held = windows(held, np.linspace(0, n_held - 1, min(32, n_held)).astype(int), args.context)
    model = GPT(args.layers, args.width, args.context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    run = plesio.join()
    learner = run.learner(model, optimizer, evaluate=lambda m: loss_of(m, x_held, y_held).item())
    if run.first:
        parameters = sum(p.numel() for p in model.parameters())
        bigram = bigram_baseline(train, x_held, y_held)
        print(f"{parameters / 1e6:.1f}M parameters; {len(train)} bytes; bigram baseline {bigram:.3f} nats", flush=True)
    n_samples = min(args.max_samples, (len(train) - 1) // args.context)
    for unit in run.units(n_samples, args.batch, epochs=args.epochs):
        x, y = windows(train, unit.samples, args.context)
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        learner.step(tokens=x.numel(), loss=loss.item())
        if run.alone and unit.index % 50 == 0:
            print(f"step {unit.index}: loss {loss.item():.3f}", flush=True)
    if run.first:
        with torch.no_grad():
            print(f"held-out loss {loss_of(model, x_held, y_held).item():.3f} nats; {math.log(256):.2f} is chance")
        if args.generate:
            for line in write(model, b"def ", args.generate).splitlines():
                print("sample|", line)


if __name__ == "__main__":
    main()

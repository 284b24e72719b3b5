"""A byte-level GPT of 3.2M parameters that learns to write Python from the standard library of this machine.

Alone:              python examples/gpt.py --max-samples 2400
On three learners:  plesio run --learners 3 examples/gpt.py

Nothing is downloaded. Every machine must have the same Python version: the ledger
deals sample numbers, not bytes.
"""

import argparse
import sysconfig
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import plesio

CORPUS_BYTES = 8_000_000
HELD_OUT_WINDOWS = 32
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="windows in one optimizer step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=256, help="a multiple of 4, the number of heads")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=128, help="bytes the model looks back on")
    parser.add_argument("--max-samples", type=int, help="train on the first N windows only")
    parser.add_argument("--generate", type=int, default=300, help="bytes to write at the end")
    return parser.parse_args()


def read_corpus() -> tuple[np.ndarray, np.ndarray]:
    """The library's sources as (training bytes, held-out bytes): one file in 20 is held out, by its path."""
    library = Path(sysconfig.get_paths()["stdlib"])
    train, held_out, size_bytes = [], [], 0
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if SKIPPED_FOLDERS.isdisjoint(name.parts) and size_bytes < CORPUS_BYTES:
            text = path.read_bytes()[: CORPUS_BYTES - size_bytes]
            size_bytes += len(text)
            (train if zlib.crc32(name.as_posix().encode()) % 20 else held_out).append(text)
    return np.frombuffer(b"".join(train), np.uint8), np.frombuffer(b"".join(held_out), np.uint8)


def windows(text: np.ndarray, samples: np.ndarray, context: int) -> Tensor:
    """Sample i is the context + 1 bytes from i * context on; returns (samples, context + 1)."""
    return torch.from_numpy(text[samples[:, None] * context + np.arange(context + 1)].astype(np.int64))


def bigram_nats(train: np.ndarray, held_out: Tensor) -> float:
    """What guessing each byte from the one before it costs: the loss that a real model must beat."""
    pairs = train[:-1].astype(np.int64) * 256 + train[1:]
    counts = 1.0 + np.bincount(pairs, minlength=256 * 256).reshape(256, 256)  # add one: no pair is impossible
    nats = -np.log(counts / counts.sum(1, keepdims=True))
    return float(nats[held_out[:, :-1], held_out[:, 1:]].mean())


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width / heads)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, width: int, layers: int, context: int):
        super().__init__()
        self.context = context
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for table in (self.bytes, self.places):
            nn.init.normal_(table.weight, std=0.02)  # the head is tied: large rows start overconfident

    def forward(self, text: Tensor) -> Tensor:  # (batch, time) -> (batch, time, 256)
        x = self.bytes(text) + self.places.weight[: text.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.bytes.weight)


def nats_per_byte(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def write(model: GPT, n_bytes: int, seed: int, prompt: bytes = b"def ", temperature: float = 0.8) -> str:
    text, dice = torch.tensor([list(prompt)]), torch.Generator().manual_seed(seed)
    for _ in range(n_bytes):
        logits = model(text[:, -model.context :])[:, -1]
        text = torch.cat([text, torch.multinomial((logits / temperature).softmax(-1), 1, generator=dice)], 1)
    return bytes(text[0].tolist()).decode(errors="replace")


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    run = plesio.join()

    train, held_out_text = read_corpus()
    n_samples = min((len(train) - 1) // args.context, args.max_samples or len(train))
    spread = np.linspace(0, (len(held_out_text) - 1) // args.context - 1, HELD_OUT_WINDOWS).astype(np.int64)
    held_out = windows(held_out_text, spread, args.context)
    bigram = bigram_nats(train, held_out)
    if run.first:
        print(f"bigram baseline: {bigram:.3f} nats per byte", flush=True)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        return nats_per_byte(model, held_out).item()

    model = GPT(args.width, args.layers, args.context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    learner = run.learner(model, optimizer, evaluate=evaluate)
    for unit in run.units(n_samples, args.batch, epochs=args.epochs):
        batch = windows(train, unit.samples, args.context)
        optimizer.zero_grad()
        loss = nats_per_byte(model, batch)
        loss.backward()
        optimizer.step()
        learner.step(tokens=len(batch) * args.context, loss=loss.item())

    if run.first:
        print(f"held out: {evaluate(model):.3f} nats per byte (bigram {bigram:.3f})")
        for line in write(model, args.generate, args.seed).splitlines():
            print(f"sample| {line}")


if __name__ == "__main__":
    main()

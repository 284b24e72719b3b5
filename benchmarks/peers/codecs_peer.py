"""One peer's quantisers, timed in its own environment: codecs_peer.py PEER VALUES ROUNDS. A line of JSON on stdout.

Each encodes and decodes the same normally distributed values as plesio's rows: {name: {"encode_s", "decode_s", "bytes",
"rel_error"}}, medians over the rounds. One thread.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import environment  # noqa: E402  beside this file

TORCH = "torch==2.13.0"
PINS = {
    "torch": (TORCH, "numpy"),
    "bitsandbytes": (TORCH, "numpy", "bitsandbytes==0.50.2"),
    "hivemind": (TORCH, "numpy<2", "hivemind==1.1.12"),
}
Way = tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], int]]  # encode, decode, bytes of what was encoded


def torch_ways() -> dict[str, Way]:
    """Rows of 256 with a scale each, in 8 bits, and the largest 1/64 of all."""
    import torch

    def encode(x: Any) -> Any:
        rows = x.view(-1, 256)
        scales = rows.abs().amax(1) / 127
        return torch.quantize_per_channel(rows, scales, torch.zeros(len(rows)), 0, torch.qint8)

    def largest(x: Any) -> Any:
        flat = x.view(-1)
        places = flat.abs().topk(len(flat) // 64).indices
        return places, flat[places], len(flat)

    def spread(found: Any) -> Any:
        places, values, count = found
        return torch.zeros(count).index_copy_(0, places, values)

    return {
        "quantize_per_channel": (encode, lambda q: q.dequantize().view(-1), lambda q: q.numel() + 4 * q.shape[0]),
        "topk 1/64": (largest, spread, lambda found: 12 * len(found[1])),
    }


def bitsandbytes_ways() -> dict[str, Way]:
    """Its nonlinear 8 bits, and NF4."""
    from bitsandbytes import functional as f

    def size_bytes(found: Any) -> int:
        return int(found[0].numel() * found[0].itemsize + 4 * found[1].absmax.numel())

    return {
        "blockwise 8 bit": (f.quantize_blockwise, lambda found: f.dequantize_blockwise(*found), size_bytes),
        "nf4": (
            lambda x: f.quantize_4bit(x, blocksize=64, quant_type="nf4"),
            lambda found: f.dequantize_4bit(*found),
            size_bytes,
        ),
    }


def hivemind_ways() -> dict[str, Way]:
    """Its 8 bits: uniform, and by quantiles."""
    from hivemind.compression import deserialize_torch_tensor, serialize_torch_tensor
    from hivemind.proto.runtime_pb2 import CompressionType

    def way(kind: Any) -> Way:
        return (
            lambda x: serialize_torch_tensor(x, kind),
            deserialize_torch_tensor,
            lambda message: len(message.SerializeToString()),
        )

    return {"uniform 8 bit": way(CompressionType.UNIFORM_8BIT), "quantile 8 bit": way(CompressionType.QUANTILE_8BIT)}


WAYS = {"torch": torch_ways, "bitsandbytes": bitsandbytes_ways, "hivemind": hivemind_ways}


def main() -> None:
    peer, values, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    environment.enter(environment.CACHE / f"codecs-{peer}", PINS[peer])
    import torch

    torch.set_num_threads(1)
    tensor = torch.randn(values, generator=torch.Generator().manual_seed(0))
    rows = {}
    for name, (encode, decode, size_bytes) in WAYS[peer]().items():
        took: dict[str, list[float]] = {"encode_s": [], "decode_s": []}
        for turn in range(rounds + 1):
            began_s = time.perf_counter()
            found = encode(tensor)
            encoded_s = time.perf_counter()
            back = decode(found)
            if turn:
                took["encode_s"].append(encoded_s - began_s)
                took["decode_s"].append(time.perf_counter() - encoded_s)
        error = float((back.view(-1).double() - tensor).square().sum() / tensor.double().square().sum())
        rows[name] = {key: statistics.median(found) for key, found in took.items()}
        rows[name] |= {"bytes": size_bytes(found), "rel_error": float(f"{error:.3g}")}
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

"""What `plesio bench codecs` and `plesio codecs` measure: speed beside that of memory, bytes and error."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plesio.cli.asking import print_json, show_rows
from plesio.codecs import decode, kernels, parse
from plesio.codecs.blocks import Blocks
from plesio.errors import UserError
from plesio.runtime.hostsettings import usable_cores

ALL = (
    "none", "bf16", "fp16", "int8", "int4", "int2", "nf4", "codebook(16)", "sign", "topk(1/64)", "topk(1/64)+int2",
    "randomk(1/64)", "powersgd(4)", "int8+zstd", "byrole()", "adaptive",
)  # fmt: skip
QUICK = 1 << 22  # values for the table
COLUMNS = ("codec", "bits", "rel_error", "encode_gbps", "decode_gbps", "encode_ratio", "decode_ratio", "what")
Row = dict[str, Any]


def bench(texts: list[str], values: int, threads: int, rounds: int, device: str, as_json: bool) -> None:
    """Prints a row for each codec."""
    codecs = [parse(text) for text in texts]  # all mistakes before the first measurement
    name = name_of(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = []
        for codec in codecs:
            if not as_json:
                print(f"plesio: measures {codec!r}", file=sys.stderr)
            rows.append(measure(codec, tensor_of(values).to(device), rounds))
    finally:
        torch.set_num_threads(before)
    if as_json:
        print_json({"values": values, "rounds": rounds, "cores": usable_cores(), "device": name, "rows": rows})
    else:
        show_rows("rows", rows, tuple(dict.fromkeys(key for row in rows for key in row)), False)


def name_of(device: str) -> str:
    """The machine's word for a device, or "cpu". Raises UserError where it is not there."""
    there = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    if device == "cpu":
        return device
    if device not in (*there, *(["cuda"] if there else [])):
        raise UserError(
            f"--device {device} is not there: torch {torch.__version__} has {', '.join(['cpu', *there])} here"
        )
    return torch.cuda.get_device_name(device)


def table(texts: list[str], as_json: bool) -> None:
    """Prints all codecs, measured quickly, and what each is."""
    rows = []
    for codec in [parse(text) for text in texts]:
        row = measure(codec, tensor_of(QUICK), 3)
        row["bits"] = round(row.pop("bytes_ratio") ** -1 * 32, 3)
        rows.append(row | {"what": described(codec)})
    show_rows("codecs", rows, COLUMNS, as_json)


def described(codec: Any) -> str:
    """The first line of its module, without its name."""
    first = (sys.modules[type(getattr(codec, "links", (codec,))[0]).__module__].__doc__ or "").splitlines()[0]
    return first.partition(": ")[2].rstrip(".")


def tensor_of(values: int) -> Tensor:
    """(rows, 1024) float32, normally distributed, the same each time."""
    return torch.randn(values // 1024, 1024, generator=torch.Generator().manual_seed(0))


def measure(codec: Any, tensor: Tensor, rounds: int) -> Row:
    """One row. Each round encodes, decodes and copies: limit_gbps is of bytes read and written by a copy of the tensor.

    gbps: likewise, of the tensor and the packet, which is in the host's memory also where the tensor is on a GPU.
    kernel_ratio: what a GPU's kernels reach without it. bytes_ratio: bytes of the tensor by those of the packet.
    """
    state, out, copied = codec.init(tensor), torch.zeros_like(tensor), torch.zeros_like(tensor)
    packet, state = codec.encode(tensor, state)  # loops are compiled, memory is there
    decode(packet, out)
    size_bytes, took = tensor.numel() * tensor.itemsize, [Clocked(tensor.device) for _ in range(5)]
    there = kernels_of(codec, tensor)
    for _ in range(rounds):
        del packet
        packet = took[0](lambda: codec.encode(tensor, state)[0])
        took[1](lambda: decode(packet, out))  # noqa: B023  called here
        took[2](lambda: copied.copy_(tensor))
        for clock, call in zip(took[3:], there, strict=False):
            clock(call)
    traffic_bytes = size_bytes + len(packet.payload)
    encode, decoding = (traffic_bytes / clock.median_s / 1e9 for clock in took[:2])
    limit = 2 * size_bytes / took[2].median_s / 1e9
    error = float((out.double() - tensor).square().sum() / tensor.double().square().sum())
    alone = [round(traffic_bytes / clock.median_s / 1e9 / limit, 3) for clock in took[3:] if clock.seconds]
    row = {
        "codec": repr(codec),
        "threads": torch.get_num_threads(),
        "encode_gbps": significant(encode),
        "decode_gbps": significant(decoding),
        "limit_gbps": significant(limit),
        "encode_ratio": significant(encode / limit),
        "decode_ratio": significant(decoding / limit),
        "bytes_ratio": round(size_bytes / len(packet.to_bytes()), 3),
        "rel_error": significant(error),
    }
    return row | dict(zip(("kernel_encode_ratio", "kernel_decode_ratio"), alone, strict=False))


def kernels_of(codec: Any, tensor: Tensor) -> tuple[Callable[[], Any], ...]:
    """What a codec runs on the tensor's device, each way, without what moves packets; nothing where it has no kernels."""
    found = kernels.on_device(tensor.device.type) if isinstance(codec, Blocks) else None
    if found is None:
        return ()
    flat, head = tensor.view(-1), torch.empty(codec.head_bytes, dtype=torch.uint8)
    codec.prepare(flat, head, None)
    between, levels = codec.between(head), codec.table(head.numpy().data)
    made, flag = found.room(codec, flat.numel(), flat.device), torch.zeros(1, dtype=torch.int32, device=flat.device)
    out, middles = torch.empty_like(flat), flag if between is None else between.to(flat.device)
    table = flag if levels is None else levels.to(flat.device)
    return (
        lambda: found.to_room(codec, flat, made, flag, middles),
        lambda: found.from_room(codec, made, out, None, table),
    )


def significant(number: float) -> float:
    """Three digits of it."""
    return float(f"{number:.3g}")


class Clocked:
    """Calls, and how long each took, until the device is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []

    def __call__(self, work: Callable[[], Any]) -> Any:
        self._wait()
        began_s = time.perf_counter()
        result = work()
        self._wait()
        self.seconds.append(time.perf_counter() - began_s)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def median_s(self) -> float:
        """Of all calls."""
        return statistics.median(self.seconds)

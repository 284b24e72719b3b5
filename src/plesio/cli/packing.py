"""What `plesio codecs --on`, `pack` and `unpack` do with safetensors files.

A packed file is a safetensors file, too: each tensor that a codec took is its packet, bytes, under the name it had, listed
in the metadata. So it needs no other reader to look into, and nothing of it is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plesio.cli.asking import print_json, show_rows
from plesio.codecs import Packet, decode, for_parameter, parse
from plesio.codecs.packets import FLOATS
from plesio.errors import CodecError, UserError

KEY = "plesio"  # of the metadata: {"codec": text, "packed": [names]}
WIDTH, HEIGHT = 64, 16  # of the drawing, in characters


def pack(file: Path, text: str, out: Path, as_json: bool) -> None:
    """Writes the packed file and says what it lost."""
    codec, packed, kept = parse(text), [], {}
    before = after = 0
    lost = energy = 0.0
    for name, tensor in tensors(file):
        before += tensor.numel() * tensor.itemsize
        if tensor.dtype not in FLOATS.values():
            kept[name] = tensor
            after += tensor.numel() * tensor.itemsize
            continue
        data, back = encoded(codec, name, tensor)
        lost, energy = lost + off(back, tensor), energy + off(tensor)
        kept[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        packed.append(name)
        after += len(data)
    with opened(file) as found:
        own = found.metadata() or {}
    write(out, kept, own | {KEY: json.dumps({"codec": repr(codec), "packed": packed})})
    told = {
        "file": str(out),
        "codec": repr(codec),
        "tensors": len(packed),
        "bytes": after,
        "ratio": round(before / after, 3) if after else 1.0,
        "rel_error": float(f"{lost / energy if energy else 0.0:.3g}"),
    }
    if as_json:
        print_json(told)
    else:
        print(f"{out}: {after:,} bytes, 1/{told['ratio']} of {before:,}; relative squared error {told['rel_error']}")


def unpack(file: Path, out: Path, as_json: bool) -> None:
    """Writes the tensors, as they are read."""
    with opened(file) as found:
        own = found.metadata() or {}
        told = own.pop(KEY, None)
        if told is None:
            raise UserError(f"{file} was not written by `plesio codecs pack`")
        packed = set(json.loads(told)["packed"])
        plain = {}
        for name in found.keys():  # noqa: SIM118  it is no dict
            tensor = found.get_tensor(name)
            if name in packed:
                try:
                    tensor = decode(Packet.from_bytes(tensor.numpy().data))
                except CodecError as error:
                    raise UserError(f"tensor {name!r} of {file} is damaged: {error}") from error
            plain[name] = tensor
    write(out, plain, own)
    if as_json:
        print_json({"file": str(out), "tensors": len(plain)})
    else:
        print(f"{out}: {len(plain)} tensors")


def compare(file: Path, texts: list[str], as_json: bool) -> None:
    """What each codec does to all float tensors of a file together: bits a value against error."""
    codecs = [parse(text) for text in texts]
    sums = [[0, 0.0] for _ in codecs]
    values, energy, count = 0, 0.0, 0
    for name, tensor in tensors(file):
        if tensor.dtype not in FLOATS.values() or not tensor.numel():
            continue
        values, energy, count = values + tensor.numel(), energy + off(tensor), count + 1
        for codec, row in zip(codecs, sums, strict=True):
            data, back = encoded(codec, name, tensor)
            row[0] += len(data)
            row[1] += off(back, tensor)
    if not values:
        raise UserError(f"{file} has no tensor of floats")
    rows: list[dict[str, Any]] = [
        {"codec": repr(codec), "bits": round(8 * size / values, 3), "rel_error": float(f"{lost / (energy or 1.0):.3g}")}
        for codec, (size, lost) in zip(codecs, sums, strict=True)
    ]
    rows.sort(key=lambda row: -row["bits"])
    show_rows("codecs", rows, ("codec", "bits", "rel_error"), as_json)
    if not as_json:
        print(f"\n{count} tensors, {values:,} values of {file}\n\n{drawn(rows)}")


def drawn(rows: list[dict[str, Any]]) -> str:
    """Bits a value, to the right, against the error, upwards; both in powers of ten."""
    from math import log10

    points = [(log10(row["bits"]), log10(max(row["rel_error"], 1e-8)), row["codec"]) for row in rows]
    lowest = [min(point[axis] for point in points) for axis in (0, 1)]
    spans = [max(point[axis] for point in points) - lowest[axis] or 1.0 for axis in (0, 1)]
    canvas = [[" "] * WIDTH for _ in range(HEIGHT)]
    for bits, error, name in points:
        across = round((bits - lowest[0]) / spans[0] * (WIDTH - 1))
        up = round((error - lowest[1]) / spans[1] * (HEIGHT - 1))
        line = canvas[HEIGHT - 1 - up]
        label = f"* {name}" if across + len(name) + 2 < WIDTH else f"{name} *"
        begin = across if label[0] == "*" else across - len(label) + 1
        if all(cell == " " for cell in line[max(begin, 0) : begin + len(label)]):
            line[max(begin, 0) : begin + len(label)] = label
        else:
            line[across] = "*"
    body = "\n".join("  | " + "".join(line).rstrip() for line in canvas)
    return f"  error\n{body}\n  +{'-' * WIDTH} bits a value"


def encoded(codec: Any, name: str, tensor: Tensor) -> tuple[bytes, Tensor]:
    """(packet, what it is read as). Raises UserError that names the tensor."""
    codec = for_parameter(codec, name, tensor.shape)
    try:
        data = codec.encode(tensor, codec.init(tensor))[0].to_bytes()
    except CodecError as error:
        raise UserError(f"tensor {name!r}: {error}") from error
    return data, decode(Packet.from_bytes(data))


def off(one: Tensor, other: Tensor | None = None) -> float:
    """The sum of squares of a tensor, or of a difference."""
    return float((one.double() if other is None else one.double() - other.double()).square().sum())


def tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """One after the other, so that memory holds one."""
    with opened(file) as found:
        for name in found.keys():  # noqa: SIM118  it is no dict
            yield name, found.get_tensor(name)


def opened(file: Path) -> Any:
    """A safetensors file. Raises UserError when it is none."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read as safetensors: {error}") from error


def write(out: Path, found: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Whole, or not at all. Raises UserError for a file that is there."""
    if out.exists():
        raise UserError(f"{out} exists; name another one with --out, or remove it")
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        save_file(found, partial, metadata=metadata)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)

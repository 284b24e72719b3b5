"""Compiles what codecs run on GPUs for one that need not be there, as calls of them would: prints {what: PTX} as JSON."""

from __future__ import annotations

import json
from types import SimpleNamespace

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from plesio.codecs import parse
from plesio.codecs.blocks import Blocks
from plesio.codecs.kernels import gpu

TEXTS = ("int8", "int4", "nf4", "sign")
H100 = SimpleNamespace(
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
)
found: dict[str, str] = {}


def compile_only(kernel: JITFunction, *arguments: object, grid: object, **options: object) -> None:
    made = run(kernel, *arguments, grid=grid, **{**options, "warmup": True})
    flat = arguments[2 if "decode" in kernel.__name__ else 0]
    found[f"{kernel.__name__} {text} {flat.dtype} {numel} {len(found)}"] = made.asm["ptx"]


driver.set_active(H100)
run, JITFunction.run = JITFunction.run, compile_only
for text in TEXTS:
    stage = parse(text)
    assert isinstance(stage, Blocks)
    head = torch.empty(0, dtype=torch.uint8)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for numel in (1, 70_000) if dtype == torch.float32 else (70_001,):
            flat = torch.zeros(numel, dtype=dtype)
            sent = torch.zeros(stage.payload_bytes(numel, dtype), dtype=torch.uint8)
            gpu.encode(stage, flat, sent, stage.between(head))
            for weight in (None, 0.5) if dtype == torch.float32 else (None,):
                levels = stage.levels(b"") if stage.rule == "levels" else None
                gpu.decode(stage, sent.numpy().data, 0, flat, weight, levels)
print(json.dumps(found))

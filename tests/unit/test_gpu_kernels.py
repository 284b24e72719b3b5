"""What codecs run on GPUs: on one where there is one, else interpreted; and what the compiler makes of it, without one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plesio.codecs import Codec, Packet, accumulate, decode, kernels, parse
from plesio.errors import CodecError
from plesio.testing.codeccontract import CHECKS, changed_bytes_are_refused_or_read, merging_is_adding, sent

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TEXTS = (
    "int8",
    "int8(3)",
    "int8(1)",
    "int8(8000)",
    "int4",
    "int4(24)",
    "nf4",
    "codebook(16)",
    "nf4(8)",
    "sign",
    "sign(40)",
)


@pytest.fixture(autouse=True)
def numpy_computes_as_gpus_do() -> Iterator[None]:
    """Without a word of NaN and Inf, which are refused afterwards."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """on_device(f, *arguments): called where all tensors are taken by the kernels."""
    from plesio.codecs.kernels import gpu

    def called(function: Callable[..., Any], *arguments: Any) -> Any:
        with monkeypatch.context() as during:
            during.setattr(kernels, "on_device", lambda kind: gpu)
            return function(*arguments)

    return called


def samples() -> Iterator[Tensor]:
    """Many values, and what is hard to round: ties, what a scale hardly holds or nothing holds, the largest."""
    normal = torch.randn(5_001, generator=torch.Generator().manual_seed(2))
    ties, large = (normal * 4).round(), normal / normal.abs().max() * torch.finfo(torch.float32).max
    yield from (normal, ties, normal * 1e-41, normal * 1e-37, normal**5, large, 0 * normal)
    yield from (normal[:1], normal[:8], normal[:4096], normal[::3], normal.half(), normal.bfloat16())
    yield normal.double() * 1e-30
    yield torch.where(torch.arange(8192) % 4000 == 0, 1e-45, 0.0)


@pytest.mark.parametrize("text", TEXTS)
def test_kernels_make_the_bytes_that_a_cpu_makes(text: str, on_device: Callable[..., Any]) -> None:
    for tensor in samples():
        made = on_device(sent, parse(text), tensor.to(DEVICE))
        assert made.to_bytes() == sent(parse(text), tensor).to_bytes(), (tensor.dtype, tensor[:9])


@pytest.mark.parametrize("text", TEXTS)
def test_kernels_read_the_bits_that_a_cpu_reads(text: str, on_device: Callable[..., Any]) -> None:
    for tensor in samples():
        packet = sent(parse(text), tensor)
        out = torch.full_like(tensor, 5.0, device=DEVICE, memory_format=torch.contiguous_format)
        assert torch.equal(bits(on_device(decode, packet, out)), bits(decode(packet)))
        mine, expected = (tensor.to(device, copy=True).contiguous() for device in (DEVICE, "cpu"))
        on_device(accumulate, packet, mine, -1.0)  # as feedback does
        accumulate(packet, expected, -1.0)
        assert torch.equal(bits(mine), bits(expected))


def bits(tensor: Tensor) -> Tensor:
    """So that a negative zero is not a zero."""
    return tensor.cpu().contiguous().view(torch.uint8)


@pytest.mark.parametrize("text", ["int8", "int4", "nf4", "sign"])
def test_codes_that_no_kernel_writes_are_read_as_a_cpu_reads_them(text: str, on_device: Callable[..., Any]) -> None:
    made = sent(parse(text), torch.ones(4096))
    codes = 4096 * parse(text).bits // 8  # type: ignore[attr-defined]
    payload = bytes(made.payload[:-codes]) + (bytes(range(256)) * 16)[:codes]
    packet = Packet(made.version, made.stages, made.dtype, made.shape, payload)
    assert torch.equal(bits(on_device(decode, packet, torch.empty(4096, device=DEVICE))), bits(decode(packet)))


@pytest.mark.parametrize("at", [0, 4_500, 5_000])
@pytest.mark.parametrize("text", TEXTS)
def test_kernels_refuse_what_is_not_finite_wherever_it_is(text: str, at: int, on_device: Callable[..., Any]) -> None:
    for bad in (float("nan"), -float("nan"), float("inf"), -float("inf"), 1e39):
        tensor = torch.ones(5_001, dtype=torch.float64, device=DEVICE)
        tensor[at] = bad
        for each in (tensor, tensor.float()):
            with pytest.raises(CodecError, match="cannot carry NaN, Inf"):
                on_device(sent, parse(text), each)


@pytest.mark.skipif(DEVICE != "cpu", reason="the contract's tensors are on the CPU: they are interpreted there")
@pytest.mark.parametrize("check", [c for c in CHECKS if c not in (changed_bytes_are_refused_or_read, merging_is_adding)])
def test_with_kernels_a_codec_keeps_what_it_promises(
    check: Callable[[Codec], None], on_device: Callable[..., Any]
) -> None:
    on_device(check, parse("int4"))


def test_blocks_too_large_for_a_kernel_are_left_to_torch(on_device: Callable[..., Any]) -> None:
    tensor = torch.randn(40_000, generator=torch.Generator().manual_seed(2))
    assert on_device(sent, parse("int4(16384)"), tensor).to_bytes() == sent(parse("int4(16384)"), tensor).to_bytes()


def test_without_triton_it_is_said_which_path_codecs_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plesio.codecs.kernels.gpu", None)
    monkeypatch.delattr(kernels, "gpu", raising=False)
    assert kernels.on_device.__wrapped__("cuda") is None
    assert "slower path on GPUs" in capsys.readouterr().err
    assert kernels.on_device.__wrapped__("cpu") is None and not capsys.readouterr().err


@pytest.mark.slow  # half a minute
def test_nothing_is_compiled_that_rounds_another_way_than_a_cpu(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "gpu_code.py"
    plain = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    plain["TRITON_CACHE_DIR"] = str(tmp_path)
    said = subprocess.run([sys.executable, script], check=True, timeout=170, env=plain, capture_output=True).stdout
    made: dict[str, str] = json.loads(said)
    assert {what.split()[0] for what in made} == {"encode_blocks", "decode_blocks"} and len(made) == 40
    for what, code in made.items():
        used = set(re.findall(r"\b(?:add|sub|mul|div|fma|mad|rcp|neg)\.[a-z.]*f(?:32|64)\b", code))
        assert used and used <= {f"{o}.rn.f{n}" for o in ("add", "sub", "mul", "div") for n in (32, 64)}, what
        assert ".ftz" not in code and ".approx" not in code, what
        if "encode" in what:
            assert "div.rn" in code, what

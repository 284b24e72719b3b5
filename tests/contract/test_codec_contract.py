"""What every registered codec promises: a registry line buys these tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plesio import registry
from plesio.codecs import Codec, Packet, decode, kernels, parse
from plesio.codecs.blocks import TINY
from plesio.testing.codeccontract import CHECKS, DTYPES, sent, tensors

NAMES = sorted(registry.CODECS)
TEXTS = [
    *NAMES, "int8(3)", "int4(32)", "bf16+int8", "ef(int8)", "ef(bf16, 0.5)", "topk(1/64)+int2", "ef(topk(1/16)+int4(32))",
    "powersgd(2)+int8", "randomk(1/8)+nf4", "codebook+int8", "int2+sign", "sr(int8)", "sr(int4(32), 7)", "sr(int2)",
    "sr(nf4)", "sr(codebook)", "sr(sign, 1)", "ef(sr(sign, 1))", "topk(1/64)+sr(int4)", "sr(int8)+sr(sign)",
    "sr(bf16)", "sr(fp16)", "int8+zstd", "topk(1/16)+int2+zstd(3)", "ef(none+zstd)", "byrole()",
    "byrole(norms=none, rest=powersgd(2))", "adaptive", "ef(adaptive(1))", "sr(int4)+zstd",
]  # fmt: skip
COMPILED = (  # what has loops of its own
    "int8", "int8(48)", "int4", "int4(32)", "nf4", "codebook(16)", "sign", "topk(1/64)", "topk(1/2)+int8", "int2",
    "sr(int8)", "sr(int8(48), 3)", "sr(int4(32))", "sr(nf4)", "sr(codebook)", "sr(sign)", "ef(sr(sign))", "sr(int2)",
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("text", TEXTS)
def test_it_keeps_what_codecs_promise(text: str, check: Callable[[Codec], None]) -> None:
    check(parse(text))


def bound(text: str, tensor: Tensor) -> float:
    """The largest error that the codec may make on any value of the tensor."""
    top = float(tensor.double().abs().max()) if tensor.numel() else 0.0
    own = torch.finfo(tensor.dtype)
    own_ulp = max(top * own.eps, own.smallest_normal * own.eps) / 2
    casts = {"none": 0.0, "bf16": top * 2**-8 + 2.0**-134, "fp16": top * 2**-11 + 2**-25}
    if text in casts:
        return casts[text]
    levels = 7 if "int4" in text else 127
    scale = max(top / levels, TINY)
    return scale / 2 * (1 + 2**-7) + own_ulp + (top * 2**-8 if "bf16" in text else 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", ["none", "bf16", "fp16", "int8", "int8(3)", "int4", "int4(32)", "bf16+int8"])
def test_no_value_is_off_by_more_than_half_a_step(text: str, dtype: torch.dtype) -> None:
    for what, tensor in tensors(dtype):
        back = decode(sent(parse(text), tensor))
        worst = float((back.double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        assert worst <= bound(text, tensor), what


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", ["none", "bf16", "fp16", "int8", "int8(3)", "int4", "nf4", "sign", "topk"])
def test_encoding_what_was_decoded_loses_nothing_more(text: str, dtype: torch.dtype) -> None:
    for what, tensor in tensors(dtype):
        once = decode(sent(parse(text), tensor))
        assert torch.equal(decode(sent(parse(text), once)), once), what


@pytest.mark.parametrize("text", COMPILED)
def test_compiled_loops_make_the_bytes_that_torch_makes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.on_cpu("blocks") is not None, "numba is installed"
    draw = torch.Generator().manual_seed(2)
    normal = torch.randn(70_001, generator=draw)
    ties, tiny = (normal * 4).round(), normal * 1e-41
    least = torch.where(torch.arange(8192) % 4000 == 0, 1e-45, 0.0)  # one in a block
    for tensor in (normal, normal[:4096], ties, normal.double() * 1e-30, normal.half(), tiny, least, normal**5, 0 * normal):
        packet = sent(parse(text), tensor)
        value, total = decode(packet), torch.ones(len(tensor))
        blocks_of = {"read": value, "bytes": packet.to_bytes()}
        with monkeypatch.context() as without:
            without.setattr(kernels, "on_cpu", lambda name: None)
            assert sent(parse(text), tensor).to_bytes() == blocks_of["bytes"]
            assert torch.equal(decode(packet), value)
            expected = total + 0.5 * value.float()
        if tensor.dtype == torch.float32:
            from plesio.codecs import accumulate

            accumulate(packet, total, 0.5)
            torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("text", ["int8", "int8(48)", "int8(100)", "int4", "int4(32)", "int4(24)", "nf4", "sign", "int2"])
@pytest.mark.parametrize("first", [16, 1])
def test_what_is_written_past_the_caches_is_the_same(text: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, fars = kernels.on_cpu("blocks"), []
    packet = sent(parse(text), torch.randn(70_001, generator=torch.Generator().manual_seed(3)))
    near, room = decode(packet), torch.full((70_050,), 5.0)
    for name in ("decode_8", "decode_4"):
        loop = getattr(compiled, name)
        monkeypatch.setattr(compiled, name, lambda add, far, loop=loop: fars.append(far) or loop(add, far))
    monkeypatch.setattr(compiled, "FAR", 1 << 14)
    out = room[first : first + 70_001]
    assert torch.equal(decode(packet, out), near)
    assert bool((room[:first] == 5).all()) and bool((room[first + 70_001 :] == 5).all())
    assert any(fars) == (first == 16 and text in ("int8", "int8(48)", "int4", "int4(32)"))


def test_where_nothing_can_be_written_loops_are_compiled_for_this_process_alone() -> None:
    code = (
        "import numba.core.caching as caching; caching.CacheImpl._locator_classes.clear(); import torch; "
        "from plesio.codecs import decode, parse; x = torch.full((5000,), 127.0); "
        "assert torch.equal(decode(parse('int8').encode(x)[0]), x); "
        "from plesio.codecs.kernels import compiling; assert compiling.shelf(compiling.shelf) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_was_compiled_before_needs_no_compiler(tmp_path: Path) -> None:
    """And is compiled again where the file that all loops share is another one."""
    code = (
        "import sys, numpy as np; from plesio.codecs.kernels import chance, compiling; compiling.SHARED = None; "
        "tops = np.zeros(2, np.int32); assert chance.tops(np.ones((2, 8), np.float32), tops) == -1 and tops.all(); "
        "print('numba.np.arraymath' in sys.modules, *chance.tops.stats.cache_hits.values())"
    )
    told = []
    for stamp in ("[1, 2]", "[1, 2]", "[1, 3]"):
        words = [sys.executable, "-c", code.replace("None", stamp)]
        found = subprocess.run(
            words, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, check=True, timeout=120
        )
        told.append(found.stdout.decode().split())
    assert told == [["True"], ["False", "1"], ["True"]]


ERRORS = {  # |x - Q|^2 / |x|^2 of normal values, and of Student's t with 3 degrees
    "int8": (5e-5, 4e-4),
    "int4(32)": (0.0095, 0.0215),
    "int4(128)": (0.0139, 0.053),
    "nf4": (0.0085, 0.0155),
    "codebook(16)": (0.0080, 0.0122),
    "sign": (0.364, 0.68),
    "int2": (0.12, 0.32),
    "topk(1/64)": (0.885, 0.62),
    "sr(int4)": (0.028, 0.114),  # twice as much as to the nearest
    "sr(nf4)": (0.0175, 0.033),
}


@pytest.mark.parametrize("text", ERRORS)
def test_it_loses_no_more_than_the_field_s_best(text: str) -> None:
    torch.manual_seed(1)
    normal, heavy = torch.randn(1 << 20), torch.distributions.StudentT(3.0).sample((1 << 20,))
    for tensor, most in zip((normal, heavy), ERRORS[text], strict=True):
        back = decode(sent(parse(text), tensor))
        assert float((back - tensor).square().sum() / tensor.square().sum()) <= most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_int8_carries_the_largest_value_of_a_dtype(dtype: torch.dtype) -> None:
    tensor = torch.tensor([torch.finfo(dtype).max, 0.0, -1.0], dtype=dtype)
    back = decode(Packet.from_bytes(sent(parse("int8"), tensor).to_bytes()))
    torch.testing.assert_close(back, tensor, rtol=2**-15, atol=float(tensor[0]) / 254)


@pytest.mark.parametrize("name", NAMES)
def test_a_packet_bears_the_registered_name(name: str) -> None:
    assert sent(parse(name), torch.ones(2)).stages[0][0] == name

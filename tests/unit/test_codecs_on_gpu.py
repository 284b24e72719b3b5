"""Codecs on a CUDA device: the bytes of the CPU, whichever path makes them. `make test-gpu`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from plesio.codecs import accumulate, decode, kernels, parse
from plesio.errors import CodecError
from plesio.testing.codeccontract import DTYPES, sent, tensors

pytestmark = pytest.mark.gpu

TEXTS = (
    "none", "bf16", "fp16", "int8", "int8(3)", "int4", "int4(32)", "int2", "nf4", "codebook(16)", "sign", "sign(40)",
    "topk(1/64)", "topk(1/2)+int8", "topk(1/64)+int2", "randomk(1/64)", "bf16+int8", "ef(int4)", "ef(topk(1/16)+int4)",
)  # fmt: skip


@pytest.fixture(params=["by kernels", "in torch"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels, and what is there without them."""
    assert torch.cuda.is_available(), "these tests need a CUDA device, and a torch that knows of it"
    if request.param == "in torch":
        monkeypatch.setattr(kernels, "on_device", lambda kind: None)
    else:
        assert kernels.on_device("cuda") is not None, "triton is installed"


def samples(dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Those of the contract, a large one, and what is hard to round."""
    yield from tensors(dtype)
    normal = torch.randn(3_000_001, generator=torch.Generator().manual_seed(2))
    yield "large", normal.to(dtype)
    yield "aligned", normal[: 1 << 21].to(dtype)
    yield "ties", (normal[:300_000] * 4).round().to(dtype)
    if dtype == torch.float32:
        yield "tiny", normal[:300_000] * 1e-41
        yield "the largest", normal / normal.abs().max() * torch.finfo(dtype).max


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", TEXTS)
def test_a_gpu_makes_the_bytes_of_a_cpu(text: str, dtype: torch.dtype) -> None:
    for what, tensor in samples(dtype):
        if what == "the largest" and text.startswith(("bf16", "fp16", "ef")):
            continue  # refused, or beyond float32 with what is left of it
        assert sent(parse(text), tensor.cuda()).to_bytes() == sent(parse(text), tensor).to_bytes(), what


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", TEXTS)
def test_a_gpu_reads_what_a_cpu_reads(text: str, dtype: torch.dtype) -> None:
    for what, tensor in samples(dtype):
        if what == "the largest":
            continue
        packet = sent(parse(text), tensor)
        out = torch.full(packet.shape, 5.0, dtype=dtype, device="cuda")
        assert decode(packet, out) is out and torch.equal(out.cpu(), decode(packet)), what
        mine, expected = tensor.cuda().contiguous(), tensor.clone().contiguous()
        accumulate(packet, mine, -1.0)
        accumulate(packet, expected, -1.0)
        assert torch.equal(mine.cpu(), expected), what
        accumulate(packet, mine, 0.3)
        accumulate(packet, expected, 0.3)
        torch.testing.assert_close(mine.cpu(), expected)


@pytest.mark.parametrize("text", ["ef(int8)", "ef(int4)", "ef(sign)", "ef(topk(1/16)+int4)"])
def test_feedback_on_a_gpu_is_feedback_on_a_cpu(text: str) -> None:
    codec, draw = parse(text), torch.Generator().manual_seed(4)
    states = [codec.init(torch.zeros(300, 700, device=device)) for device in ("cuda", "cpu")]
    for _ in range(10):
        tensor = torch.randn(300, 700, generator=draw)
        there, here = (codec.encode(tensor.to(state.residual.device), state) for state in states)
        assert there[0].to_bytes() == here[0].to_bytes()
        states = [there[1], here[1]]
    assert states[0].residual.is_cuda and torch.equal(states[0].residual.cpu(), states[1].residual)


def test_powersgd_on_a_gpu_is_as_near_as_on_a_cpu() -> None:
    tensor = torch.randn(300, 8, generator=torch.Generator().manual_seed(4)) @ torch.ones(8, 200).tril()
    codec = parse("powersgd(8)")
    torch.testing.assert_close(decode(sent(codec, tensor.cuda())), tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", ["int8", "int4", "int2", "nf4", "codebook(16)", "sign"])
def test_what_is_not_finite_is_refused_on_a_gpu(text: str) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        for at in (0, 299_999):
            tensor = torch.ones(300_000, device="cuda")
            tensor[at] = bad
            with pytest.raises(CodecError, match="NaN"):
                sent(parse(text), tensor)

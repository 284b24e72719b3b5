"""Tensors of a device that CPUs cannot reach into: no codec mixes it with the CPU's, and all make the same bytes.

The device is pretended: no speed, and no arithmetic but the CPU's. tests/unit/test_codecs_on_gpu.py has a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from plesio.codecs import accumulate, decode, is_finite, kernels, parse
from plesio.errors import CodecError
from plesio.testing.codeccontract import sent

THERE = torch.device("cuda", 0)
TEXTS = (
    "none", "bf16", "fp16", "int8", "int8(3)", "int4", "int2", "nf4", "codebook(16)", "sign", "topk(1/64)", "topk(1/2)+int8",
    "topk(1/64)+int2", "randomk(1/64)", "powersgd(2)", "powersgd(2)+int8", "bf16+int8", "ef(int4)", "ef(topk(1/16)+int4)",
)  # fmt: skip


class Elsewhere(Tensor):
    """A tensor of that device."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Pretended(TorchFunctionMode):
    """While it is entered, torch has a device `THERE`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        there = [isinstance(each, Elsewhere) for each in tensors]
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return THERE if there[0] else torch.device("cpu")
        if func is Tensor.numpy and there[0]:
            raise TypeError("a tensor elsewhere has no array")
        places = [tensors[0]] if func is Tensor.copy_ or func is Tensor.__setitem__ else tensors
        named = [each for each in (*args, kwargs.get("device")) if isinstance(each, torch.device)]
        if func is Tensor.cpu:
            stays = False
        elif func is Tensor.to:  # a device, what is on one, or a dtype
            stays = named[0] == THERE if named else isinstance(tensors[-1], Elsewhere)
        else:
            stays = any(isinstance(each, Elsewhere) for each in places) or THERE in named
            mixed = [each for each in places if stays and not isinstance(each, Elsewhere) and each.dim()]
            assert not mixed, f"{func} of tensors on two devices"
        near_args, near_kwargs = tree_map(_near, (args, kwargs))
        found = func(*near_args, **near_kwargs)
        return tree_map(_far, found) if stays else found


def _near(each: Any) -> Any:
    if isinstance(each, Elsewhere):
        return each.as_subclass(Tensor)
    return torch.device("cpu") if isinstance(each, torch.device) else each


def _far(each: Any) -> Any:
    return each.as_subclass(Elsewhere) if isinstance(each, Tensor) else each


@pytest.fixture(params=["in torch", "by kernels"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The pretended one, whose quantisers are torch's own operations, or the interpreted kernels."""
    from plesio.codecs.kernels import gpu

    found = gpu if request.param == "by kernels" else None
    monkeypatch.setattr(kernels, "on_device", lambda kind: found if kind == "cuda" else None)
    with Pretended(), np.errstate(all="ignore"):
        yield THERE


def matrices() -> Iterator[Tensor]:
    normal = torch.randn(90, 70, generator=torch.Generator().manual_seed(3))
    yield from (normal, normal.T, normal[:1, :5], normal.bfloat16(), normal.double(), normal[:0])


@pytest.mark.parametrize("text", TEXTS)
def test_a_codec_makes_the_bytes_that_it_makes_of_a_tensor_here(text: str, device: torch.device) -> None:
    for tensor in matrices():
        assert sent(parse(text), tensor.to(device)).to_bytes() == sent(parse(text), tensor).to_bytes()


@pytest.mark.parametrize("text", TEXTS)
def test_a_packet_is_read_and_added_there(text: str, device: torch.device) -> None:
    for tensor in matrices():
        packet = sent(parse(text), tensor)
        out = torch.empty(packet.shape, dtype=tensor.dtype, device=device)
        assert decode(packet, out) is out and torch.equal(out.cpu(), decode(packet))
        into, expected = torch.ones(packet.shape, device=device), torch.ones(packet.shape)
        accumulate(packet, into, 0.5)
        accumulate(packet, expected, 0.5)
        torch.testing.assert_close(into.cpu(), expected)


def test_feedback_stays_where_the_tensor_is(device: torch.device) -> None:
    codec, tensor = parse("ef(topk(1/16)+int4)"), next(matrices())
    states = [codec.init(each) for each in (tensor, tensor.to(device))]
    for _ in range(3):
        pairs = [codec.encode(each, state) for each, state in zip((tensor, tensor.to(device)), states, strict=True)]
        assert pairs[0][0].to_bytes() == pairs[1][0].to_bytes() and is_finite(pairs[0][0])
        states = [after for _, after in pairs]
    assert states[1].residual.device == device


@pytest.mark.parametrize(
    "text", ["int8", "int4", "int2", "nf4", "codebook(16)", "sign", "randomk(1/64)", "topk(1/64)+int4"]
)
def test_what_is_not_finite_is_refused_there(text: str, device: torch.device) -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(CodecError, match="NaN"):
            sent(parse(text), torch.full((70, 90), bad).to(device))

"""Where what packets lose stays: in the model that can hold it, else with the codec."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plesio.codecs import decode
from plesio.errors import CodecError
from plesio.runtime.encoder import Encoder
from plesio.runtime.fragments import Layout

SIZE = 4096


def layout(dtype: torch.dtype = torch.float32) -> Layout:
    return Layout(["w"], [(SIZE,)], dtype)


def normal(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(
    ("text", "decay"), [("sign", 1.0), ("topk(1/64)+int2", 1.0), ("ef(int4)", 1.0), ("ef(sign, 0.9)", 0.9)]
)
def test_what_packets_of_changes_lose_is_handed_back_and_the_codec_keeps_nothing(text: str, decay: float) -> None:
    encoder = Encoder(text, True, layout())
    for _ in range(2):
        packet, lost = encoder.encode(normal())
        assert lost is not None
        torch.testing.assert_close(lost, decay * (normal() - decode(packet)))
        assert bool(lost.any()) and not encoder.drop()


@pytest.mark.parametrize("text", ["none", "ef(sign, 0)"])
def test_of_what_loses_nothing_or_forgets_it_nothing_is_handed_back(text: str) -> None:
    assert Encoder(text, True, layout()).encode(normal())[1] is None


@pytest.mark.parametrize(("changes", "dtype"), [(False, torch.float32), (True, torch.bfloat16), (True, torch.float16)])
def test_of_gradients_and_of_models_of_16_bits_the_codec_keeps_it(changes: bool, dtype: torch.dtype) -> None:
    """Added to a parameter of 16 bits, what is small beside it is gone."""
    encoder, sent = Encoder("sign", changes, layout(dtype)), torch.zeros(SIZE)
    for _ in range(50):
        packet, lost = encoder.encode(normal(dtype))
        assert lost is None
        sent += decode(packet).float()
    missing = normal(dtype).float() - sent / 50
    assert float(missing.square().mean()) < 0.02, "a residual is sent again"
    assert encoder.drop() and not encoder.drop()


@pytest.mark.parametrize("text", ["topk(1/64)+int2", "randomk(1/1024)"], ids=["sent", "not sent"])
@pytest.mark.parametrize("changes", [True, False])
def test_nan_is_refused(text: str, changes: bool) -> None:
    value = normal()
    value[7] = torch.nan
    with pytest.raises(CodecError, match="cannot carry NaN"):
        Encoder(text, changes, layout()).encode(value)

"""What every registered codec promises: a registry line buys these tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plesio import registry
from plesio.codecs import Packet, accumulate, decode, dtype_of, parse
from plesio.codecs.int8 import MIN_SCALE, Int8
from plesio.errors import CodecError

NAMES = sorted(registry.CODECS)
TEXTS = [*NAMES, "int8(3)", "bf16+int8", "ef(int8)", "ef(bf16, 0.5)"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)).to(dtype)


def shapes(dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "empty": torch.empty(0, dtype=dtype),
        "empty matrix": torch.empty(3, 0, 5, dtype=dtype),
        "scalar": torch.tensor(-1.25, dtype=dtype),
        "one element": torch.tensor([3.0], dtype=dtype),
        "odd": normal(7, 37, 3, dtype=dtype),
        "transposed": normal(33, 9, dtype=dtype).T,
        "strided": normal(1000, dtype=dtype)[::3],
        "expanded": torch.tensor(0.7, dtype=dtype).expand(300, 2),
        "zeros": torch.zeros(257, dtype=dtype),
        "denormal": torch.full((300,), torch.finfo(dtype).smallest_normal / 4, dtype=dtype),
        "more than a chunk": normal((1 << 18) + 300, dtype=dtype),
    }


def send(text: str, tensor: Tensor) -> Packet:
    codec = parse(text)
    packet, _ = codec.encode(tensor, codec.init(tensor))
    return packet


def bound(text: str, tensor: Tensor) -> float:
    """The largest error that the codec may make on any value of the tensor."""
    top = float(tensor.double().abs().max()) if tensor.numel() else 0.0
    own = torch.finfo(tensor.dtype)
    own_ulp = max(top * own.eps, own.smallest_normal * own.eps) / 2
    casts = {"none": 0.0, "bf16": top * 2**-8 + 2.0**-134, "fp16": top * 2**-11 + 2**-25}
    if text in casts:
        return casts[text]
    scale = max(top / 127, MIN_SCALE)
    return scale / 2 * (1 + 2**-8) + own_ulp + (top * 2**-8 if "bf16" in text else 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", TEXTS)
def test_every_shape_and_dtype_survives_within_the_bound_and_in_the_promised_length(
    text: str, dtype: torch.dtype
) -> None:
    for what, tensor in shapes(dtype).items():
        before = tensor.clone()
        data = send(text, tensor).to_bytes()
        assert len(data) == parse(text).wire_bytes(tensor.shape, dtype), what
        packet = Packet.from_bytes(data)
        assert (dtype_of(packet), packet.shape) == (dtype, tuple(tensor.shape)), what
        back = decode(packet)
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), what
        worst = float((back.double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        assert worst <= bound(text, tensor), what
        assert torch.equal(tensor, before), f"{what}: encode changed its argument"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", [*NAMES, "int8(3)"])
def test_encoding_what_was_decoded_loses_nothing_more(text: str, dtype: torch.dtype) -> None:
    for what, tensor in shapes(dtype).items():
        once = decode(send(text, tensor))
        assert torch.equal(decode(send(text, once)), once), what


@pytest.mark.parametrize("text", TEXTS)
def test_accumulate_adds_the_weighted_decoding(text: str) -> None:
    for what, tensor in shapes(torch.float32).items():
        packet = send(text, tensor)
        for into in (torch.ones(tensor.shape), torch.ones(*tensor.shape, 2)[..., 0]):
            expected = into + 0.25 * decode(packet)
            accumulate(packet, into, 0.25)
            torch.testing.assert_close(into, expected, msg=what)


@pytest.mark.parametrize("text", TEXTS)
def test_accumulate_refuses_another_shape_and_leaves_the_sum_alone(text: str) -> None:
    into = torch.zeros(5)
    with pytest.raises(CodecError, match="shape"):
        accumulate(send(text, torch.ones(4)), into, 1.0)
    assert not into.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("text", TEXTS)
def test_nan_and_inf_pass_through_or_are_refused_by_name(text: str, bad: float) -> None:
    tensor = torch.tensor([1.0, bad, 2.0])
    try:
        back = decode(send(text, tensor))
    except CodecError as error:
        assert "NaN" in str(error) and "int8" in str(error) or text in str(error)
        assert text not in ("none", "bf16", "fp16")
    else:
        torch.testing.assert_close(back, tensor, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("text", TEXTS)
def test_large_values_survive_or_are_refused_by_name(text: str) -> None:
    for top in (1e30, torch.finfo(torch.float32).max):
        tensor = torch.tensor([top, -top / 3, 0.0])
        try:
            back = decode(send(text, tensor))
        except CodecError as error:
            assert "fp16" in str(error) or "bf16" in str(error) and top > 1e30
        else:
            assert bool(back.isfinite().all())
            assert float((back - tensor).abs().max()) <= bound(text, tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_int8_carries_the_largest_value_of_a_dtype(dtype: torch.dtype) -> None:
    tensor = torch.tensor([torch.finfo(dtype).max, 0.0, -1.0], dtype=dtype)
    back = decode(Packet.from_bytes(send("int8", tensor).to_bytes()))
    torch.testing.assert_close(back, tensor, rtol=2**-15, atol=float(tensor[0]) / 254)


@pytest.mark.parametrize("text", TEXTS)
def test_integers_are_refused(text: str) -> None:
    with pytest.raises(CodecError, match="int64"):
        send(text, torch.arange(3))


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_a_codec_names_it(text: str) -> None:
    assert repr(parse(text)) == text
    assert parse(repr(parse(text))) == parse(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_packet_bears_the_registered_name(name: str) -> None:
    assert send(name, torch.ones(2)).stages[0][0] == name


def test_int8_is_exact_at_block_ends_and_rounds_half_to_even() -> None:
    tensor = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    packet, _ = Int8(6).encode(tensor)
    assert decode(packet).tolist() == [127.0, 0.0, 2.0, 2.0, 0.0, -2.0]

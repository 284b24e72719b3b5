"""What every codec promises, as one call: `codec_contract(MyCodec())` in a test of whoever writes one.

Each check is a function of its own, with what it holds against what; they raise AssertionError. What a codec loses is its
own affair: its own tests say how much. Here: where feedback keeps what is lost, it is never worse than sending nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from plesio.codecs import (
    Codec,
    ErrorFeedback,
    Packet,
    accumulate,
    decode,
    dtype_of,
    load_state,
    merged,
    parse,
    save_state,
)
from plesio.errors import CodecError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STEPS = 30  # of the check of feedback


def codec_contract(codec: Codec) -> None:
    """Raises AssertionError for the first promise that the codec does not keep. A registered one is also read from text."""
    for check in CHECKS:
        check(codec)


def tensors(dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """(what is special about it, a tensor): shapes, strides and values."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(7)).to(dtype)

    yield "empty", torch.empty(0, dtype=dtype)
    yield "empty matrix", torch.empty(3, 0, 5, dtype=dtype)
    yield "scalar", torch.tensor(-1.25, dtype=dtype)
    yield "one element", torch.tensor([3.0], dtype=dtype)
    yield "odd", normal(7, 37, 3)
    yield "transposed", normal(33, 9).T
    yield "matrix", normal(130, 70)
    yield "strided", normal(1000)[::3]
    yield "expanded", torch.tensor(0.7, dtype=dtype).expand(300, 2)
    yield "zeros", torch.zeros(257, dtype=dtype)
    yield "blocks of zeros", torch.cat([torch.zeros(4096, dtype=dtype), normal(100)])
    yield "denormal", torch.full((300,), torch.finfo(dtype).smallest_normal / 4, dtype=dtype)
    if dtype in (torch.float32, torch.bfloat16):  # as it is, and converted by chunks
        yield "more than a chunk", normal((1 << 18) + 300)


def sent(codec: Codec, tensor: Tensor) -> Packet:
    """Its first packet."""
    return codec.encode(tensor, codec.init(tensor))[0]


def energy(tensor: Tensor) -> float:
    """The sum of squares."""
    return float(tensor.double().square().sum())


def lost(codec: Codec, tensor: Tensor, unit: float = 1.0) -> float:
    """The energy, in units, of what its first packet under feedback does not carry."""
    back = decode(sent(codec.under_feedback(), tensor))
    return energy((back.double() - tensor.double()) / unit)


def every_shape_and_dtype_comes_back_in_the_promised_length(codec: Codec) -> None:
    """... and is no further away than nothing; what was encoded stays as it was."""
    for dtype in DTYPES:
        for what, tensor in tensors(dtype):
            before, where = tensor.clone(), f"{codec!r}, {what}, {dtype}"
            data = sent(codec, tensor).to_bytes()
            told = codec.wire_bytes(tensor.shape, dtype)
            assert len(data) == told or codec.varies and len(data) < told, f"{where}: wire_bytes"
            packet = Packet.from_bytes(data)
            assert (dtype_of(packet), packet.shape) == (dtype, tuple(tensor.shape)), f"{where}: what the packet says"
            back = decode(packet)
            assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), f"{where}: what comes back"
            slack = 1 + 1e-3 if dtype in (torch.bfloat16, torch.float16) else 1 + 1e-6
            assert lost(codec, tensor) <= energy(tensor) * slack + 1e-60, f"{where}: it is worse than nothing"
            assert torch.equal(tensor, before), f"{where}: encode changed its argument"


def adding_is_decoding_and_adding(codec: Codec) -> None:
    """... into any strides; another shape is refused, and the sum left alone."""
    for what, tensor in tensors(torch.float32):
        packet = sent(codec, tensor)
        for into in (torch.ones(tensor.shape), torch.ones(*tensor.shape, 2)[..., 0], torch.ones(tensor.shape).double()):
            expected = into + 0.25 * decode(packet).to(into.dtype)
            accumulate(packet, into, 0.25)
            assert torch.allclose(into, expected, 1e-5, 1e-5), f"{codec!r}, {what}: it adds something else"
    other = torch.zeros(5)
    try:
        accumulate(sent(codec, torch.ones(4)), other, 1.0)
    except CodecError:
        assert not other.any(), f"{codec!r}: refused, and yet it was added"
    else:
        raise AssertionError(f"{codec!r}: another shape was added")


def merging_is_adding(codec: Codec) -> None:
    """... one after the other, to the bit, though by pieces, where the codec can be read by pieces."""
    large = torch.randn(1_300_001, generator=torch.Generator().manual_seed(11))  # several pieces
    for what, tensor in [*tensors(torch.float32), *tensors(torch.bfloat16), ("large", large)]:
        packets, weights = [sent(codec, tensor)] * 2, (0.25, 0.7)
        expected = torch.zeros(tensor.shape)
        for packet, weight in zip(packets, weights, strict=True):
            accumulate(packet, expected, weight)
        found = torch.full((tensor.numel(),), torch.nan)
        for start, sums in merged(packets, weights):
            found[start : start + len(sums)] = sums
        assert torch.equal(found, expected.view(-1)), f"{codec!r}, {what}, {tensor.dtype}: the sum is another one"


def nan_and_inf_pass_through_or_are_refused(codec: Codec) -> None:
    """... by name; never garbage. So are values too large for it, and what is no float."""
    for bad in (float("nan"), float("inf"), float("-inf")):
        for tensor in (torch.tensor([1.0, bad, 2.0]), torch.cat([torch.ones(5000), torch.tensor([bad])])):
            try:
                back = decode(sent(codec, tensor))
            except CodecError as error:
                assert "NaN" in str(error), f"{codec!r}: {error}"
            else:
                assert not bool(back.isfinite().all()), f"{codec!r}: {bad} became something else"
    for top in (1e30, torch.finfo(torch.float32).max):
        tensor = torch.tensor([top, -top / 3, 0.0])
        try:
            back = decode(sent(codec, tensor))
        except CodecError:
            continue
        assert bool(back.isfinite().all()), f"{codec!r}: {top} became infinite"
        assert lost(codec, tensor, top) <= energy(tensor.double() / top) * (1 + 1e-6), f"{codec!r}: {top}"
    try:
        sent(codec, torch.arange(3))
    except CodecError:
        return
    raise AssertionError(f"{codec!r}: integers were encoded")


def a_state_is_never_changed(codec: Codec) -> None:
    """What never left can be encoded again, to the same bytes."""
    tensor = torch.randn(5000, generator=torch.Generator().manual_seed(3)).view(50, 100)
    _, state = codec.encode(tensor, codec.init(tensor))
    first, again = (codec.encode(2 * tensor, state)[0].to_bytes() for _ in range(2))
    assert first == again, f"{codec!r}: encoding changed the state it was given"


def a_saved_state_goes_on(codec: Codec) -> None:
    """What is encoded from it is the same to the byte: `init` has the form of all states."""
    draw = torch.Generator().manual_seed(3)
    first, second = (torch.randn(50, 100, generator=draw) for _ in range(2))
    _, state = codec.encode(first, codec.init(first))
    loaded = load_state(codec, first, save_state(codec, state))
    went, again = (codec.encode(second, each)[0].to_bytes() for each in (state, loaded))
    assert went == again, f"{codec!r}: it goes on otherwise from a state that was saved and loaded"


def what_was_sent_and_the_residual_are_what_came_in(codec: Codec) -> None:
    """Under feedback, over many steps, to 1e-5 of what came in."""
    outer = codec if isinstance(codec, ErrorFeedback) else ErrorFeedback(codec)
    draw = torch.Generator().manual_seed(5)
    state = outer.init(torch.zeros(60, 90))
    came = torch.zeros(60, 90, dtype=torch.float64)
    went = came.clone()
    for _ in range(STEPS):
        tensor = torch.randn(60, 90, generator=draw)
        packet, state = outer.encode(tensor, state)
        came = outer.decay * came + tensor.double()
        went = outer.decay * went + decode(packet).double()
    off = energy(went + state.residual.double() - came)
    assert off <= 1e-10 * (energy(came) + energy(state.residual)), f"{codec!r}: feedback lost something"


def changed_bytes_are_refused_or_read(codec: Codec) -> None:
    """... as a tensor of the shape that they then say: a stranger may have sent them."""
    for tensor in (torch.linspace(-1, 1, 70).view(7, 10), torch.linspace(-1, 1, 4500)):
        data = sent(codec, tensor).to_bytes()
        for changed in [data[:-1], data + b"x", *_flips(data)]:
            try:
                packet = Packet.from_bytes(changed)
            except CodecError:
                continue
            back = decode(packet)
            assert (dtype_of(packet), packet.shape) == (back.dtype, tuple(back.shape)), f"{codec!r}: {changed.hex()}"


def _flips(data: bytes) -> Iterator[bytes]:
    """A byte of them is another one: of the first few hundred, and of some later ones."""
    for at in [*range(min(len(data), 200)), *range(200, len(data), 97)]:
        for flip in (0x01, 0x80, 0xFF):
            yield data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]


def its_text_names_it(codec: Codec) -> None:
    """`repr` is what `parse` reads."""
    assert parse(repr(codec)) == codec, f"{codec!r} is another codec when it is read"


CHECKS: tuple[Callable[[Codec], None], ...] = (
    every_shape_and_dtype_comes_back_in_the_promised_length,
    adding_is_decoding_and_adding,
    merging_is_adding,
    nan_and_inf_pass_through_or_are_refused,
    a_state_is_never_changed,
    a_saved_state_goes_on,
    what_was_sent_and_the_residual_are_what_came_in,
    changed_bytes_are_refused_or_read,
    its_text_names_it,
)

"""States of codecs, saved and loaded: what is encoded goes on to the byte, and no other codec or tensor takes them up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from plesio import registry
from plesio.codecs import ErrorFeedback, load_state, parse, save_state
from plesio.codecs.states import holds_back
from plesio.errors import CodecError

TEXTS = [
    *sorted(registry.CODECS), *(f"ef({name})" for name in sorted(registry.CODECS)), "sr(codebook)", "ef(sr(sign, 3), 0.9)",
    "topk(1/64)+sr(codebook)", "ef(randomk(1/8)+sr(int4))", "ef(powersgd(2)+codebook)",
]  # fmt: skip


def tensors(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(count)
    return [(torch.randn(24, 40, generator=draw) ** 3).to(dtype) for _ in range(count)]


def encoded(codec: Any, inputs: list[Tensor], state: Any) -> tuple[list[bytes], Any]:
    found = []
    for tensor in inputs:
        packet, state = codec.encode(tensor, state)
        found.append(packet.to_bytes())
    return found, state


@settings(max_examples=80)
@given(st.sampled_from(TEXTS), st.integers(0, 4), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_what_is_encoded_goes_on_to_the_byte(text: str, before: int, dtype: torch.dtype) -> None:
    codec, inputs = parse(text), tensors(before + 3, dtype)
    _, state = encoded(codec, inputs[:before], codec.init(inputs[0]))
    expected, _ = encoded(codec, inputs[before:], state)
    loaded = load_state(codec, inputs[0], save_state(codec, state))
    assert encoded(codec, inputs[before:], loaded)[0] == expected


@pytest.mark.parametrize("text", ["ef(sr(codebook))", "ef(powersgd(2)+codebook)", "randomk(1/8)", "int8"])
def test_files_of_safetensors_and_of_torch_hold_them(text: str, tmp_path: Path) -> None:
    codec, inputs = parse(text), tensors(5)
    _, state = encoded(codec, inputs[:3], codec.init(inputs[0]))
    expected, _ = encoded(codec, inputs[3:], state)
    save_file(save_state(codec, state), tmp_path / "state.safetensors")
    torch.save({"codec": save_state(codec, state)}, tmp_path / "state.pt")
    for found in (load_file(tmp_path / "state.safetensors"), torch.load(tmp_path / "state.pt", weights_only=True)["codec"]):
        assert encoded(codec, inputs[3:], load_state(codec, inputs[0], found))[0] == expected


def test_a_state_goes_on_only_where_it_is_saved() -> None:
    codec, (first, second) = parse("ef(codebook)"), tensors(2)
    _, state = codec.encode(first, codec.init(first))
    (without,), _ = encoded(codec, [second], codec.init(second))
    (with_it,), _ = encoded(codec, [second], load_state(codec, second, save_state(codec, state)))
    assert with_it != without, "else the tests above say nothing"


def test_what_is_saved_is_a_copy_and_so_is_what_is_loaded() -> None:
    codec, (tensor,) = parse("ef(int8)"), tensors(1)
    _, state = codec.encode(tensor, codec.init(tensor))
    saved = save_state(codec, state)
    loaded = load_state(codec, tensor, saved)
    saved["state.residual"].zero_()
    assert torch.equal(loaded.residual, state.residual) and bool(state.residual.any())


def test_the_state_of_another_codec_is_refused() -> None:
    like = torch.zeros(5)
    others = [("ef(int8)", "ef(int4)"), ("ef(int8)", "ef(int8, 0.9)"), ("ef(int8)", "int8"), ("sr(int4)", "sr(int4, 1)")]
    for saved, other in others:
        state = save_state(parse(saved), parse(saved).init(like))
        with pytest.raises(CodecError) as refused:
            load_state(parse(other), like, state)
        assert f"codec {other} was given the state of '{saved}'" in str(refused.value)
        assert "begin anew with init" in str(refused.value)


@pytest.mark.parametrize("other", [torch.zeros(6), torch.zeros(5, 1), torch.zeros(5, dtype=torch.float64)])
def test_the_state_of_another_tensor_is_refused(other: Tensor) -> None:
    codec = parse("ef(int8)")
    saved = save_state(codec, codec.init(torch.zeros(5)))
    with pytest.raises(CodecError, match=r"needs 'state.residual' as torch.float\d\d of shape"):
        load_state(codec, other, saved)


def test_what_lacks_a_part_or_is_no_state_is_refused() -> None:
    codec, like = parse("ef(codebook)"), torch.zeros(5)
    saved = save_state(codec, codec.init(like))
    for name in saved:
        with pytest.raises(CodecError, match="no saved state" if name == "codec" else name):
            load_state(codec, like, {key: tensor for key, tensor in saved.items() if key != name})
    with pytest.raises(CodecError, match="weight"):
        load_state(codec, like, {**saved, "weight": like})


def test_what_feedback_holds_back_is_found_anywhere_in_a_state() -> None:
    codec, tensor = ErrorFeedback(parse("topk(1/64)+int4")), torch.randn(200)
    before = codec.init(tensor)
    _, after = codec.encode(tensor, before)
    assert not holds_back(before) and not holds_back(None) and not holds_back((1, tensor))
    assert holds_back(after) and holds_back((None, after))

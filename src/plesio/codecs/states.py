"""States of codecs as named tensors and back, without pickle: for safetensors files and torch checkpoints.

A state is a tree of tensors, whole numbers and fractions, in tuples and records; what `init` makes of a codec and a tensor
says its form. The codec's text goes with it, so that no other codec takes it up. It writes no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plesio.codecs.base import Codec
from plesio.codecs.compose import FeedbackState
from plesio.errors import CodecError

CODEC = "codec"  # where its text is
ROOT = "state"


def save_state(codec: Codec, state: Any) -> dict[str, Tensor]:
    """Tensors of their own, on the CPU, that `load_state` makes the state of. state: of that codec."""
    text = torch.frombuffer(bytearray(repr(codec).encode()), dtype=torch.uint8)
    return {CODEC: text, **{name: _as_tensor(leaf) for name, leaf in _leaves(state, ROOT).items()}}


def load_state(codec: Codec, like: Tensor, tensors: Mapping[str, Tensor]) -> Any:
    """The state that was saved; `encode` goes on from it as from the saved one. like: what is encoded, or one of its kind.

    Raises CodecError for the state of another codec, shape or dtype.
    """
    check_codec(codec, tensors)
    form = codec.init(like)
    expected = {CODEC, *_leaves(form, ROOT)}
    if expected != {*tensors}:
        wrong = ", ".join(sorted(expected.symmetric_difference(tensors)))
        raise CodecError(f"codec {codec!r} was given a state that, unlike its own, lacks or has {wrong}; begin with init")
    return _loaded(codec, form, ROOT, tensors)


def check_codec(codec: Codec, tensors: Mapping[str, Tensor]) -> None:
    """Raises CodecError unless this codec saved them."""
    if CODEC not in tensors:
        raise CodecError(f"codec {codec!r} was given tensors that are no saved state; save one with save_state")
    saved = bytes(tensors[CODEC].cpu().numpy()).decode(errors="replace")
    if saved != repr(codec):
        raise CodecError(f"codec {codec!r} was given the state of {saved!r}; load it with that one, or begin anew with init")


def holds_back(state: Any) -> bool:
    """Does feedback in this state keep anything that was not sent?"""
    if isinstance(state, FeedbackState) and bool(state.residual.any()):
        return True
    return any(holds_back(part) for _, part in _parts(state))


def _parts(state: Any) -> list[tuple[str, Any]]:
    """(name, part) of a tuple or a record; none of what is a leaf."""
    if isinstance(state, tuple):
        return [(str(at), part) for at, part in enumerate(state)]
    if dataclasses.is_dataclass(state):
        return [(field.name, getattr(state, field.name)) for field in dataclasses.fields(state)]
    return []


def _leaves(state: Any, name: str) -> dict[str, Tensor | int | float]:
    """By name: `state.inner.0.levels`."""
    if isinstance(state, Tensor | int | float):
        return {name: state}
    return {key: leaf for part, each in _parts(state) for key, leaf in _leaves(each, f"{name}.{part}").items()}


def _as_tensor(leaf: Tensor | int | float) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
    return torch.tensor(leaf, dtype=torch.int64 if isinstance(leaf, int) else torch.float64)


def _loaded(codec: Codec, form: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(form, Tensor | int | float):
        return _leaf(codec, form, name, tensors[name])
    parts = {part: _loaded(codec, each, f"{name}.{part}", tensors) for part, each in _parts(form)}
    if isinstance(form, tuple):
        return tuple(parts.values())
    return None if form is None else dataclasses.replace(form, **parts)


def _leaf(codec: Codec, form: Tensor | int | float, name: str, found: Tensor) -> Any:
    wanted = form if isinstance(form, Tensor) else _as_tensor(form)
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        was, now = (f"{each.dtype} of shape {tuple(each.shape)}" for each in (found, wanted))
        raise CodecError(f"codec {codec!r} needs {name!r} as {now} and was given {was}; begin anew with init")
    if isinstance(form, Tensor):
        return found.detach().to(form.device).clone(memory_format=torch.contiguous_format)
    return found.item()

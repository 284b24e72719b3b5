"""A model as one flat vector, and back; states as safetensors bytes. The torch side of learner and synchronizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from plesio.codecs import Codec, bound
from plesio.errors import CodecError, UserError


class Layout:
    """Names, shapes and order of the parameters of a model; fragment 0 is all of them, in order.

    Changes nothing; owned by whoever holds the model or its flat copy. All parameters share one float dtype.
    """

    def __init__(
        self, names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, buffers: str = ""
    ) -> None:
        self.buffers = buffers  # a description of the model's buffers
        self.names = list(names)
        self.shapes = [tuple(s) for s in shapes]
        self.dtype = dtype
        self.sizes = [int(torch.Size(s).numel()) for s in self.shapes]
        self.numel = sum(self.sizes)

    @classmethod
    def of(cls, parameters: Sequence[tuple[str, Tensor]], buffers: str = "") -> Layout:
        """Of named parameters, beside buffers described so. Raises UserError for none, or for mixed dtypes."""
        dtypes = {p.dtype for _, p in parameters}
        if not parameters:
            raise UserError("the model has no trainable parameters; give run.learner(model, ...) one that has")
        if len(dtypes) != 1:
            found = ", ".join(sorted(str(d) for d in dtypes))
            raise UserError(f"the model mixes parameter dtypes ({found}); convert it to one, e.g. model.float()")
        return cls([n for n, _ in parameters], [tuple(p.shape) for _, p in parameters], dtypes.pop(), buffers)

    def signature(self) -> str:
        """A digest of names, shapes and dtype: equal for equal models only."""
        return blake2b(self.to_json().encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """Text for a snapshot's header."""
        dtype = str(self.dtype).removeprefix("torch.")
        return json.dumps({"names": self.names, "shapes": self.shapes, "dtype": dtype, "buffers": self.buffers})

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """The inverse of to_json."""
        raw = json.loads(text)
        return cls(raw["names"], [tuple(s) for s in raw["shapes"]], getattr(torch, raw["dtype"]), raw["buffers"])

    def bound(self, codec: Codec) -> Codec:
        """The codec for the flat vector of a model of this layout."""
        return bound(codec, self.names, self.shapes)

    def views(self, flat: Tensor) -> list[Tensor]:
        """flat: (numel,). Views of it, one per parameter, in its shape."""
        found, at = [], 0
        for size, shape in zip(self.sizes, self.shapes, strict=True):
            found.append(flat[at : at + size].view(shape))
            at += size
        return found

    def gather(self, tensors: Sequence[Tensor], out: Tensor) -> Tensor:
        """Copies the tensors, in order, into out: (numel,)."""
        with torch.no_grad():
            torch._foreach_copy_(self.views(out), list(tensors))
        return out

    def scatter(self, flat: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copies flat: (numel,) into the tensors."""
        with torch.no_grad():
            torch._foreach_copy_(list(tensors), self.views(flat))

    def named(self, flat: Tensor, prefix: str = "param.") -> dict[str, Tensor]:
        """Views by name."""
        return {prefix + n: v for n, v in zip(self.names, self.views(flat), strict=True)}

    def flat(self, tensors: dict[str, Tensor], prefix: str = "param.") -> Tensor:
        """(numel,) from named tensors; raises CodecError when one lacks or differs in shape."""
        out = torch.empty(self.numel, dtype=self.dtype)
        for name, view in zip(self.names, self.views(out), strict=True):
            found = tensors.get(prefix + name)
            if found is None or found.shape != view.shape:
                raise CodecError(f"the state lacks {name!r} in shape {tuple(view.shape)}")
            view.copy_(found)
        return out


def pack_state(
    layout: Layout, flat: Tensor, optimizer: dict[str, Tensor], extra: dict[str, Tensor] | None = None
) -> bytes:
    """A state as safetensors bytes: param.*, optim.*, and extra tensors; the layout in one uint8 tensor.

    (The layout is a tensor rather than metadata because safetensors' `load` of bytes returns no metadata.)
    """
    header = torch.frombuffer(bytearray(layout.to_json().encode()), dtype=torch.uint8)
    tensors = {k: v.contiguous() for k, v in {**layout.named(flat), **optimizer, **(extra or {})}.items()}
    # views of one buffer would be refused as shared memory
    return save_tensors({"plesio.layout": header, **{k: v.clone() for k, v in tensors.items()}})


def unpack_state(data: bytes | memoryview) -> tuple[Layout, Tensor, dict[str, Tensor]]:
    """(layout, flat parameters, all tensors). Raises CodecError on bytes that are not a state."""
    try:
        tensors = load_tensors(bytes(data))
        layout = Layout.from_json(bytes(tensors["plesio.layout"].numpy().tobytes()).decode())
        return layout, layout.flat(tensors), tensors
    except CodecError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise CodecError(f"not a state: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise CodecError(f"not a state: {error}") from error

"""numpy arrays, numpy scalars and torch tensors as (kind, dtype, shape) and a buffer, and back.

A buffer is the elements in C order (Fortran order for a Fortran array), in the byte order that the dtype names. What
would lose something on the way is refused with its mend: object arrays, subclasses, tensors on a device or in a graph.
numpy and torch are looked up in `sys.modules` to encode (who holds an array has imported them), imported to decode.
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any

from plesio.errors import CannotSend

if TYPE_CHECKING:
    import numpy as np
    import torch

C_ARRAY, F_ARRAY, SCALAR, TENSOR = range(4)
MAX_DIMENSIONS = 64

Spec = str | list[Any]  # '<f4'; [spec, shape] of a subarray; [names, specs, offsets, size_bytes, titles] of a structure
Apart = tuple[int, Spec, tuple[int, ...], memoryview]

_SPEC = r"[<>|][biufcSUVmM][0-9]{1,9}(\[[0-9A-Za-z]{1,16}\])?"  # compiled when first used: imports stay fast
_TENSORS = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
}  # fmt: skip


def take_apart(value: object) -> Apart | None:
    """(kind, dtype, shape, buffer) of an array, scalar or tensor; None for anything else.

    The buffer is the value's own memory where that is contiguous. Raises CannotSend, without saying where it is.
    """
    if (numpy := sys.modules.get("numpy")) is not None:
        if isinstance(value, numpy.ndarray):
            return _from_array(numpy, value)
        if isinstance(value, numpy.generic):
            return _from_scalar(value)
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        return _from_tensor(torch, value)
    return None


def build(kind: int, spec: Spec, shape: tuple[int, ...], buffer: memoryview | bytearray) -> Any:
    """The array, scalar or tensor on that (writable) memory: no copy, except for scalars.

    Raises ValueError, TypeError or RuntimeError for what does not fit together, and allocates nothing.
    """
    if kind == TENSOR:
        return _to_tensor(spec, shape, buffer)
    import numpy as np

    dtype = _dtype(np, spec)
    if dtype.hasobject:
        raise ValueError(f"{dtype} holds objects")
    _check_size(shape, dtype.itemsize, buffer)
    if kind == SCALAR and dtype.kind == "S":
        return np.bytes_(bytes(buffer))
    if kind == SCALAR and dtype.kind == "U":
        return np.str_(bytes(buffer).decode("utf-32-le"))
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer, order="F" if kind == F_ARRAY else "C")
    return array[()] if kind == SCALAR else array


def _from_array(numpy: Any, value: np.ndarray[Any, Any]) -> Apart:
    if type(value) not in (numpy.ndarray, numpy.memmap):
        name = type(value).__name__
        raise CannotSend(f"a {name} would come back as a plain array; send numpy.asarray(it), or its parts")
    if value.dtype.hasobject:
        raise CannotSend("an array of Python objects cannot be sent; send a list, or an array of numbers or strings")
    spec, shape = _spec(value.dtype), value.shape
    fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    flat = numpy.ascontiguousarray(value.T if fortran else value).reshape(-1)
    buffer = flat.view(numpy.uint8).data if flat.nbytes else memoryview(b"")
    return F_ARRAY if fortran else C_ARRAY, spec, shape, buffer


def _from_scalar(value: np.generic) -> Apart:
    """Text and bytes past numpy, which takes trailing zeros for padding."""
    if isinstance(value, str):
        return SCALAR, f"<U{len(value)}", (), memoryview(value.encode("utf-32-le"))
    if isinstance(value, bytes):
        return SCALAR, f"|S{len(value)}", (), memoryview(bytes(value))
    return SCALAR, _spec(value.dtype), (), memoryview(value.tobytes())


def _spec(dtype: np.dtype[Any]) -> Spec:
    """The dtype in plain words that `_dtype` reads. Raises CannotSend where they would not give it back."""
    if dtype.fields is not None and dtype.names is not None:
        parts = [dtype.fields[name] for name in dtype.names]
        titles = [part[2] if len(part) == 3 else None for part in parts]
        if not {str, type(None)}.issuperset(map(type, titles)):
            raise CannotSend(f"an array of {dtype} cannot be sent; give its fields titles of text, or none")
        return [
            list(dtype.names),
            [_spec(part[0]) for part in parts],
            [part[1] for part in parts],
            dtype.itemsize,
            titles,
        ]
    if dtype.subdtype is not None:
        return [_spec(dtype.subdtype[0]), list(dtype.subdtype[1])]
    if dtype.isbuiltin == 2 or not re.fullmatch(_SPEC, dtype.str):
        raise CannotSend(f"an array of {dtype} cannot be sent; convert it to a dtype of numpy's own first")
    return dtype.str


def _dtype(np: Any, spec: Spec) -> Any:
    """The inverse of `_spec`. Raises ValueError or TypeError for anything else."""
    if isinstance(spec, str):
        if not re.fullmatch(_SPEC, spec):
            raise ValueError(f"{spec[:40]!r} is no dtype")
        return np.dtype(spec)
    if len(spec) == 2:
        base, shape = spec
        return np.dtype((_dtype(np, base), tuple(shape)))
    names, specs, offsets, size_bytes, titles = spec
    if not {str, type(None)}.issuperset(map(type, titles)):
        raise ValueError("a field's title is no text")
    formats = [_dtype(np, part) for part in specs]
    rest = {"titles": titles} if any(titles) else {}
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size_bytes, **rest})


def _from_tensor(torch: Any, value: torch.Tensor) -> Apart:
    name = str(value.dtype).removeprefix("torch.")
    if value.device.type != "cpu":
        raise CannotSend(f"a tensor on {value.device} cannot be sent; call .cpu()")
    if value.requires_grad:
        raise CannotSend("a tensor that requires grad cannot be sent with its graph; call .detach()")
    if value.layout != torch.strided or value.is_quantized or name not in _TENSORS:
        raise CannotSend(f"a tensor of {name} in layout {value.layout} cannot be sent; convert it to a dense one")
    if type(value) is not torch.Tensor:
        raise CannotSend(f"a {type(value).__name__} would come back as a plain tensor; send .detach() or its parts")
    flat = value.resolve_conj().resolve_neg().contiguous().reshape(-1)
    buffer = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
    return TENSOR, name, tuple(value.shape), buffer


def _to_tensor(spec: Spec, shape: tuple[int, ...], buffer: memoryview | bytearray) -> torch.Tensor:
    size = _TENSORS.get(spec) if isinstance(spec, str) else None
    if size is None:
        raise ValueError(f"{str(spec)[:40]!r} is no dtype of tensors")
    _check_size(shape, size, buffer)
    import torch

    dtype: torch.dtype = getattr(torch, str(spec))
    return torch.frombuffer(buffer, dtype=dtype).view(shape) if len(buffer) else torch.empty(shape, dtype=dtype)


def _check_size(shape: tuple[int, ...], item_bytes: int, buffer: memoryview | bytearray) -> None:
    wanted = math.prod(shape) * item_bytes
    if wanted != len(buffer):
        raise ValueError(f"an array of {wanted} bytes came with {len(buffer)}")

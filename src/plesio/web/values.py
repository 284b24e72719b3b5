"""Values as JSON and back. What JSON cannot hold is an object with one name: {"$bytes": base64}, {"$array": {...}}.

Only to JSON: tuples and sets become lists, dates their ISO form, Decimal and UUID text, a timedelta its seconds, a complex
number [real, imaginary], NaN and infinities {"$float": "nan"}; names of objects become text. Nothing here runs code.
"""

from __future__ import annotations

import base64
import binascii
import math
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from plesio.errors import PlesioError, UserError
from plesio.values import arrays

JSON_BYTES = 16 << 20  # of text, bytes and arrays in one answer
BYTES, ARRAY, FLOAT = "$bytes", "$array", "$float"
KINDS = frozenset("biufc")  # of arrays: numbers
_NUMBER_BYTES = 8  # about what a number, or what is around a value, takes


class TooLarge(PlesioError):
    """The value is larger than what is given as JSON."""


def to_json(value: Any) -> Any:
    """What json.dumps takes. Raises TooLarge, UserError for what has no form in JSON."""
    try:
        return _Writer().write(value)
    except RecursionError as error:
        raise UserError("it is nested too deep for JSON") from error


def from_json(value: Any) -> Any:
    """The value that a client means. Raises UserError."""
    try:
        return _read(value)
    except RecursionError as error:
        raise UserError("it is nested too deep") from error


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        if name == BYTES:
            return _bytes(inner)
        if name == ARRAY:
            return _array(inner)
        if name == FLOAT and inner in ("nan", "inf", "-inf"):
            return float(inner)
    return {name: _read(inner) for name, inner in value.items()}


class _Writer:
    """Counts as it goes, so that a large value is refused before it is written."""

    def __init__(self) -> None:
        self.left_bytes = JSON_BYTES

    def write(self, value: Any) -> Any:
        self._spend(_NUMBER_BYTES)
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {FLOAT: str(value)}
        if isinstance(value, str):
            self._spend(len(value))
            return value
        if isinstance(value, dict):
            return {name if isinstance(name, str) else str(name): self.write(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.write(inner) for inner in value]
        if isinstance(value, (bytes, bytearray, memoryview)):
            return {BYTES: self._base64(value)}
        return self._other(value)

    def _other(self, value: Any) -> Any:
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, (Decimal, UUID)):
            return str(value)
        if isinstance(value, complex):
            return [self.write(value.real), self.write(value.imag)]
        apart = arrays.take_apart(value)
        if apart is None:
            raise UserError(f"a {type(value).__name__} has no form in JSON")
        kind, dtype, shape, data = apart
        if kind == arrays.SCALAR and hasattr(value, "item") and type(value.item()) is not type(value):
            return self.write(value.item())
        if kind == arrays.F_ARRAY:
            data = value.tobytes("C")
        return {ARRAY: {"dtype": dtype, "shape": list(shape), "data": self._base64(data)}}

    def _base64(self, data: Any) -> str:
        self._spend(len(data))
        return base64.b64encode(data).decode()

    def _spend(self, count_bytes: int) -> None:
        self.left_bytes -= count_bytes
        if self.left_bytes < 0:
            raise TooLarge


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise UserError(f"{BYTES} holds base64, and this is not") from error


def _array(said: Any) -> Any:
    """A numpy array of numbers."""
    import numpy as np

    try:
        dtype, shape = np.dtype(str(said["dtype"])), tuple(int(size) for size in said["shape"])
        if dtype.kind not in KINDS:
            raise ValueError(f"{dtype} is no number")
        return np.frombuffer(bytearray(_bytes(said["data"])), dtype).reshape(shape)
    except (TypeError, ValueError, LookupError, OverflowError, SyntaxError) as error:
        raise UserError(f"{ARRAY} holds dtype, shape, and data as base64: {error}") from error

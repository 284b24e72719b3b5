"""How loops for CPUs are compiled and found again on disk; and what many of them share.

Loops write blocks as rows; the bits of a code are constants of the compiled loops, the length of a row is not: short loops
of known length would be unrolled, and be no vector loops. A row's largest magnitude is found on the bits of its values, as
integers: that needs no order of floating-point operations, and finds NaN and Inf, too. Integers are kept to 32 bits, which
numba would widen. The loops release the GIL. They allocate nothing: numba would count, with atomic operations, who has each
row, which takes as long as what is done to a short one.
"""

# mypy: ignore-errors
# numba compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numba
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

from plesio.codecs import blocks, noise

ABS, INF = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
TINY = np.int32(0x00800000)
MOST_1, MOST_7 = (np.int32(blocks.largest_scale(levels)) for levels in (1, 7))
ONE, I32 = np.float32(1), np.int32
ROUND = np.float32(3 << 22)  # added, it leaves the nearest integer, half to even, in the lowest bits
LINE, AHEAD = 64, 8192  # bytes
KNOWN = (0, 68)  # the newest numba that was tried with what Shelf does
VERSION = tuple(int(part) for part in numba.__version__.split(".")[:2])
_FILES = [os.stat(path) for path in (__file__, blocks.__file__, noise.__file__)]
SHARED = [(file.st_mtime_ns, file.st_size) for file in _FILES]


class Shelf(FunctionCache):
    """Where on disk one compiled loop lies, of each machine and each type of its arguments.

    Before numba looks there it makes all ready that compiling takes, which took twice as long as all the rest of a codec's
    first use. What was compiled needs none of that; where nothing is found, numba makes ready then.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled for these types, or None."""
        if VERSION > KNOWN:
            return super().load_overload(sig, target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """What must be as it was when the loop was compiled: besides its own file, which numba looks at, what they share."""
        return (*super()._index_key(sig, codegen), *SHARED)


def shelf(loop: Any) -> Shelf | None:
    """Of that loop; None where there is no folder for any: each process then compiles for itself."""
    try:
        return Shelf(loop)
    except RuntimeError:
        return None


def compiled(**options: Any) -> Callable[[Any], Any]:
    """A decorator: the loop is compiled when it is first called with arguments of such types, or found on disk."""

    def compile_later(loop: Any) -> Any:
        found, on_disk = njit(nogil=True, error_model="numpy", _nrt=False, **options)(loop), shelf(loop)
        if on_disk is not None:
            found._cache = on_disk
        return found

    return compile_later


@intrinsic
def as_float(context: Any, bits: Any) -> Any:
    """The float32 of these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def as_bits(context: Any, value: Any) -> Any:
    """The bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def prefetch(context: Any, array: Any, at_bytes: Any) -> Any:
    """The cache line of an array there will be read soon; it may lie behind the array's end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = builder.bitcast(context.make_array(signature.args[0])(context, builder, arguments[0]).data, pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, is_data = (ir.Constant(number, n) for n in (0, 3, 1))
        builder.call(call, [builder.gep(data, [arguments[1]]), read, near, is_data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def put_line(context: Any, out: Any, source: Any, at: Any) -> Any:
    """A LINE of out: (n,) float32, aligned to one, from `at` on, becomes that of source, past the caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.FloatType(), LINE // 4).as_pointer()
        to, values = (
            builder.bitcast(builder.gep(context.make_array(kind)(context, builder, array).data, [arguments[2]]), line)
            for kind, array in zip(signature.args[:2], arguments[:2], strict=True)
        )
        put = builder.store(builder.load(values, align=4), to, align=LINE)
        put.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(out, source, types.intp), generate


@compiled(inline="always")
def put(out, source):
    """out: (n,) float32 becomes source, and is not read from memory first: for what nobody reads soon.

    n is a multiple of 16, and out aligned to a LINE.
    """
    for at in range(0, len(out), LINE // 4):
        put_line(out, source, at)


@compiled(inline="always")
def soon(x, r):
    """What comes AHEAD of row r: processors foresee long stretches only, and rows are two short ones each."""
    size = x.shape[1] * 4
    for i in range(0, size, LINE):
        prefetch(x, r * size + AHEAD + i)


@compiled(inline="always")
def largest(bits):
    """Of a row's values: the bits of the largest magnitude."""
    top = I32(0)
    for i in range(len(bits)):
        top = max(top, I32(bits[i] & ABS))
    return top


@compiled(inline="always")
def rounded(scale, top, most):
    """The bits of a scale, of which 16 remain: 0 for a block of zeros, else a normal number, not beyond `most`."""
    if top == 0:
        return I32(0)
    return min(max(I32((scale + I32(0x8000)) & I32(-0x10000)), TINY), most)

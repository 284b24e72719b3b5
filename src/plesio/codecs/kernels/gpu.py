"""What encodes and decodes blocks on GPUs, near the speed of their memory: one Triton kernel each way.

Each makes the bytes that its stage makes in torch on a CPU, which needs care where GPUs are free to be inexact. Triton's
`/` is within 2 units in the last place: scales are divided by `div_rn`, which rounds as CPUs do. A product that is added
to is one instruction that rounds once, where a CPU rounds twice: kernels are launched with `enable_fp_fusion=False`, which
forbids that to LLVM and to ptxas. The largest magnitude and the roundings of a scale are found on bits, as integers; half
to even comes of adding a number whose last bit is worth 1, as in `compiling`. Sums of magnitudes are of float64.

A program has a tile of whole blocks, so that a value is read once. A tensor's scales and codes are one piece of device
memory, its codes at a multiple of 16 bytes: one copy takes them to the host or brings them, and no chunk waits for one.
On tensors of the CPU it runs where TRITON_INTERPRET=1 was set before triton was imported: slowly, for tests.
"""

# mypy: ignore-errors
# Triton compiles these functions for what they are called with: they have no types of their own.

from __future__ import annotations

import torch
import triton
import triton.language as tl

from plesio.codecs.base import fill
from plesio.codecs.blocks import largest_scale

MAX_BLOCK = 1 << 13  # values of a block: a program holds them all
TILE = 1 << 12  # values a program, where blocks are smaller
LAUNCH = {"num_warps": 8, "enable_fp_fusion": False}
ABS, INF = tl.constexpr(0x7FFFFFFF), tl.constexpr(0x7F800000)
SCALE_MASK, TINY = tl.constexpr(-(1 << 7)), tl.constexpr(0x00800000)
ROUND, ROUND_BITS = tl.constexpr(float(3 << 22)), tl.constexpr(0x4B400000)  # see compiling.ROUND
FINE = tl.constexpr(32000.0)  # see nf4.FINE


@triton.jit
def _places(BLOCK: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """(rows: (ROWS,), which blocks; columns: (COLUMNS,); places: (ROWS, COLUMNS), where their values are)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    return rows, columns, rows[:, None] * BLOCK + columns[None, :]


@triton.jit
def encode_blocks(
    x, scales, codes, flag, middles, numel, sent, RULE: tl.constexpr, BITS: tl.constexpr, WIDE: tl.constexpr,
    MOST: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """x: (numel,), any float dtype; scales: int32 or int16; codes: (sent,) uint8; flag: (1,), set where one is not finite.

    middles: (15,) int16, of levels; see blocks.encode_16. MOST: the bits of the largest scale of 16 bits.
    """
    GROUP: tl.constexpr = 8 // BITS
    TOP: tl.constexpr = (1 << (BITS - 1)) - 1  # the largest multiple
    rows, columns, places = _places(BLOCK, COLUMNS, ROWS)
    values = tl.load(x + places, mask=(columns < BLOCK)[None, :] & (places < numel), other=0.0).to(tl.float32)
    bits = values.to(tl.int32, bitcast=True)
    top = tl.max(bits & ABS, axis=1)
    tl.store(flag + tl.zeros_like(rows), 1, mask=top >= INF)

    if RULE == "signs":
        count = tl.maximum(tl.minimum(numel - rows * BLOCK, BLOCK), 1).to(tl.float64)
        mean = tl.sum(tl.abs(values.to(tl.float64)), axis=1) / count  # of float64 this rounds as it should
        wanted = mean.to(tl.float32).to(tl.int32, bitcast=True)
    elif RULE == "levels":
        wanted = top
    else:
        wanted = tl.math.div_rn(top.to(tl.float32, bitcast=True), TOP * 1.0).to(tl.int32, bitcast=True)
    if WIDE:
        scale = tl.maximum(wanted & SCALE_MASK, TINY)
        tl.store(scales + rows, scale, mask=rows * BLOCK < numel)
    else:
        scale = tl.minimum(tl.maximum((wanted + 0x8000) & -0x10000, TINY), MOST)
        scale = tl.where(top == 0, 0, scale)
        tl.store(scales + rows, (scale >> 16).to(tl.int16), mask=rows * BLOCK < numel)

    exact = scale.to(tl.float32, bitcast=True)
    inverse = tl.where(scale > 0, tl.math.div_rn(1.0, tl.where(scale > 0, exact, 1.0)), 0.0)
    if RULE == "signs":
        code = (bits >> 31) + 1
    elif RULE == "levels":
        steps = (values * inverse[:, None] * FINE + ROUND).to(tl.int32, bitcast=True) - ROUND_BITS
        code = tl.zeros([ROWS, COLUMNS], tl.int32)
        for j in tl.static_range(15):
            code += (steps > tl.load(middles + j).to(tl.int32)).to(tl.int32)
    else:
        code = (values * inverse[:, None] + ROUND).to(tl.int32, bitcast=True)
        code = (code + (TOP + 1) * (BITS < 8)) & ((1 << BITS) - 1)

    many = tl.arange(0, COLUMNS // GROUP)
    if GROUP > 1:
        code = code << ((columns % GROUP) * BITS)[None, :]
        code = tl.sum(tl.reshape(code, [ROWS, COLUMNS // GROUP, GROUP]), axis=2)
    at = rows[:, None] * (BLOCK // GROUP) + many[None, :]
    tl.store(codes + at, code.to(tl.uint8), mask=(many < BLOCK // GROUP)[None, :] & (at < sent))


@triton.jit
def decode_blocks(
    scales, codes, out, levels, weight, numel, sent, RULE: tl.constexpr, BITS: tl.constexpr, WIDE: tl.constexpr,
    MOST: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """out: (numel,) is set to weight times the values, or that is added. levels: (16,) float32. MOST: see narrowed; or 0."""
    GROUP: tl.constexpr = 8 // BITS
    TOP: tl.constexpr = (1 << (BITS - 1)) - 1
    rows, columns, places = _places(BLOCK, COLUMNS, ROWS)
    many = tl.arange(0, COLUMNS // GROUP)
    at = rows[:, None] * (BLOCK // GROUP) + many[None, :]
    code = tl.load(codes + at, mask=(many < BLOCK // GROUP)[None, :] & (at < sent), other=0).to(tl.int32)
    if GROUP > 1:
        code = code[:, :, None] >> (tl.arange(0, GROUP) * BITS)[None, None, :]
        code = tl.reshape(code & ((1 << BITS) - 1), [ROWS, COLUMNS])

    scale = tl.load(scales + rows, mask=rows * BLOCK < numel, other=0).to(tl.int32)
    if not WIDE:
        scale = scale << 16
    scale = (scale.to(tl.float32, bitcast=True) * weight)[:, None]
    if RULE == "signs":  # of zeros, too
        value = (scale.to(tl.int32, bitcast=True) ^ ((code - 1) & -0x80000000)).to(tl.float32, bitcast=True)
    elif RULE == "levels":
        value = tl.load(levels + code) * scale
    else:
        multiple = (code << 24) >> 24 if BITS == 8 else code - (TOP + 1)
        value = tl.maximum(multiple, -TOP).to(tl.float32) * scale
    if MOST > 0:
        value = tl.minimum(tl.maximum(value, -MOST), MOST)
    if out.dtype.element_ty == tl.bfloat16:  # the interpreter rounds it otherwise
        exact = value.to(tl.int32, bitcast=True)
        value = ((exact + 0x7FFF + ((exact >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)

    there = (columns < BLOCK)[None, :] & (places < numel)
    if ADD:
        value += tl.load(out + places, mask=there, other=0.0)
    tl.store(out + places, value.to(out.dtype.element_ty), mask=there)


def encode(stage, flat, sent, middles) -> bool:
    """Fills sent, scales and codes, (k,) uint8 of the CPU, from flat: (numel,). False where a value is not finite.

    stage: a Blocks. middles: (15,) int16, for those of levels.
    """
    made = room(stage, flat.numel(), flat.device)
    flag = torch.zeros(1, dtype=torch.int32, device=flat.device)
    to_room(stage, flat, made, flag, flag if middles is None else middles.to(flat.device))
    if int(flag):  # the host waits here, for all of it
        return False
    sent.copy_(made)
    return True


def decode(stage, payload, offset_bytes, out, weight, levels) -> None:
    """out: (numel,), contiguous, is set to what payload says behind so many bytes; or weight times that is added.

    levels: (16,) float32, for those of levels.
    """
    made = room(stage, out.numel(), out.device)
    staged = torch.empty(len(made), dtype=torch.uint8, pin_memory=out.is_cuda)
    made.copy_(fill(staged, payload, offset_bytes), non_blocking=True)
    from_room(stage, made, out, weight, made if levels is None else levels.to(out.device))


def room(stage, numel, device):
    """(k,) uint8 of the device: for the scales of so many values, and behind them their codes."""
    split = stage.scale_bytes * -(-numel // stage.block)
    pad = -split % 16
    return torch.empty(pad + split + -(-numel * stage.bits // 8), dtype=torch.uint8, device=device)[pad:]


def to_room(stage, flat, made, flag, middles) -> None:
    """Encodes. All are on one device; see encode_blocks."""
    scales, codes = _parts(stage, made, flat.numel())
    most = largest_scale(1 if stage.rule != "multiples" else (1 << (stage.bits - 1)) - 1)
    places = (flat.contiguous(), scales, codes, flag, middles, flat.numel(), len(codes))
    _launch(encode_blocks, stage, flat, (*places, stage.rule, stage.bits, stage.wide, most))


def from_room(stage, made, out, weight, levels) -> None:
    """Decodes, or adds, where there is a weight. All are on one device; see decode_blocks."""
    scales, codes = _parts(stage, made, out.numel())
    most = torch.finfo(out.dtype).max if out.dtype.itemsize < 4 else 0.0
    places = (scales, codes, out, levels, 1.0 if weight is None else weight, out.numel(), len(codes))
    _launch(decode_blocks, stage, out, (*places, stage.rule, stage.bits, stage.wide, most, weight is not None))


def _parts(stage, made, numel):
    split = stage.scale_bytes * -(-numel // stage.block)
    return made[:split].view(torch.int32 if stage.wide else torch.int16), made[split:]


def _launch(kernel, stage, flat, arguments):
    columns = triton.next_power_of_2(stage.block)
    rows = max(1, TILE // columns)
    with torch.cuda.device_of(flat):  # nothing, for the CPU
        kernel[(triton.cdiv(flat.numel(), rows * stage.block),)](*arguments, stage.block, columns, rows, **LAUNCH)

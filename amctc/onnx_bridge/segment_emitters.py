"""How ONNX Runtime's kernels compute the ops of the ``ascend`` dialect, bit for bit.

QLinearConv and QGemm multiply the finished int32 sum, as float32, by one float32 number per channel, round half to even
and add a zero point: with scales of 1 for data and result that number is the weight's scale, so it can be the
multiplier of N17 itself. Its clips lie at integers, before the rounding or after: for an offset of an int8 neither
they nor the int9 clip of N17 can be told from one clip at the end. QGemm without a result scale stops after the
multiplication, which is the first half of N12. Which ops may be computed so is decided in
:mod:`amctc.execution.segments`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from amctc.ir import Op, Value
from amctc.numerics.rounding import MAX_FLOAT16
from amctc.onnx_bridge.float_convs import emit_group_conv
from amctc.onnx_bridge.segment_products import ONE, Array, Product
from amctc.onnx_bridge.segment_writer import RUNTIME_DOMAIN, TO_LAST, UNSIGNED, SegmentWriter, channels_are_last

LONGEST_ROW = 8192
"""Elements of an image row that still lie in the first cache with their factors: beyond, longer rows gain nothing."""


def emit_requant(w: SegmentWriter, result: Value, product: Product, multiplier: Array, offset: int, relu: bool) -> None:
    """int8 from a product in one step (N17); ``relu`` is the branch of multiplier 0."""
    clipped = relu and offset > -UNSIGNED
    name = "" if clipped else w.name(result)
    point = w.constant(np.array(offset + UNSIGNED, np.uint8))
    if product.is_conv:
        made = _conv(w, product, multiplier, point, name)
    else:
        rows = _gemm(w, product, w.name(product.x), multiplier, (w.constant(ONE), point))
        made = _shaped(w, rows, result, name)
    if clipped:
        w.node("Clip", made, point, w.constant(np.array(255, np.uint8)), result=w.name(result))


def emit_dequant(w: SegmentWriter, result: Value, product: Product, multiplier: Array, relu: bool, clip: bool) -> None:
    """float16 from a product (N12, N13): f16(f32(acc) · multiplier); ``clip`` where it may leave float16."""
    rows = _scaled(w, product, multiplier)
    if relu:
        rows = w.node("Relu", rows)
    _shaped(w, w.rounded_to_half(_kept_in_float16(w, rows, clip)), result, w.name(result))


def emit_dequant_vector(
    w: SegmentWriter, result: Value, product: Product, guard: float, scales: Sequence[Array], relu: bool,
    clips: Sequence[bool],
) -> None:  # fmt: skip
    """float16 from a product on the vector unit (N15): the sums times ``guard``, then times each of ``scales``.

    Every product is rounded to float16; ``clips`` says which of them may leave it. The first of ``scales`` takes the
    guard back, the second is there in sqrt_mode. Relu comes before the second rounding here: of a negative number both
    orders make +0.
    """
    first, *others = clips
    x = _scaled(w, product, np.full(product.outputs, guard, np.float32))
    x, repeats = _widened(w, w.rounded_to_half(_kept_in_float16(w, x, first)), result)
    for number, (scale, clip) in enumerate(zip(scales, others, strict=True)):
        x = w.node("Mul", x, w.constant(np.tile(scale, repeats)))
        if relu and number == 0:
            x = w.node("Relu", x)
        x = w.rounded_to_half(_kept_in_float16(w, x, clip))
    _shaped(w, x, result, w.name(result))


def emit_accumulator(w: SegmentWriter, result: Value, product: Product) -> None:
    """The int32 sums themselves (N7, N8)."""
    matrix = product.columns
    rows = w.node("Reshape", _patches(w, product), w.constant(np.array([-1, len(matrix)], np.int64)))
    point = w.constant(np.array(product.offset_x + UNSIGNED, np.uint8))
    sums = w.node("MatMulInteger", rows, w.constant(matrix), point)
    _shaped(w, w.node("Add", sums, w.constant(product.bias)), result, w.name(result))


def emit_quant(w: SegmentWriter, op: Op, data: Value, scales: tuple[float, ...], *, half: bool, clip: bool) -> None:
    """int8 from ``data`` (N2): multiplied by each of ``scales``, the offset added, rounded half to even.

    With ``half`` every number on the way is a float16 (N3), which ``clip`` says may have to be saturated.
    """

    def stepped(op_type: str, x: str, number: float) -> str:
        y = w.node(op_type, x, w.constant(np.float32(number)))
        return w.rounded_to_half(_kept_in_float16(w, y, clip)) if half else y

    kind: Any = op.kind
    x = w.name(data)
    for scale in scales:
        x = stepped("Mul", x, scale)
    if kind.offset:
        x = stepped("Add", x, kind.offset)
    point = w.constant(np.array(UNSIGNED, np.uint8))
    w.node("QuantizeLinear", x, w.constant(ONE), point, result=w.name(op.result))


def emit_add(w: SegmentWriter, op: Op, clip: bool) -> None:
    """Residual addition in float16 (N26); ``clip`` where the sum saturates."""
    total = w.node("Add", w.name(_operand(op, 0)), w.name(_operand(op, 1)))
    w.rounded_to_half(_kept_in_float16(w, total, clip), w.name(op.result))


def emit_relu(w: SegmentWriter, op: Op, signed_zero: bool) -> None:
    """max(x, +0) of float16 numbers; ``signed_zero`` where x may be -0, which the runtime's Relu passes on."""
    x = w.name(_operand(op, 0))
    if signed_zero:
        x = w.node("Add", x, w.constant(np.float32(0)))
    w.node("Relu", x, result=w.name(op.result))


def emit_clip(w: SegmentWriter, op: Op, low: float, high: float) -> None:
    """Float16 numbers between two of them."""
    w.node("Clip", w.name(_operand(op, 0)), w.constant(np.float32(low)), w.constant(np.float32(high)),
           result=w.name(op.result))  # fmt: skip


def emit_max_pool(w: SegmentWriter, op: Op) -> None:
    """MaxPool on stored integers (N26)."""
    kind: Any = op.kind
    w.node("NhwcMaxPool", w.name(_operand(op, 0)), domain=RUNTIME_DOMAIN, result=w.name(op.result),
           kernel_shape=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=kind.dilations,
           ceil_mode=int(kind.ceil_mode))  # fmt: skip


def emit_concat(w: SegmentWriter, op: Op, axis: int) -> None:
    """Concatenation; ``axis`` as the segment holds the values."""
    w.node("Concat", *(w.name(o) for o in op.operands if o is not None), axis=axis, result=w.name(op.result))


def _conv(w: SegmentWriter, product: Product, multiplier: Array, point: str, result: str) -> str:
    one, zeros = w.constant(ONE), np.zeros(multiplier.shape, np.int8)
    return w.node(
        "QLinearConv", w.name(product.x), one, w.constant(np.array(product.offset_x + UNSIGNED, np.uint8)),
        w.constant(product.weight), w.constant(multiplier), w.constant(zeros), one, point, w.constant(product.bias),
        domain=RUNTIME_DOMAIN, result=result, channels_last=1, kernel_shape=product.weight.shape[2:],
        strides=product.strides, pads=product.pads, dilations=product.dilations, group=product.group,
    )  # fmt: skip


def _gemm(w: SegmentWriter, product: Product, x: str, multiplier: Array, quantized_as: tuple[str, ...]) -> str:
    """f32(acc) · multiplier of the rows of ``x``, or the uint8 that it is ``quantized_as``: (outputs) last, 2 axes."""
    matrix = product.columns
    rows = w.node("Reshape", x, w.constant(np.array([-1, len(matrix)], np.int64)))
    zeros = np.zeros(multiplier.shape, np.int8)
    return w.node(
        "QGemm", rows, w.constant(ONE), w.constant(np.array(product.offset_x + UNSIGNED, np.uint8)),
        w.constant(matrix), w.constant(multiplier), w.constant(zeros), w.constant(product.bias), *quantized_as,
        domain=RUNTIME_DOMAIN,
    )  # fmt: skip


def _kept_in_float16(w: SegmentWriter, x: str, clip: bool) -> str:
    """``x``, saturated to the range of float16 if it may leave it."""
    return w.node("Clip", x, w.constant(np.float32(-MAX_FLOAT16)), w.constant(np.float32(MAX_FLOAT16))) if clip else x


def _scaled(w: SegmentWriter, product: Product, multiplier: Array) -> str:
    """f32(acc) · multiplier, output channels last."""
    if product.group == 1:
        return _gemm(w, product, _patches(w, product), multiplier, ())
    return emit_group_conv(w, product, multiplier)


def _widened(w: SegmentWriter, x: str, result: Value) -> tuple[str, int]:
    """``x``, channels last, with whole image rows in its last axis, and how many columns that are.

    Factors per channel are then repeated along a row: the runtime begins anew for each run of the last axis.
    """
    if not channels_are_last(result.type):
        return x, 1
    _, channels, _, columns = result.type.dims
    assert isinstance(channels, int)
    assert isinstance(columns, int)
    if channels * columns > LONGEST_ROW:
        return x, 1
    return w.node("Reshape", x, w.constant(np.array([-1, columns * channels], np.int64))), columns


def _patches(w: SegmentWriter, product: Product) -> str:
    """What each output position meets, kernel positions outermost, channels inside; the data where that is one."""
    x = w.name(product.x)
    if not product.is_conv:
        return x
    if any(product.pads):
        top, left, bottom, right = product.pads
        amounts = w.constant(np.array([0, top, left, 0, 0, bottom, right, 0], np.int64))
        x = w.node("Pad", x, amounts, w.constant(np.array(product.offset_x + UNSIGNED, np.uint8)))
    kernel = product.weight.shape[2:]
    if math.prod((*kernel, *product.strides)) == 1:
        return x
    last = [d * (k - 1) for d, k in zip(product.dilations, kernel, strict=True)]
    axes, steps = w.constant(np.array([1, 2], np.int64)), w.constant(np.array(product.strides, np.int64))
    taps = []
    for tap in np.ndindex(*kernel):
        starts = [i * d for i, d in zip(tap, product.dilations, strict=True)]
        ends = [s - e if s < e else np.iinfo(np.int64).max for s, e in zip(starts, last, strict=True)]
        bounds = (w.constant(np.array(b, np.int64)) for b in (starts, ends))
        taps.append(w.node("Slice", x, *bounds, axes, steps))
    return taps[0] if len(taps) == 1 else w.node("Concat", *taps, axis=3)


def _shaped(w: SegmentWriter, rows: str, result: Value, name: str) -> str:
    """Rows of 2 axes in the shape in which a segment holds ``result``, whose axes after the first are known."""
    dims = result.type.dims
    if channels_are_last(result.type):
        dims = tuple(dims[axis] for axis in TO_LAST)
    return w.node("Reshape", rows, w.constant(np.array([-1, *dims[1:]], np.int64)), result=name)


def _operand(op: Op, index: int) -> Value:
    value = op.operands[index]
    assert value is not None
    return value

"""Which layers a pass works on: by name with wildcards, and by what the target can compute in integers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np

from amctc.errors import UsageError
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.numerics.bias import accumulator_scale
from amctc.numerics.rounding import MAX_FLOAT16
from amctc.ops import ascend, nn
from amctc.targets import Profile
from amctc.types import F32, I4, I8, Array, QuantizedType
from amctc_passes.facts import is_quantized, quantized_type, stored_under


def layers(graph: Graph) -> Iterator[Op]:
    """The ops with a weight, in topological order."""
    return (op for op in graph.ops if isinstance(op.kind, nn.Layer))


def named(name: str, pattern: str) -> bool:
    """Whether ``pattern``, a name or one with wildcards, is meant for ``name``."""
    return name == pattern or fnmatchcase(name, pattern)


def matching(names: Sequence[str], patterns: Sequence[str], what: str, *, noun: str = "layer") -> set[str]:
    """The names that any of ``patterns`` matches; a pattern that matches no ``noun`` is an error."""
    found: set[str] = set()
    for pattern in patterns:
        hits = {n for n in names if named(n, pattern)}
        if not hits:
            near = difflib.get_close_matches(pattern, names, 3) or sorted(names)[:3]
            known = f"there are, for example, {', '.join(near)}" if near else "the model has none"
            raise UsageError(f"{what} {pattern!r} matches no {noun}", remedy=known)
        found |= hits
    return found


def integer_obstacle(op: Op, target: Profile) -> str | None:
    """Why a layer or an average pool cannot run in integers on ``target``; ``None`` when it can.

    The rules are those of the numerics page, section Layers.
    """
    kind, x = op.kind, op.operands[0]
    assert x is not None
    if "i8" not in target.storage:
        return f"{target.name} does not compute in int8"
    if x.type.elem != F32 and x.type.is_float:
        return f"activations are {x.type.elem}"
    if is_constant(op, 0):
        computed = not isinstance(kind, nn.AveragePool) and not is_constant(op, 1)
        return "the constant stands on the left, where the target takes data" if computed else "its input is constant"
    if isinstance(kind, nn.AveragePool):
        return "its windows average different numbers of inputs" if ascend.SumPool.of(kind, x.type) is None else None
    assert isinstance(kind, nn.Layer)
    if op.operand(2) is not None and not is_constant(op, 2):
        return "the bias is computed, not constant"
    return _shape_obstacle(op) if is_constant(op, 1) else _two_sided_obstacle(op, target)


def row_obstacle(op: Op, target: Profile) -> str | None:
    """Why the data of a layer cannot be quantized row by row as it comes (N6, N13); ``None`` when it can.

    For one that runs on integers at all (:func:`integer_obstacle`).
    """
    if not isinstance(op.kind, nn.MatMul | nn.Gemm):
        return "it is no matrix product"
    if not target.row_scales:
        return f"{target.name} has no product of rows that have scales of their own (N6, N13)"
    if not is_constant(op, 1):
        return "both sides are computed"
    return "its data is a vector" if op.operands[0] is not None and op.operands[0].type.rank < 2 else None


def _two_sided_obstacle(op: Op, target: Profile) -> str | None:
    """Why a product of two computed operands stays in float."""
    if not isinstance(op.kind, nn.MatMul):
        return "the weight is computed, not constant"
    if not target.batch_matmul_int8:
        return f"both sides are computed, which does not pay on {target.name}"
    vector = any(o is not None and o.type.rank < 2 for o in op.operands[:2])
    return "both sides are computed, one of them a vector" if vector else None


def _shape_obstacle(op: Op) -> str | None:
    kind, w = op.kind, op.operands[1]
    assert w is not None
    if isinstance(kind, nn.Conv) and w.type.rank == 5 and kind.dilations[0] != 1:
        return "a 3-d convolution dilated in depth"
    if isinstance(kind, nn.ConvTranspose):
        if set(kind.dilations) != {1}:
            return "a dilated transposed convolution"
        if any(extra >= s for extra, s in zip(kind.output_padding, kind.strides, strict=False)):
            return "output padding as large as the stride"
    if isinstance(kind, nn.MatMul) and w.type.rank != 2:
        return "the constant side is no matrix"
    if isinstance(kind, nn.Gemm):
        if kind.trans_a:
            return "Gemm with a transposed first operand"
        if kind.alpha != 1.0 or kind.beta != 1.0:
            return "Gemm with factors alpha or beta (run fold-gemm-factors)"
        bias = op.operand(2)
        columns = w.type.dims[0 if kind.trans_b else 1]
        if bias is not None and bias.type.dims != (columns,):
            return f"a bias of shape {list(bias.type.dims)} is not one per output"
    return None


def int4_obstacle(op: Op, target: Profile) -> str | None:
    """Why the weight of a layer cannot be stored in 4 bits (N4: packed in pairs along Cin); ``None`` when it can."""
    kind, w = op.kind, op.operands[1]
    assert isinstance(kind, nn.Layer)
    assert w is not None
    if "i4" not in target.storage:
        return f"{target.name} stores no int4"
    if isinstance(kind, nn.Conv | nn.ConvTranspose) and kind.group != 1:
        return "a grouped convolution"
    channels = w.type.dims[nn.weight_input_axis(kind, w.type)]
    return f"an odd number of input channels, {channels}" if isinstance(channels, int) and channels % 2 else None


def float_data_obstacle(op: Op, target: Profile) -> str | None:
    """Why the weight of a layer on float data stays in float too (N21); ``None`` when integers can stand for it."""
    weight = op.operands[1]
    assert weight is not None
    if not isinstance(op.kind, nn.MatMul | nn.Gemm):
        return "a convolution"
    if not target.weight_only:
        return f"{target.name} computes no integer weights under float data"
    if constant_data(weight) is None:
        return "it is computed, not constant"
    return None if weight.type.rank == 2 else "the constant side is no matrix"


def weight_only_obstacle(op: Op, target: Profile | None = None) -> str | None:
    """Why a layer of float data and a constant quantized weight takes float weights (N21); ``None`` when it need not.

    Without a target, whether the form exists at all.
    """
    kind, w, bias = op.kind, op.operands[1], op.operand(2)
    assert w is not None
    elem = quantized_type(w)
    if not isinstance(kind, nn.MatMul | nn.Gemm):
        return "only its weight is quantized, and the target has no such convolution"
    if target is not None and not target.weight_only:
        return f"{target.name} computes no integer weights under float data"
    if elem.storage not in (I4, I8) or (elem.low, elem.high) != elem.storage.integer_range:
        return f"only its weight is quantized, stored as {elem.storage}"
    if target is not None and elem.storage == I4 and (obstacle := int4_obstacle(op, target)) is not None:
        return f"an int4 weight of {obstacle} (N4)"
    if bias is not None and constant_data(bias) is None:
        return "the bias is computed or quantized"
    along = nn.weight_input_axis(kind, w.type) if elem.block else nn.weight_channel_axis(kind, w.type)
    if elem.axis not in (None, along):
        return "weight scales run over another axis"
    scales = elem.scale_array
    if scales.size and not (scales.min() >= SMALLEST_FLOAT16 and scales.max() <= MAX_FLOAT16):
        return "a weight scale is beyond float16"
    return _shape_obstacle(op)


SMALLEST_FLOAT16 = np.float32(2.0**-24)
"""The least positive float16, a subnormal."""


def accumulator_scales(kind: nn.Layer, activation: QuantizedType, weight: QuantizedType) -> Array:
    """scale_d · scale_w, float32 ``[1]`` or one per output channel; groups of ConvTranspose share the weight's."""
    scales = accumulator_scale(weight.scale_array, np.float32(activation.scales[0]))
    if isinstance(kind, nn.ConvTranspose) and weight.axis is not None:
        return np.tile(scales, kind.group)
    return scales


def quantized_name(value: Value, op: Op, role: str) -> str:
    """What the integers of ``value``, operand ``role`` of ``op``, are called."""
    return f"{value.name or f'{layer_name(op)}.{role}'}.quant"


def is_constant(op: Op, index: int) -> bool:
    """True for a constant operand, quantized or not."""
    value = op.operand(index)
    return constant_data(stored_under(value) if is_quantized(value) else value) is not None


def names(graph: Graph) -> list[str]:
    """Names of all layers."""
    return [layer_name(op) for op in layers(graph)]

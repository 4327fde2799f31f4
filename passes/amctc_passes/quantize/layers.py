"""Which layers a pass works on: by name with wildcards, and by what the target can compute in integers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from amctc.errors import UsageError
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.ops import nn, quant
from amctc.targets import Profile
from amctc.types import F32


def layers(graph: Graph) -> Iterator[Op]:
    """The ops with a weight, in topological order."""
    return (op for op in graph.ops if isinstance(op.kind, nn.Layer))


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> set[str]:
    """The layer names that any of ``patterns`` matches; a pattern that matches nothing is an error."""
    found: set[str] = set()
    for pattern in patterns:
        hits = {n for n in names if n == pattern or fnmatchcase(n, pattern)}
        if not hits:
            near = difflib.get_close_matches(pattern, names, 3) or sorted(names)[:3]
            raise UsageError(
                f"{what} {pattern!r} matches no layer", remedy=f"layers are called, for example, {', '.join(near)}"
            )
        found |= hits
    return found


def integer_obstacle(op: Op, target: Profile) -> str | None:
    """Why a layer cannot run in integers on ``target``; ``None`` when it can.

    The rules are those of the numerics page, section Layers; what our interpreter does not compute yet says so.
    """
    kind = op.kind
    x, w = op.operands[0], op.operands[1]
    assert x is not None
    assert w is not None
    if "i8" not in target.storage:
        return f"{target.name} does not compute in int8"
    if x.type.elem != F32 and x.type.is_float:
        return f"activations are {x.type.elem}"
    if isinstance(kind, nn.ConvTranspose):
        return "int8 ConvTranspose is not simulated yet"
    if constant_data(x) is not None or _quantized_constant(op, 0):
        return "its input is constant"
    if constant_data(w) is None and not _quantized_constant(op, 1):
        return "both sides are computed" if isinstance(kind, nn.MatMul) else "the weight is computed, not constant"
    bias = op.operand(2)
    if bias is not None and constant_data(bias) is None and not _quantized_constant(op, 2):
        return "the bias is computed, not constant"
    return _shape_obstacle(op)


def _shape_obstacle(op: Op) -> str | None:
    kind, w = op.kind, op.operands[1]
    assert w is not None
    if isinstance(kind, nn.Conv) and w.type.rank == 5 and kind.dilations[0] != 1:
        return "a 3-d convolution dilated in depth"
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
    channels = w.type.dims[1 - min(1, nn.weight_channel_axis(kind, w.type))]
    if isinstance(kind, nn.MatMul):
        channels = w.type.dims[-2] if w.type.rank > 1 else w.type.dims[0]
    return f"an odd number of input channels, {channels}" if isinstance(channels, int) and channels % 2 else None


def quantized_name(value: Value, op: Op, role: str) -> str:
    """What the integers of ``value``, operand ``role`` of ``op``, are called."""
    return f"{value.name or f'{layer_name(op)}.{role}'}.quant"


def _quantized_constant(op: Op, index: int) -> bool:
    value = op.operand(index)
    if value is None or value.producer is None or not isinstance(value.producer.kind, quant.Dequantize):
        return False
    return constant_data(value.producer.operands[0]) is not None


def names(graph: Graph) -> list[str]:
    """Names of all layers."""
    return [layer_name(op) for op in layers(graph)]

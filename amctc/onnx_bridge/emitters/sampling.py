"""Pooling, reductions and resampling."""

from __future__ import annotations

import numpy as np

from amctc.ir import Op
from amctc.onnx_bridge.emitters.nodes import Formula, node_name, simple
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.onnx_bridge.needed_opset import is_dilated
from amctc.ops import nn
from amctc.ops.reductions import Reduction
from amctc.schema import OpKind
from amctc.types import Shape


def _max_pool(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.MaxPool)
    simple("MaxPool", kernel_shape=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=kind.dilations,
           ceil_mode=int(kind.ceil_mode))(writer, op)  # fmt: skip


def _average_pool(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, nn.AveragePool)
    dilations = kind.dilations if is_dilated(kind) else None  # the attribute came with opset 19
    simple("AveragePool", kernel_shape=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=dilations,
           ceil_mode=int(kind.ceil_mode), count_include_pad=int(kind.count_include_pad))(writer, op)  # fmt: skip


def _reduction(op_type: str, operand_since: int) -> Emitter:
    """The axes are an operand since opset ``operand_since``, before an attribute."""

    def emit(writer: Writer, op: Op) -> None:
        kind = op.kind
        assert isinstance(kind, Reduction)
        result, inputs = writer.name(op.result), [writer.name(op.operands[0])]
        if writer.opset >= operand_since:
            inputs.append(writer.constant(f"{result}/axes", np.asarray(kind.axes, np.int64)))
        writer.node(op_type, inputs, [result], node_name(op, op_type), keepdims=int(kind.keepdims),
                    axes=None if writer.opset >= operand_since else kind.axes)  # fmt: skip

    return emit


def _resize(writer: Writer, op: Op) -> None:
    """Scales or sizes of all axes: below opset 18 there is no other form."""
    kind, x = op.kind, op.operands[0]
    assert isinstance(kind, nn.Resize)
    assert x is not None
    f, rank = Formula(writer, op), x.type.rank
    axes = [a % rank for a in kind.axes]
    scales = sizes = ""
    if kind.scales:
        full = [kind.scales[axes.index(i)] if i in axes else 1.0 for i in range(rank)]
        scales = writer.constant(f"{f.result}/scales", np.asarray(full, np.float32))
    else:
        sizes = _sizes(f, tuple(kind.sizes[axes.index(i)] if i in axes else d for i, d in enumerate(x.type.dims)))
    f.step("Resize", f.operands[0], "", *((scales, sizes) if sizes else (scales,)), last=True, mode=kind.mode,
           coordinate_transformation_mode=kind.coordinates, nearest_mode=kind.rounding)  # fmt: skip


def _sizes(f: Formula, dims: Shape) -> str:
    """The sizes of all axes; those that are no numbers are read from the operand when the model runs."""
    if all(isinstance(d, int) for d in dims):
        return f.integers("sizes", *(d for d in dims if isinstance(d, int)))
    shape = f.step("Shape", f.operands[0])
    parts = [
        f.integers("size", d) if isinstance(d, int) else f.step("Gather", shape, f.integers("axis", i))
        for i, d in enumerate(dims)
    ]
    return f.step("Concat", *parts, axis=0)


SAMPLING: dict[type[OpKind], Emitter] = {
    nn.MaxPool: _max_pool, nn.AveragePool: _average_pool, nn.GlobalAveragePool: simple("GlobalAveragePool"),
    nn.GlobalMaxPool: simple("GlobalMaxPool"), nn.ReduceMean: _reduction("ReduceMean", 18),
    nn.ReduceMax: _reduction("ReduceMax", 18), nn.ReduceSum: _reduction("ReduceSum", 13), nn.Resize: _resize,
}  # fmt: skip

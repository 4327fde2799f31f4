"""An integer graph written out in standard ONNX ops, so that the reference evaluator of ONNX can run the same thing.

For targets whose quantizers compute in float32 and whose epilogue is the fixpipe (N2, N12, N17). An independent reading
of these rules too: what it gives must equal the interpreter's results in every bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, constant_data, layer_name
from amctc.numerics.fixed_point import unpack_dequant, unpack_requant
from amctc.onnx_bridge import export_model
from amctc.onnx_bridge.emitters import STANDARD
from amctc.onnx_bridge.exporter import Writer
from amctc.ops import ascend
from amctc.types import F16

MAX_FLOAT16 = 65504.0
LOW_BITS = np.uint32(0x1FFF)
"""The mantissa bits of a multiplier that the fixpipe drops (N12)."""


def standard_form(graph: Graph) -> onnx.ModelProto:
    """The model; :class:`UnsupportedError` for ops that this form lacks."""
    own = {ascend.Quant: _quant, ascend.Conv: _conv, ascend.MatMul: _matmul, ascend.Dequant: _dequant,
           ascend.Requant: _requant}  # fmt: skip
    return export_model(graph, {**STANDARD, **own})


def _chain(writer: Writer, op: Op, x: str, *steps: tuple[Any, ...]) -> None:
    """Nodes applied one after the other, the last giving the result: (op type, further operands…, attributes)."""
    for number, (op_type, *operands, attributes) in enumerate(steps, 1):
        last = number == len(steps)
        names = [writer.constant("parameter", o) for o in operands]
        y = writer.name(op.result) if last else writer.tensor(f"{layer_name(op)}/step")
        writer.node(op_type, [x, *names], [y], layer_name(op), **attributes)
        x = y


def _clip(low: float, high: float) -> tuple[Any, ...]:
    return "Clip", np.float32(low), np.float32(high), {}


def _quant(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, ascend.Quant)
    if kind.sqrt_mode or kind.to.bits != 8:
        raise UnsupportedError("this form has int8 quantizers without sqrt_mode", where=layer_name(op))
    _chain(writer, op, writer.name(op.operands[0]), ("Cast", {"to": TensorProto.FLOAT}),
           ("Mul", np.float32(kind.scale), {}), ("Add", np.float32(kind.offset), {}), ("Round", {}),
           _clip(-128, 127), ("Cast", {"to": TensorProto.INT8}))  # fmt: skip


def _product(writer: Writer, op: Op, op_type: str, weight: str, bias_axes: int, **attributes: Any) -> None:
    """Σ w · (q − offset) + bias, which is what N8 folds into the bias."""
    offset = writer.constant("offset", np.int8(op.kind.offset_x))  # type: ignore[attr-defined]
    bias = None if op.operand(2) is None else constant_data(op.operand(2))
    acc = writer.tensor(f"{layer_name(op)}/products") if bias else writer.name(op.result)
    writer.node(op_type, [writer.name(op.operands[0]), weight, offset], [acc], layer_name(op), **attributes)
    if bias:
        added = writer.constant("bias", bias.read().reshape(-1, *(1,) * bias_axes))
        writer.node("Add", [acc, added], [writer.name(op.result)], layer_name(op))


def _conv(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, ascend.Conv)
    weight, shape = op.operands[1], op.operands[1].type.dims  # type: ignore[union-attr]
    _product(writer, op, "ConvInteger", writer.name(weight), len(shape) - 2, kernel_shape=list(shape[2:]),
             strides=list(kind.strides), pads=list(kind.pads), dilations=list(kind.dilations),
             group=kind.group)  # fmt: skip


def _matmul(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, ascend.MatMul)
    weight = writer.name(op.operands[1])
    if kind.trans_b:
        turned = writer.tensor(f"{layer_name(op)}/weight")
        writer.node("Transpose", [weight], [turned], layer_name(op), perm=[1, 0])
        weight = turned
    _product(writer, op, "MatMulInteger", weight, 0)


def _parameter(op: Op, rank: int) -> tuple[Any, Any]:
    """The multiplier of an epilogue, cut to 19 bits and shaped for its axis, and what else its word says."""
    data, kind = constant_data(op.operands[1]), op.kind
    assert data is not None
    assert isinstance(kind, ascend.Dequant | ascend.Requant)
    word, rest = data.read(), None
    if word.dtype == np.uint64 and isinstance(kind, ascend.Dequant):
        word, rest, _ = unpack_dequant(word)
    elif word.dtype == np.uint64:
        word, rest, _, _ = unpack_requant(word)
    if isinstance(kind, ascend.Dequant):
        word = word / np.float32(kind.divisor)
    cut = (np.asarray(word, np.float32).view(np.uint32) & ~LOW_BITS).view(np.float32)
    return cut if cut.size == 1 else cut.reshape(-1, *(1,) * (rank - 1 - kind.axis % rank)), rest


def _dequant(writer: Writer, op: Op) -> None:
    kind, (acc, _) = op.kind, op.operands
    assert isinstance(kind, ascend.Dequant)
    multiplier, shift = _parameter(op, len(op.result.type.dims))
    if kind.to != F16 or (shift is not None and np.any(shift)):
        raise UnsupportedError("this form dequantizes to float16 without a shift", where=layer_name(op))
    relu = [_clip(0, math.inf)] if kind.relu else []
    _chain(writer, op, writer.name(acc), ("Cast", {"to": TensorProto.FLOAT}), *relu, ("Mul", multiplier, {}),
           _clip(-MAX_FLOAT16, MAX_FLOAT16), ("Cast", {"to": TensorProto.FLOAT16}))  # fmt: skip


def _requant(writer: Writer, op: Op) -> None:
    kind, (acc, _) = op.kind, op.operands
    assert isinstance(kind, ascend.Requant)
    if kind.slope not in (0.0, 1.0):
        raise UnsupportedError("this form has no leaky relu", where=layer_name(op))
    multiplier, offset = _parameter(op, len(op.result.type.dims))
    if offset is None:
        offset = np.array([kind.offset])
    if len(set(np.asarray(offset).reshape(-1).tolist())) != 1:
        raise UnsupportedError("this form requantizes with one offset", where=layer_name(op))
    least = 0 if kind.slope == 0 else -256
    _chain(writer, op, writer.name(acc), ("Cast", {"to": TensorProto.FLOAT}), ("Mul", multiplier, {}),
           _clip(least, 255), ("Round", {}), ("Add", np.float32(np.asarray(offset).flat[0]), {}), _clip(-128, 127),
           ("Cast", {"to": TensorProto.INT8}))  # fmt: skip

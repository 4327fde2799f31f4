"""Write a lowered graph in the Ascend deploy form (N1, N11, N18, N20, N24), what the vendor's converter reads.

The file is unfused: the target's compiler fuses dequantize and quantize itself (N18). What a layer subtracts from its
data (``offset_x``) stands in the quantizer alone. Float ops go out as standard ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from amctc.data import Data
from amctc.errors import UnsupportedError
from amctc.ir import Constant, Graph, Op, Value, constant_data, layer_name
from amctc.numerics.int4 import pack_int4
from amctc.onnx_bridge import export_model
from amctc.onnx_bridge.deploy_form import ANTI_QUANT, DEQUANT, FLOAT_CODES, QUANT, STORAGE, data_operands, moves
from amctc.onnx_bridge.emitters import STANDARD
from amctc.onnx_bridge.exporter import Emitter, Writer, emit_constant
from amctc.onnx_bridge.tensors import tensor_proto
from amctc.ops import ascend, quant
from amctc.schema import OpKind
from amctc.types import F16, I4, I8, U64, ScalarType

_STORAGE_NAMES = {elem: name for name, elem in STORAGE.items()}
_FLOAT_CODES = {elem: code for code, elem in FLOAT_CODES.items()}
_FLOAT_OPS = {k: e for k, e in STANDARD.items() if k not in (quant.Quantize, quant.Dequantize)}


def export_deploy(graph: Graph, *, opset: int | None = None) -> onnx.ModelProto:
    """The deploy model of a lowered graph with packed parameters; metadata (``amctc.target``, …) is kept.

    Raises :class:`UnsupportedError` for what the form cannot say: fused requantization (N18), parameters that are not
    packed (N11), grouped int4 weights or an odd number of their input channels (N4), quantized types.
    """
    return export_model(graph, _DeployForm(graph).emitters(), opset=opset)


class _DeployForm:
    """Emitters of the ``ascend`` dialect and what they know of the graph as a whole."""

    def __init__(self, graph: Graph) -> None:
        self._readers = _first_layers(graph)
        self._parameters = _parameters_only(graph)
        self._packing = _int4_axes(graph)
        self._written: dict[Value, str] = {}

    def emitters(self) -> Mapping[type[OpKind], Emitter]:
        return {
            **_FLOAT_OPS, Constant: self._constant, ascend.Quant: self._quant, ascend.Conv: _conv,
            ascend.MatMul: _matmul, ascend.Dequant: self._dequant, ascend.AntiQuant: _anti_quant,
            ascend.Requant: _requant,
        }  # fmt: skip

    def _constant(self, writer: Writer, op: Op) -> None:
        """int4 weights two to a byte (N4); parameters wait for the dequantizer, after which they are named."""
        value, kind = op.result, op.kind
        assert isinstance(kind, Constant)
        if value in self._packing:
            packed = pack_int4(kind.data.read(), self._packing[value])
            writer.initializers.append(tensor_proto(writer.name(value), packed, I8))
        elif value not in self._parameters:
            emit_constant(writer, op)

    def _quant(self, writer: Writer, op: Op) -> None:
        kind = op.kind
        assert isinstance(kind, ascend.Quant)
        reader = self._readers.get(op.result)
        writer.node(
            QUANT, [writer.name(op.operands[0])], [writer.name(op.result)],
            _own_name(op, QUANT, "quant") if reader is None else f"{reader}.quant", scale=kind.scale,
            offset=float(kind.offset), dst_type=_STORAGE_NAMES[kind.to], sqrt_mode=1 if kind.sqrt_mode else None,
        )  # fmt: skip

    def _dequant(self, writer: Writer, op: Op) -> None:
        kind, (acc, parameter) = op.kind, op.operands
        assert isinstance(kind, ascend.Dequant)
        assert acc is not None
        layer = layer_name(op if acc.producer is None else acc.producer)
        writer.node(
            DEQUANT, [writer.name(acc), self._parameter(writer, parameter, layer)], [writer.name(op.result)],
            f"{layer}.dequant", dtype=_FLOAT_CODES[kind.to], relu_flag=1 if kind.relu else None,
        )  # fmt: skip

    def _parameter(self, writer: Writer, value: Value | None, layer: str) -> str:
        """The tensor of a dequantization parameter, called after the first layer that uses it."""
        data = constant_data(value)
        if value is None or data is None or value.type.elem != U64:
            raise UnsupportedError("the dequantization parameter is not a packed constant", where=layer, rule="N11",
                                   remedy="run pack-constants")  # fmt: skip
        if value not in self._parameters:
            return writer.name(value)
        if value not in self._written:
            self._written[value] = writer.constant(f"{layer}.dequant.param", data.read(), U64)
        return self._written[value]


def _own_name(op: Op, op_type: str, suffix: str) -> str:
    """The name a node had in the file it came from, else one made of the op's origin."""
    return next((o.name for o in op.origins if o.op_type == op_type), f"{layer_name(op)}.{suffix}")


def _conv(writer: Writer, op: Op) -> None:
    kind, weight = op.kind, op.operands[1]
    assert isinstance(kind, ascend.Conv)
    assert weight is not None
    writer.node(
        "Conv", [writer.name(o) for o in op.operands], [writer.name(op.result)], layer_name(op), strides=kind.strides,
        pads=kind.pads, dilations=kind.dilations, group=kind.group, kernel_shape=weight.type.dims[2:],
    )  # fmt: skip


def _matmul(writer: Writer, op: Op) -> None:
    """Gemm, or MatMul with an Add for the bias, whichever the layer was in the user's model (N24)."""
    kind, (x, w, b) = op.kind, (*op.operands, None)[:3]
    assert isinstance(kind, ascend.MatMul)
    assert x is not None
    layer, result = layer_name(op), writer.name(op.result)
    came_as_matmul = any(o == (layer, "MatMul") for o in op.origins)
    if x.type.rank == 2 and (kind.trans_b or not came_as_matmul):
        fixed: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "transB": int(kind.trans_b)}
        writer.node("Gemm", [writer.name(o) for o in op.operands], [result], layer, **fixed)
        return
    if kind.trans_b:
        raise UnsupportedError(f"a transposed weight under data of rank {x.type.rank}", where=layer,
                               remedy="store the weight as [K, N]")  # fmt: skip
    product = result if b is None else writer.tensor(f"{result}/product")
    writer.node("MatMul", [writer.name(x), writer.name(w)], [product], layer)
    if b is not None:
        writer.node("Add", [product, writer.name(b)], [result], f"{layer}/bias")


def _anti_quant(writer: Writer, op: Op) -> None:
    """The file holds the quantizer's own offset; the compiler's, which the op has, is its negative (N20)."""
    kind, q = op.kind, op.operands[0]
    assert isinstance(kind, ascend.AntiQuant)
    assert q is not None
    assert isinstance(q.type.elem, ScalarType)
    writer.node(
        ANTI_QUANT, [writer.name(q)], [writer.name(op.result)], _own_name(op, ANTI_QUANT, "anti_quant"),
        scale=kind.scale, offset=float(-kind.offset), dst_type=_STORAGE_NAMES[q.type.elem],
        dtype=1 if kind.to == F16 else None,
    )  # fmt: skip


def _requant(writer: Writer, op: Op) -> None:
    raise UnsupportedError("a deploy file is unfused, it holds no requantization", where=layer_name(op), rule="N18",
                           remedy="export the graph as it was before fuse-requant")  # fmt: skip


def _first_layers(graph: Graph) -> dict[Value, str]:
    """The first layer, in topological order, that reads each integer value, directly or through moves."""
    found: dict[Value, tuple[int, str]] = {}
    for index, op in reversed(list(enumerate(graph.ops))):
        if isinstance(op.kind, ascend.Conv | ascend.MatMul):
            reader = (index, layer_name(op))
        elif moves(op) and any(r in found for r in op.results):
            reader = min(found[r] for r in op.results if r in found)
        else:
            continue
        for operand in data_operands(op) if moves(op) else op.operands[:1]:
            if operand is not None:
                found[operand] = min(reader, found.get(operand, reader))
    return {value: name for value, (_, name) in found.items()}


def _parameters_only(graph: Graph) -> frozenset[Value]:
    """Packed constants that nothing but dequantizers reads."""
    used: set[Value] = set()
    others: set[Value | None] = set(graph.outputs)
    for op in graph.ops:
        packed = isinstance(op.kind, ascend.Dequant)
        used.update(o for o in op.operands[1:] if packed and o is not None and constant_data(o) is not None)
        others.update(op.operands[:1] if packed else op.operands)
    return frozenset(v for v in used - others if v.type.elem == U64)


def _int4_axes(graph: Graph) -> dict[Value, int]:
    """The axis of input channels of each int4 weight, along which it is packed (N4)."""
    axes: dict[Value, int] = {}
    for op in graph.ops:
        kind, weight = op.kind, op.operand(1)
        if not isinstance(kind, ascend.Conv | ascend.MatMul) or weight is None or weight.type.elem != I4:
            continue
        conv = isinstance(kind, ascend.Conv)
        axis = 1 if conv or (isinstance(kind, ascend.MatMul) and kind.trans_b) else 0
        data = constant_data(weight)
        if data is None or not _packable(kind, data, axis) or axes.setdefault(weight, axis) != axis:
            raise UnsupportedError(f"the int4 weight {weight.type} cannot be packed along its input channels",
                                   where=layer_name(op), rule="N4", remedy="quantize it to 8 bits")  # fmt: skip
    return axes


def _packable(kind: OpKind, data: Data, axis: int) -> bool:
    return getattr(kind, "group", 1) == 1 and data.shape[axis] % 2 == 0

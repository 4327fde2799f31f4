"""Write a lowered graph in the Ascend deploy form (N1, N11, N18, N20, N24), what the vendor's converter reads.

The file is unfused: the target's compiler fuses dequantize and quantize itself (N18). What a layer subtracts from its
data (``offset_x``) stands in the quantizer alone. Float ops go out as standard ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from amctc.analysis import uses
from amctc.backends.deploy_layers import LAYERS, is_product_of_rows
from amctc.data import Data, deferred
from amctc.errors import UnsupportedError
from amctc.ir import Constant, Graph, Op, Value, constant_data, layer_name
from amctc.numerics.int4 import pack_int4
from amctc.onnx_bridge import export_model
from amctc.onnx_bridge.deploy_form import (
    ANTI_QUANT,
    DEQUANT,
    DYNAMIC_QUANT,
    FLOAT_CODES,
    QUANT,
    STORAGE,
    data_operands,
    moves,
)
from amctc.onnx_bridge.emitters import STANDARD
from amctc.onnx_bridge.exporter import Emitter, Writer, emit_constant
from amctc.onnx_bridge.storage import TensorStore, inline
from amctc.ops import ascend, quant
from amctc.schema import OpKind
from amctc.types import F16, I4, I8, U64, ScalarType

_STORAGE_NAMES = {elem: name for name, elem in STORAGE.items()}
_FLOAT_CODES = {elem: code for code, elem in FLOAT_CODES.items()}
_FLOAT_OPS = {k: e for k, e in STANDARD.items() if k not in (quant.Quantize, quant.Dequantize)}


def export_deploy(graph: Graph, *, opset: int | None = None, store: TensorStore = inline) -> onnx.ModelProto:
    """The deploy model of a lowered graph with packed parameters; metadata (``amctc.target``, …) is kept.

    Raises :class:`UnsupportedError` for what the form cannot say: fused requantization (N18), parameters that are not
    packed (N11), grouped int4 weights or an odd number of their input channels (N4), quantized types.
    """
    return export_model(graph, _DeployForm(graph).emitters(), opset=opset, store=store)


class _DeployForm:
    """Emitters of the ``ascend`` dialect and what they know of the graph as a whole."""

    def __init__(self, graph: Graph) -> None:
        self._readers = _first_layers(graph)
        self._parameters = _parameters_only(graph)
        self._packing = _int4_axes(graph)
        self._joined = _products_of_rows(graph)
        self._written: dict[Value, str] = {}

    def emitters(self) -> Mapping[type[OpKind], Emitter]:
        return {
            **_FLOAT_OPS, **LAYERS, Constant: self._constant, ascend.Quant: self._quant,
            ascend.Dequant: self._dequant, ascend.AntiQuant: _anti_quant, ascend.Requant: _requant,
            ascend.DynamicQuant: self._dynamic_quant, ascend.MatMul: self._matmul,
        }  # fmt: skip

    def _constant(self, writer: Writer, op: Op) -> None:
        """int4 weights two to a byte (N4); parameters wait for the dequantizer, after which they are named."""
        value, kind = op.result, op.kind
        assert isinstance(kind, Constant)
        if value in self._packing:
            writer.initializer(writer.name(value), _packed(kind.data, self._packing[value]), I8)
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

    def _dynamic_quant(self, writer: Writer, op: Op) -> None:
        reader = self._readers.get(op.results[0])
        name = _own_name(op, DYNAMIC_QUANT, "quant") if reader is None else f"{reader}.quant"
        writer.node(DYNAMIC_QUANT, [writer.name(op.operands[0])], list(map(writer.name, op.results)), name)

    def _matmul(self, writer: Writer, op: Op) -> None:
        """A product of rows is written with its epilogue, in one node."""
        if op not in self._joined:
            LAYERS[ascend.MatMul](writer, op)

    def _dequant(self, writer: Writer, op: Op) -> None:
        kind, (acc, parameter) = op.kind, op.operands
        assert isinstance(kind, ascend.Dequant)
        assert acc is not None
        layer = layer_name(op if acc.producer is None else acc.producer)
        pool = None if acc.producer is None else acc.producer.kind
        if kind.divisor != (pool.area if isinstance(pool, ascend.SumPool) else 1):
            raise UnsupportedError(f"a scale divided by {kind.divisor}", where=layer, rule="N26",
                                   remedy="divide the scale by the positions of a pool alone")  # fmt: skip
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


def _products_of_rows(graph: Graph) -> set[Op]:
    """The integer products that nothing but their epilogue with scales per row reads."""
    read = uses(graph)
    found: set[Op] = set()
    for op in graph.ops:
        if isinstance(op.kind, ascend.MatMul) and is_product_of_rows(op):
            readers = [use.op for use in read.get(op.result, ())]
            if readers and all(r is not None and isinstance(r.kind, ascend.DequantRows) for r in readers):
                found.add(op)
    return found


def _first_layers(graph: Graph) -> dict[Value, str]:
    """The first layer, in topological order, that reads each integer value, directly or through moves."""
    found: dict[Value, tuple[int, str]] = {}
    for index, op in reversed(list(enumerate(graph.ops))):
        if isinstance(op.kind, ascend.Layer | ascend.SumPool):
            reader = (index, layer_name(op))
        elif moves(op) and any(r in found for r in op.results):
            reader = min(found[r] for r in op.results if r in found)
        else:
            continue
        read = 2 if isinstance(op.kind, ascend.BatchMatMul) else 1
        for operand in data_operands(op) if moves(op) else op.operands[:read]:
            if operand is not None:
                found[operand] = min(reader, found.get(operand, reader))
    return {value: name for value, (_, name) in found.items()}


PARAMETERS: Mapping[type[OpKind], range] = {ascend.Dequant: range(1, 2), ascend.WeightQuantMatMul: range(2, 4)}
"""Operands that the file holds in a form of its own, written where they are read."""


def _parameters_only(graph: Graph) -> frozenset[Value]:
    """Constants that nothing reads but as parameters."""
    used: set[Value] = set()
    others: set[Value | None] = set(graph.outputs)
    for op in graph.ops:
        own = PARAMETERS.get(type(op.kind), range(0))
        used.update(o for i, o in enumerate(op.operands) if i in own and o is not None and constant_data(o) is not None)
        others.update(o for i, o in enumerate(op.operands) if i not in own)
    return frozenset(used - others)


def _int4_axes(graph: Graph) -> dict[Value, int]:
    """The axis of input channels of each int4 weight, along which it is packed (N4)."""
    axes: dict[Value, int] = {}
    unpacked = {op.operands[1] for op in graph.ops if isinstance(op.kind, ascend.WeightQuantMatMul)}
    for op in graph.ops:
        kind, weight = op.kind, op.operand(1)
        if not isinstance(kind, ascend.Layer) or weight is None or weight.type.elem != I4:
            continue
        axis = ascend.weight_input_axis(kind)
        data = constant_data(weight)
        packable = data is not None and weight not in unpacked and _packable(kind, data, axis)
        if not packable or axes.setdefault(weight, axis) != axis:
            raise UnsupportedError(f"the int4 weight {weight.type} cannot be packed along its input channels",
                                   where=layer_name(op), rule="N4", remedy="quantize it to 8 bits")  # fmt: skip
    return axes


def _packed(data: Data, axis: int) -> Data:
    """int4 values two to a byte along ``axis``, packed when they are written."""
    shape = tuple(d // 2 if i == axis else d for i, d in enumerate(data.shape))
    return deferred("pack int4", lambda values: pack_int4(values, axis), data, shape=shape, dtype=I8.dtype)


def _packable(kind: OpKind, data: Data, axis: int) -> bool:
    return getattr(kind, "group", 1) == 1 and data.shape[axis] % 2 == 0

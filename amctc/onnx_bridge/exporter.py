"""Graph -> ONNX model. Every op kind decomposes to ONNX nodes, so a graph can be exported at any stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from amctc.errors import LimitError, UnsupportedError
from amctc.ir import Constant, Graph, Op, Value, layer_name
from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.opsets import OPSET, export_opset
from amctc.onnx_bridge.subgraphs import CAPTURED, DOMAIN, inner_names, rename_captured
from amctc.onnx_bridge.tensors import tensor_proto, value_info
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.schema import OpKind
from amctc.types import I8, I32, U8, Array, Elem, QuantizedType, scalar_of

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)
"""A protobuf message holds less than 2 GiB."""

MAKER = "amctc"


class Writer:
    """What an emitter needs: names of values, where nodes and initializers go, the ``opset`` they are written for."""

    def __init__(self, graph: Graph, reserved: Sequence[str], opset: int = OPSET) -> None:
        self.graph, self.opset = graph, opset
        self._tensors = Names((*(i.name for i in graph.inputs), *graph.output_names, *reserved))
        self._nodes = Names()
        self._name_of: dict[Value, str] = {v: v.name for v in graph.inputs}
        self.nodes: list[NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.domains: dict[str, int] = {}
        for name, value in zip(graph.output_names, graph.outputs, strict=True):
            if value.producer is not None and not isinstance(value.producer.kind, Constant):
                self._name_of.setdefault(value, name)

    def name(self, value: Value | None) -> str:
        """The tensor name of a value; empty for an absent operand."""
        if value is None:
            return ""
        if value not in self._name_of:
            op = value.producer
            assert op is not None
            self._name_of[value] = self._tensors.fresh(value.name or f"{layer_name(op)}_out")
        return self._name_of[value]

    def alias(self, value: Value, source: Value) -> bool:
        """Let ``value`` share the tensor of ``source`` unless it needs an interface name of its own."""
        if value in self._name_of:
            return False
        self._name_of[value] = self.name(source)
        return True

    def tensor(self, hint: str) -> str:
        """A fresh tensor name."""
        return self._tensors.fresh(hint)

    def constant(self, hint: str, array: Array | Any, elem: Elem | None = None) -> str:
        """Add an initializer and return its name."""
        array = np.asarray(array)
        name = self._tensors.fresh(hint)
        self.initializers.append(tensor_proto(name, array, elem or scalar_of(array.dtype)))
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str,
        domain: str = "",
        **attributes: Any,
    ) -> NodeProto:
        """Add a node under a unique name close to ``name``."""
        made = helper.make_node(
            op_type, list(inputs), list(outputs), self._nodes.fresh(name), domain=domain or None,
            **{k: v for k, v in attributes.items() if v is not None},
        )  # fmt: skip
        self.nodes.append(made)
        return made

    def carried(self, node: NodeProto, name: str) -> None:
        """Add a ready-made node under a unique name close to ``name``."""
        node.name = self._nodes.fresh(name)
        self.nodes.append(node)


Emitter = Callable[[Writer, Op], None]


def emit_constant(writer: Writer, op: Op) -> None:
    """A constant becomes an initializer, whatever its size and quantized or not."""
    kind = op.kind
    assert isinstance(kind, Constant)
    writer.initializers.append(tensor_proto(writer.name(op.result), kind.data.read(), kind.elem))


def emit_carried(writer: Writer, op: Op) -> None:
    """A carried node goes out as it came, except that its bodies read captured values under their new names."""
    kind = op.kind
    assert isinstance(kind, Node)
    node = NodeProto.FromString(kind.proto)
    captured = [e.value for e in node.metadata_props if e.key == CAPTURED]
    domains = {e.key[len(DOMAIN) :]: int(e.value) for e in node.metadata_props if e.key.startswith(DOMAIN)}
    operands = iter(op.operands + (None,) * (len(node.input) - len(op.operands)))
    inputs = [writer.name(next(operands)) if n else _skip(operands) for n in node.input]
    outer = map(writer.name, op.operands[len(node.input) :])
    rename_captured(node, dict(zip(captured, outer, strict=True)))
    results = iter(op.results)
    outputs = [writer.name(next(results)) if n else "" for n in node.output]
    node.ClearField("input")
    node.ClearField("output")
    node.ClearField("metadata_props")
    node.input.extend(inputs)
    node.output.extend(outputs)
    writer.domains |= domains
    if kind.domain:
        writer.domains[kind.domain] = kind.version
    writer.carried(node, op.origins[-1].name if op.origins else kind.op_type)


def _skip(operands: Any) -> str:
    next(operands)
    return ""


def export_model(
    graph: Graph, emitters: Mapping[type[OpKind], Emitter] | None = None, *, opset: int | None = None
) -> onnx.ModelProto:
    """An ONNX model that computes ``graph``; interface names, symbols and metadata kept, all names unique.

    ``emitters`` default to standard ONNX (:data:`amctc.onnx_bridge.emitters.STANDARD`). Raises
    :class:`UnsupportedError` for an op without an emitter and :class:`LimitError` past protobuf's 2 GiB.
    """
    if emitters is None:
        from amctc.onnx_bridge.emitters import STANDARD

        emitters = STANDARD
    carried = [op.kind for op in graph.ops if isinstance(op.kind, Node)]
    protos = [NodeProto.FromString(k.proto) for k in carried]
    version = opset or export_opset(carried, at_least=_needed_opset(graph))
    writer = Writer(graph, [n for p in protos for n in inner_names(p)], version)
    size = sum(op.kind.data.nbytes for op in graph.ops if isinstance(op.kind, Constant))
    if size > PROTOBUF_LIMIT:
        raise LimitError(f"{size} bytes of weights do not fit one ONNX file", remedy="external data is not written yet")
    for op in graph.ops:
        emitter = emitters.get(type(op.kind))
        if emitter is None:
            raise UnsupportedError(f"{op.kind.op_name} has no form in this file format", where=layer_name(op),
                                   remedy="lower the graph further, or save it in another form")  # fmt: skip
        emitter(writer, op)
    _name_outputs(writer)
    proto = helper.make_graph(
        writer.nodes, graph.name, [value_info(i.name, i.type) for i in graph.inputs],
        [value_info(n, v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True)],
        writer.initializers + [tensor_proto(i.name, i.default.read(), i.type.elem) for i in graph.inputs if i.default],
        value_info=_carried_types(writer),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", version), *(helper.make_opsetid(d, v) for d, v in sorted(writer.domains.items()))]
    model = helper.make_model(proto, opset_imports=opsets, producer_name=MAKER, ir_version=_ir_version(version))
    helper.set_model_props(model, dict(graph.metadata))
    return model


def _needed_opset(graph: Graph) -> int:
    """The oldest opset that knows the graph's quantized types and dilated average pools."""
    elems = [v.type.elem for v in graph.values() if isinstance(v.type.elem, QuantizedType)]
    if any(e.storage not in (I8, U8, I32) for e in elems):
        return 21
    return 19 if any(is_dilated(op.kind) for op in graph.ops) else OPSET


def is_dilated(kind: OpKind) -> bool:
    """True for an average pool that skips elements."""
    return isinstance(kind, nn.AveragePool) and any(d != 1 for d in kind.dilations)


def _name_outputs(writer: Writer) -> None:
    """Outputs that are inputs, constants or outputs under another name too get an Identity."""
    for name, value in zip(writer.graph.output_names, writer.graph.outputs, strict=True):
        if writer.name(value) != name:
            writer.node("Identity", [writer.name(value)], [name], f"output/{name}")


def _carried_types(writer: Writer) -> list[onnx.ValueInfoProto]:
    """Declarations of what carried nodes compute: where ONNX cannot infer it, nobody could import the file without."""
    named = {writer.name(r): r for op in writer.graph.ops if isinstance(op.kind, Node) for r in op.results}
    return [value_info(n, r.type) for n, r in named.items() if n not in writer.graph.output_names]


def _ir_version(opset: int) -> int:
    """The oldest IR version that may import ``opset``, at least 8 (initializers need not be inputs, training info)."""
    return max(8, int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)])))

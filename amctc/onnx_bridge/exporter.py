"""Graph -> ONNX model. Every op kind decomposes to ONNX nodes, so a graph can be exported at any stage."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper

from amctc.collector import collector_paused
from amctc.data import ArrayData, Data
from amctc.errors import LimitError, UnsupportedError, printable
from amctc.ir import Constant, Graph, Op, Value, constant_data, layer_name
from amctc.onnx_bridge.contents import constant_node
from amctc.onnx_bridge.inference import small_constants
from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.needed_opset import needed_opset
from amctc.onnx_bridge.opsets import OPSET, export_opset, same_meaning, upgraded
from amctc.onnx_bridge.storage import PROTOBUF_LIMIT, TensorStore, contents_size, inline
from amctc.onnx_bridge.subgraphs import CAPTURED, DOMAIN, inner_names, rename_captured
from amctc.onnx_bridge.tensors import value_info
from amctc.ops.onnx import Node
from amctc.schema import OpKind
from amctc.types import Array, Elem, scalar_of

MAKER = "amctc"


CarriedForm = tuple[NodeProto, list[NodeProto]]
"""A carried node as it was imported, and the nodes that are written for it."""


class Writer:
    """What an emitter needs: names of values, where nodes and initializers go, the ``opset`` they are written for."""

    def __init__(
        self, graph: Graph, carried_forms: Mapping[Op, CarriedForm], opset: int = OPSET, store: TensorStore = inline
    ) -> None:
        self.graph, self.carried_forms, self.opset, self._store = graph, carried_forms, opset, store
        reserved = (n for _, parts in carried_forms.values() for p in parts for n in inner_names(p))
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
        self.initializer(name, ArrayData(array), elem or scalar_of(array.dtype))
        return name

    def initializer(self, name: str, data: Data, elem: Elem) -> None:
        """Add an initializer under a name that was handed out."""
        self.initializers.append(self._store(name, data, elem))

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
        made = NodeProto(
            op_type=op_type, input=inputs, output=outputs, name=self._nodes.fresh(name), domain=domain or None,
            attribute=[_attribute(k, v) for k, v in sorted(attributes.items()) if v is not None],
        )  # fmt: skip
        self.nodes.append(made)
        return made

    def carried(self, node: NodeProto, name: str) -> None:
        """Add a ready-made node under a unique name close to ``name``."""
        node.name = self._nodes.fresh(name)
        self.nodes.append(node)


def _attribute(name: str, value: Any) -> AttributeProto:
    """What ``helper.make_attribute`` makes; integers, as nearly all attributes are, for a fraction of its time."""
    if type(value) is int:
        return _integer_attribute(name, value)
    if isinstance(value, tuple | list) and value and set(map(type, value)) == {int}:
        return _integers_attribute(name, tuple(value))
    return helper.make_attribute(name, value)


@functools.lru_cache(1024)
def _integer_attribute(name: str, value: int) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.INT, i=value)


@functools.lru_cache(1024)
def _integers_attribute(name: str, values: tuple[int, ...]) -> AttributeProto:
    return AttributeProto(name=name, type=AttributeProto.INTS, ints=values)


Emitter = Callable[[Writer, Op], None]


def emit_constant(writer: Writer, op: Op) -> None:
    """A constant becomes an initializer, whatever its size and quantized or not."""
    kind = op.kind
    assert isinstance(kind, Constant)
    writer.initializer(writer.name(op.result), kind.data, kind.elem)


def emit_carried(writer: Writer, op: Op) -> None:
    """A carried node goes out as it came, except for its names and where the file's opset asks for another form."""
    kind = op.kind
    assert isinstance(kind, Node)
    node, parts = writer.carried_forms[op]
    captured = [e.value for e in node.metadata_props if e.key == CAPTURED]
    names = dict(zip((*node.input, *captured), map(writer.name, _padded(op, node)), strict=True))
    names |= dict(zip((n for n in node.output if n), map(writer.name, op.results), strict=True))
    names[""] = ""
    origin = op.origins[-1].name if op.origins else kind.op_type
    for part in parts:
        for made_up in part.output:
            if made_up not in names:
                names[made_up] = writer.tensor(f"{origin}/{made_up}")
        if part.op_type == "Constant":
            writer.initializer(names[part.output[0]], *constant_node(part, None))
            continue
        part.input[:] = [names[n] for n in part.input]
        part.output[:] = [names[n] for n in part.output]
        rename_captured(part, names)
        part.ClearField("metadata_props")
        writer.carried(part, origin)
    entries = {e.key[len(DOMAIN) :]: int(e.value) for e in node.metadata_props if e.key.startswith(DOMAIN)}
    writer.domains |= {domain: version for domain, version in entries.items() if domain}
    if kind.domain:
        writer.domains[kind.domain] = kind.version


def _padded(op: Op, node: NodeProto) -> tuple[Value | None, ...]:
    """One operand for each input of ``node``, then the captured ones; absent operands at the end are not kept."""
    return op.operands + (None,) * (len(node.input) - len(op.operands))


def _carried_form(op: Op, opset: int) -> CarriedForm:
    """A carried node as it was imported, and the nodes that mean the same at ``opset``."""
    kind = op.kind
    assert isinstance(kind, Node)
    node = NodeProto.FromString(kind.proto)
    if kind.domain or same_meaning(node, kind.version, opset):
        return node, [NodeProto.FromString(kind.proto)]
    captured = [e.value for e in node.metadata_props if e.key == CAPTURED]
    operands = _padded(op, node)
    names = (*node.input, *captured)
    known = {n: o.type for n, o in zip(names, operands, strict=True) if o is not None}
    types = [None if o is None else o.type for o in operands]
    constants = small_constants(node, [constant_data(o) for o in operands], types)
    parts = upgraded(node, kind.version, known, constants, opset)
    if parts is None:
        raise UnsupportedError(
            f"carried op {printable(kind.op_type)} of opset {kind.version} means something else at {opset}, which"
            " other ops need", where=layer_name(op), remedy="convert the model to a newer opset first",
        )  # fmt: skip
    return node, parts


@collector_paused()
def export_model(
    graph: Graph, emitters: Mapping[type[OpKind], Emitter] | None = None, *, opset: int | None = None,
    store: TensorStore = inline,
) -> onnx.ModelProto:  # fmt: skip
    """An ONNX model that computes ``graph``; interface names, symbols and metadata kept, all names unique.

    ``emitters`` default to standard ONNX (:data:`amctc.onnx_bridge.emitters.STANDARD`); ``store`` puts the contents of
    tensors into the model or elsewhere. Raises :class:`UnsupportedError` for an op without an emitter and
    :class:`LimitError` for contents that do not fit a protobuf message of 2 GiB.
    """
    if emitters is None:
        from amctc.onnx_bridge.emitters import STANDARD

        emitters = STANDARD
    nodes = [op.kind for op in graph.ops if isinstance(op.kind, Node)]
    version = opset or export_opset(nodes, at_least=needed_opset(graph))
    carried = {op: _carried_form(op, version) for op in graph.ops if isinstance(op.kind, Node)}
    writer = Writer(graph, carried, version, store)
    if store is inline and (size := contents_size(graph)) > PROTOBUF_LIMIT:
        raise LimitError(f"{size} bytes of weights do not fit one ONNX file", remedy="save it with external data")
    for op in graph.ops:
        emitter = emitters.get(type(op.kind))
        if emitter is None:
            raise UnsupportedError(f"{op.kind.op_name} has no form in this file format", where=layer_name(op),
                                   remedy="lower the graph further, or save it in another form")  # fmt: skip
        emitter(writer, op)
    _name_outputs(writer)
    for given in graph.inputs:
        if given.default is not None:
            writer.initializer(given.name, given.default, given.type.elem)
    proto = helper.make_graph(
        writer.nodes, graph.name, [value_info(i.name, i.type) for i in graph.inputs],
        [value_info(n, graph.output_type(i)) for i, n in enumerate(graph.output_names)],
        writer.initializers, value_info=_carried_types(writer),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", version), *(helper.make_opsetid(d, v) for d, v in sorted(writer.domains.items()))]
    model = helper.make_model(proto, opset_imports=opsets, producer_name=MAKER, ir_version=_ir_version(version))
    helper.set_model_props(model, dict(graph.metadata))
    return model


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

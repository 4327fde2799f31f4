"""ONNX model -> graph. Nodes we give meaning to become ``nn`` and ``quant`` ops, all others are carried."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto, TensorProto

from amctc.collector import collector_paused
from amctc.data import Data
from amctc.errors import AmctcError, InputError, TypeConstraintError, UnsupportedError, printable
from amctc.ir import Graph, GraphInput, Origin, Value, build, const, constant_data
from amctc.onnx_bridge.checks import AGAIN, check_names, check_nodes
from amctc.onnx_bridge.contents import constant_node, require_own_bytes, sparse_data
from amctc.onnx_bridge.converters import CONVERTERS, Converted, Converter, NodeView, build_named
from amctc.onnx_bridge.fields import NodeFields, node_fields, read_graphs
from amctc.onnx_bridge.functions import inlined
from amctc.onnx_bridge.inference import inferred_types, node_types, small_constants
from amctc.onnx_bridge.loops import check_loops
from amctc.onnx_bridge.names import Names, node_names
from amctc.onnx_bridge.opsets import OLDEST_OPSET, OPSET, modernised, oldest_version, upgraded
from amctc.onnx_bridge.order import in_order
from amctc.onnx_bridge.runtime_types import runtime_types
from amctc.onnx_bridge.subgraphs import (
    CAPTURED,
    DEFAULT,
    DOMAIN,
    captured_names,
    inner_names,
    inner_nodes,
    with_plain_domain,
)
from amctc.onnx_bridge.tensors import ExternalFile, tensor_data, type_of, with_contents
from amctc.ops.onnx import Node
from amctc.types import ScalarType, TensorType, merge_types, shapes_agree


@collector_paused()
def import_model(
    model: onnx.ModelProto, external: ExternalFile | None = None, converters: Mapping[str, Converter] | None = None
) -> Graph:
    """The graph of a model. Interface names, dimension symbols and metadata are kept.

    ``external`` resolves external-data files. ``converters``, by op type of the default domain, are asked before the
    standard ones: how a file form with ops of its own is read. Raises :class:`InputError` for a malformed model
    (undefined or repeated names, a cycle, a broken type constraint, naming the node) and :class:`UnsupportedError`
    where nothing can be done.
    """
    graphs = read_graphs(model.graph)
    check_names(model, graphs)
    opsets = {o.domain: o.version for o in model.opset_import}
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if not model.HasField("graph") or (not version and any(n.domain in DEFAULT for n in graphs[0].nodes)):
        raise InputError("no graph or no opset version inside", remedy="this is not a complete ONNX model")
    if version > onnx.defs.onnx_opset_version():
        raise UnsupportedError(f"opset {version} is newer than the installed onnx knows", remedy="upgrade onnx")
    check_nodes(model, graphs, version)
    check_loops(model, graphs)
    flat = inlined(model)
    plain = with_plain_domain(flat, graphs if flat is model else read_graphs(flat.graph))
    if version and version < OLDEST_OPSET:
        sparse = (t.values.name for t in plain.graph.sparse_initializer)
        given = {*(i.name for i in plain.graph.input), *(t.name for t in plain.graph.initializer), *sparse}
        nodes = list(map(node_fields, plain.graph.node))
        in_order(nodes, frozenset(given))  # raises for what the C++ converter would stumble over
        plain, version = modernised(plain, version), OLDEST_OPSET
    nodes = graphs[0].nodes if plain is model else list(map(node_fields, plain.graph.node))
    return _Importer(plain, nodes, version or OPSET, opsets, external, converters or {}).graph()


class _Importer:
    def __init__(
        self, model: onnx.ModelProto, nodes: Sequence[NodeFields], version: int, opsets: dict[str, int],
        external: ExternalFile | None, converters: Mapping[str, Converter],
    ) -> None:  # fmt: skip
        self._nodes = nodes
        self._model, self._version, self._opsets, self._external = model, version, opsets, external
        self._converters = converters
        self._values: dict[str, Value] = {}

    @functools.cached_property
    def _types(self) -> Mapping[str, TensorType]:
        """What ONNX infers of all values; asked for carried nodes alone, whose types are not ours to infer."""
        return inferred_types(self._model)

    def graph(self) -> Graph:
        proto = self._model.graph
        initializers = self._initializers()
        inputs = self._inputs(initializers)
        for name, (data, elem) in initializers.items():
            if name not in self._values:
                self._values[name] = const(data, elem, name=name)
        names = node_names(self._nodes)
        for index in in_order(self._nodes, frozenset(self._values)):
            self._node(self._nodes[index], names[index])
        outputs = []
        for info in proto.output:
            if info.name not in self._values:
                raise InputError(f"output {printable(info.name)!r} is never computed", remedy=AGAIN)
            outputs.append(self._values[info.name])
        metadata = tuple(sorted((p.key, p.value) for p in self._model.metadata_props))
        output_names = tuple(o.name for o in proto.output)
        return Graph(tuple(inputs), tuple(outputs), output_names, proto.name or "graph", metadata, self._declared())

    def _initializers(self) -> dict[str, tuple[Data, ScalarType]]:
        found: dict[str, tuple[Data, ScalarType]] = {}
        proto = self._model.graph
        names = [t.name for t in proto.initializer] + [t.values.name for t in proto.sparse_initializer]
        contents = (
            *(tensor_data(t, self._external) for t in proto.initializer),
            *(sparse_data(t, self._external) for t in proto.sparse_initializer),
        )
        for name, content in zip(names, contents, strict=True):
            if name in found:
                raise InputError(f"initializer {printable(name)!r} is given twice", remedy=AGAIN)
            found[name] = content
        require_own_bytes(data for data, _ in found.values())
        return found

    def _inputs(self, initializers: dict[str, tuple[Data, ScalarType]]) -> list[GraphInput]:
        """Graph inputs; below IR version 4 an initializer that is also an input is a plain constant."""
        inputs = []
        for info in self._model.graph.input:
            default = initializers.get(info.name)
            if default is not None and self._model.ir_version < 4:
                continue
            if info.name in self._values:
                raise InputError(f"input {printable(info.name)!r} is declared twice", remedy=AGAIN)
            type_ = type_of(info.type, f"input {info.name!r}")
            if type_ is None:
                raise InputError(f"input {printable(info.name)!r} has no element type", remedy="declare its type")
            if default is not None and not _fits(default, type_):
                raise InputError(f"input {printable(info.name)!r} is declared {type_}, its initializer is "
                                 f"{TensorType(default[0].shape, default[1])}", remedy=AGAIN)  # fmt: skip
            inputs.append(GraphInput(info.name, type_, None if default is None else default[0]))
            self._values[info.name] = inputs[-1]
        return inputs

    def _declared(self) -> tuple[tuple[str, TensorType], ...]:
        """What the file says of its outputs, where it knows a size that was not inferred."""
        said = ((o.name, type_of(o.type, f"output {o.name!r}")) for o in self._model.graph.output)
        known = ((name, type_, self._values[name].type) for name, type_ in said if type_ is not None)
        return tuple(
            (name, type_) for name, type_, own in known
            if type_.elem == own.elem and shapes_agree(type_.shape, own.shape) and merge_types(own, type_) != own
        )  # fmt: skip

    def _node(self, node: NodeFields, name: str) -> None:
        try:
            origin = (Origin(name, node.op_type),)
            if node.op_type == "Constant" and not node.domain:
                self._constant(node, origin)
            else:
                self._convert(node, self._version, origin)
        except AmctcError as error:
            if isinstance(error, TypeConstraintError) and error.remedy is None:
                error.remedy = AGAIN
            raise error.located(f"node {printable(name)!r} ({node.op_type})") from None
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            # A required attribute or operand is absent, or has another form than the standard says.
            raise InputError(f"malformed: {type(error).__name__} {error}", remedy=AGAIN,
                             where=f"node {printable(name)!r} ({node.op_type})") from error  # fmt: skip

    def _constant(self, node: NodeFields, origin: tuple[Origin, ...]) -> None:
        data, elem = constant_node(node.proto, self._external)
        self._define(node.output[0], const(data, elem, name=node.output[0], origins=origin))

    def _convert(self, node: NodeFields, version: int, origin: tuple[Origin, ...]) -> None:
        operands = tuple([self._values[n] if n else None for n in node.input])
        converted = self._converted(NodeView(node, operands, version, origin))
        if converted is None:
            self._carry(node.proto, version, operands, origin)
        elif isinstance(converted, Value):
            self._define(node.output[0], converted)
        else:
            kind, kept = converted
            for result in build_named(kind, kept, node.output, origin).results:
                if result.name is not None:
                    self._define(result.name, result)

    def _converted(self, view: NodeView) -> Converted:
        """What the caller's converter makes of a node, else what the standard one does; ``None`` to carry it."""
        node = view.node
        own = None if node.domain else self._converters.get(node.op_type)
        for converter in (own, CONVERTERS.get((node.domain, node.op_type))):
            converted = None if converter is None else converter(view)
            if converted is not None:
                return converted
        return None

    def _carry(
        self, node: NodeProto, version: int, operands: tuple[Value | None, ...], origin: tuple[Origin, ...]
    ) -> None:
        node = with_contents(node, self._external)
        captured = captured_names(node)
        if not node.domain and version < OPSET:
            known = {n: self._values[n].type for n in captured}
            known |= {n: o.type for n, o in zip(node.input, operands, strict=True) if o is not None}
            newer = upgraded(node, version, known, self._small(node))
            if newer is not None:
                for part in map(node_fields, newer):
                    if part.op_type == "Constant":
                        self._constant(part, origin)
                    else:
                        self._convert(part, OPSET, origin)
                return
        version = self._opsets.get(node.domain, 1) if node.domain else oldest_version(node, version)
        everything = (*operands, *(self._values[n] for n in captured))
        types = tuple(None if o is None else o.type for o in everything)
        results = self._result_types(node, version, types[: len(operands)])
        proto = _anonymous(node, captured, self._opsets, self._version)
        kind = Node(node.op_type, node.domain, version, proto, types, results)
        names = [n for n in node.output if n]
        op = build(kind, *everything, names=tuple(names), origins=origin)
        for output, result in zip(names, op.results, strict=True):
            self._define(output, result)

    def _small(self, node: NodeProto) -> dict[str, TensorProto]:
        """Constant operands small enough to matter for shapes, as tensors by name."""
        values = [self._values[n] if n else None for n in node.input]
        types = [None if v is None else v.type for v in values]
        return small_constants(node, [constant_data(v) for v in values], types)

    def _result_types(
        self, node: NodeProto, version: int, operands: tuple[TensorType | None, ...]
    ) -> tuple[TensorType, ...]:
        own = node_types(node, version, operands, self._small(node))
        if any(n and t is None and n not in self._types for n, t in zip(node.output, own, strict=True)):
            opsets = {"": self._version, node.domain: version}
            own = runtime_types(node, opsets, operands, self._small(node))
        types = []
        for name, local in zip(node.output, own, strict=True):
            if not name:
                continue
            known = self._types.get(name)
            if known is None and local is None:
                raise UnsupportedError(
                    f"the type of {printable(name)!r} is not known",
                    remedy="add it to the model's value_info: neither ONNX nor ONNX Runtime can infer it",
                )
            if known is None or local is None:
                types.append(known or local)
            else:
                agree = known.elem == local.elem and shapes_agree(known.shape, local.shape)
                types.append(merge_types(local, known) if agree else local)
        return tuple(t for t in types if t is not None)

    def _define(self, name: str, value: Value) -> None:
        if name in self._values:
            raise InputError(f"value {printable(name)!r} is computed twice", remedy=AGAIN)
        self._values[name] = value


def _fits(default: tuple[Data, ScalarType], type_: TensorType) -> bool:
    data, elem = default
    return elem == type_.elem and shapes_agree(data.shape, type_.shape)


def _anonymous(node: NodeProto, captured: list[str], opsets: Mapping[str, int], version: int) -> bytes:
    """The node without its names: operands become ``i0``…, captured values keep theirs, absent ones stay empty.

    Metadata says what is captured, in operand order, and the versions of other domains that its bodies use; the default
    domain's too where the node itself is of another.
    """
    bare = NodeProto()
    bare.CopyFrom(node)
    bare.name = bare.doc_string = ""
    bare.ClearField("metadata_props")
    bare.ClearField("input")
    bare.ClearField("output")
    fresh = Names({*captured, *inner_names(node)}).fresh
    bare.input.extend(fresh(f"i{k}") if n else "" for k, n in enumerate(node.input))
    bare.output.extend(fresh(f"o{k}") if n else "" for k, n in enumerate(node.output))
    for name in captured:
        bare.metadata_props.add(key=CAPTURED, value=name)
    for domain in sorted({n.domain for n in inner_nodes(node) if n.domain or node.domain}):
        known = opsets.get(domain, 1) if domain else version
        bare.metadata_props.add(key=f"{DOMAIN}{domain}", value=str(known))
    return bytes(bare.SerializeToString(deterministic=True))

"""ONNX model -> graph. Nodes we give meaning to become ``nn`` and ``quant`` ops, all others are carried."""

from __future__ import annotations

import contextlib
import gc
import heapq
from collections.abc import Iterator, Mapping

import onnx
from onnx import NodeProto, TensorProto

from amctc.data import Data
from amctc.errors import AmctcError, InputError, UnsupportedError, printable
from amctc.ir import Graph, GraphInput, Origin, Value, build, const, constant_data
from amctc.onnx_bridge.checks import AGAIN, check_nodes
from amctc.onnx_bridge.converters import CONVERTERS, Converted, Converter, NodeView, build_named
from amctc.onnx_bridge.functions import inlined
from amctc.onnx_bridge.inference import inferred_types, node_types, small_constants
from amctc.onnx_bridge.names import node_names
from amctc.onnx_bridge.opsets import OPSET, upgraded
from amctc.onnx_bridge.subgraphs import CAPTURED, DEFAULT, DOMAIN, captured_names, inner_nodes, with_plain_domain
from amctc.onnx_bridge.tensors import ExternalFile, tensor_data, type_of, with_contents
from amctc.ops.onnx import Node
from amctc.types import ScalarType, TensorType, merge_types, shapes_agree

OLDEST_OPSET = 7
"""ONNX Runtime has no kernels below; the standard's own converter starts there."""


def import_model(
    model: onnx.ModelProto, external: ExternalFile | None = None, converters: Mapping[str, Converter] | None = None
) -> Graph:
    """The graph of a model. Interface names, dimension symbols and metadata are kept.

    ``external`` resolves external-data files. ``converters``, by op type of the default domain, are asked before the
    standard ones: how a file form with ops of its own is read. Raises :class:`InputError` for a malformed model
    (undefined or repeated names, a cycle, a broken type constraint, naming the node) and :class:`UnsupportedError`
    where nothing can be done.
    """
    opsets = {o.domain: o.version for o in model.opset_import}
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if not model.HasField("graph") or (not version and any(n.domain in DEFAULT for n in model.graph.node)):
        raise InputError("no graph or no opset version inside", remedy="this is not a complete ONNX model")
    if version and version < OLDEST_OPSET:
        raise UnsupportedError(f"opset {version} is too old", remedy=f"convert the model to {OLDEST_OPSET} or newer")
    if version > onnx.defs.onnx_opset_version():
        raise UnsupportedError(f"opset {version} is newer than the installed onnx knows", remedy="upgrade onnx")
    check_nodes(model, version)
    model = with_plain_domain(inlined(model))
    with _collector_paused():
        return _Importer(model, version or OPSET, opsets, external, converters or {}).graph()


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Building many small objects makes the cyclic collector the only non-linear part of an import."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Importer:
    def __init__(
        self, model: onnx.ModelProto, version: int, opsets: dict[str, int], external: ExternalFile | None,
        converters: Mapping[str, Converter],
    ) -> None:  # fmt: skip
        self._model, self._version, self._opsets, self._external = model, version, opsets, external
        self._converters = converters
        self._values: dict[str, Value] = {}
        self._types = inferred_types(model)

    def graph(self) -> Graph:
        proto = self._model.graph
        initializers = self._initializers()
        inputs = self._inputs(initializers)
        for name, (data, elem) in initializers.items():
            if name not in self._values:
                self._values[name] = const(data, elem, name=name)
        nodes = list(proto.node)
        names = node_names(nodes)
        for index in _sorted(nodes, frozenset(self._values)):
            self._node(nodes[index], names[index])
        outputs = []
        for info in proto.output:
            if info.name not in self._values:
                raise InputError(f"output {printable(info.name)!r} is never computed", remedy=AGAIN)
            outputs.append(self._values[info.name])
        metadata = tuple(sorted((p.key, p.value) for p in self._model.metadata_props))
        output_names = tuple(o.name for o in proto.output)
        return Graph(tuple(inputs), tuple(outputs), output_names, proto.name or "graph", metadata)

    def _initializers(self) -> dict[str, tuple[Data, ScalarType]]:
        found: dict[str, tuple[Data, ScalarType]] = {}
        for tensor in self._model.graph.initializer:
            if tensor.name in found:
                raise InputError(f"initializer {printable(tensor.name)!r} is given twice", remedy=AGAIN)
            found[tensor.name] = tensor_data(tensor, self._external)
        for sparse in self._model.graph.sparse_initializer:
            raise UnsupportedError(f"sparse initializer {printable(sparse.values.name)!r}", remedy="store it dense")
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

    def _node(self, node: NodeProto, name: str) -> None:
        try:
            origin = (Origin(name, node.op_type),)
            if node.op_type == "Constant" and not node.domain:
                self._define(
                    node.output[0], const(*_constant(node, self._external), name=node.output[0], origins=origin)
                )
            else:
                self._convert(node, self._version, origin)
        except AmctcError as error:
            raise error.located(f"node {printable(name)!r} ({node.op_type})") from None
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            # A required attribute or operand is absent, or has another form than the standard says.
            raise InputError(f"malformed: {type(error).__name__} {error}", remedy=AGAIN,
                             where=f"node {printable(name)!r} ({node.op_type})") from error  # fmt: skip

    def _convert(self, node: NodeProto, version: int, origin: tuple[Origin, ...]) -> None:
        operands = tuple(self._values[n] if n else None for n in node.input)
        converted = self._converted(NodeView(node, operands, version, origin))
        if converted is None:
            self._carry(node, version, operands, origin)
        elif isinstance(converted, Value):
            self._define(node.output[0], converted)
        else:
            kind, kept = converted
            for result in build_named(kind, kept, node.output, origin).results:
                if result.name is not None:
                    self._define(result.name, result)

    def _converted(self, view: NodeView) -> Converted:
        """What the caller's converter makes of a node, else what the standard one does; ``None`` to carry it."""
        if view.node.domain:
            return None
        for table in (self._converters, CONVERTERS):
            converter = table.get(view.node.op_type)
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
                for part in newer:
                    if part.op_type == "Constant":
                        self._define(part.output[0], const(*_constant(part, None), name=part.output[0], origins=origin))
                    else:
                        self._convert(part, OPSET, origin)
                return
        elif node.domain:
            version = self._opsets.get(node.domain, 1)
        everything = (*operands, *(self._values[n] for n in captured))
        types = tuple(None if o is None else o.type for o in everything)
        results = self._result_types(node, version, types[: len(operands)])
        proto = _anonymous(node, captured, self._opsets)
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
        types = []
        for name, local in zip(node.output, own, strict=True):
            if not name:
                continue
            known = self._types.get(name)
            if known is None and local is None:
                raise UnsupportedError(
                    f"the type of {printable(name)!r} is not known",
                    remedy="add it to the model's value_info: ONNX has no shape inference for this op",
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


def _anonymous(node: NodeProto, captured: list[str], opsets: Mapping[str, int]) -> bytes:
    """The node without its names: operands become ``i0``…, captured values keep theirs, absent ones stay empty.

    Metadata says what is captured, in operand order, and the versions of other domains that its bodies use.
    """
    bare = NodeProto()
    bare.CopyFrom(node)
    bare.name = bare.doc_string = ""
    bare.ClearField("metadata_props")
    bare.ClearField("input")
    bare.ClearField("output")
    bare.input.extend(f"i{k}" if n else "" for k, n in enumerate(node.input))
    bare.output.extend(f"o{k}" if n else "" for k, n in enumerate(node.output))
    for name in captured:
        bare.metadata_props.add(key=CAPTURED, value=name)
    for domain in sorted({n.domain for n in inner_nodes(node) if n.domain}):
        bare.metadata_props.add(key=f"{DOMAIN}{domain}", value=str(opsets.get(domain, 1)))
    return bytes(bare.SerializeToString(deterministic=True))


def _constant(node: NodeProto, external: ExternalFile | None) -> tuple[Data, ScalarType]:
    """Value of a Constant node in any of its forms."""
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return tensor_data(value, external)
    if attribute.name == "sparse_value":
        raise UnsupportedError("a sparse Constant", remedy="store it dense")
    forms = {
        "value_float": TensorProto.FLOAT, "value_floats": TensorProto.FLOAT, "value_int": TensorProto.INT64,
        "value_ints": TensorProto.INT64, "value_string": TensorProto.STRING, "value_strings": TensorProto.STRING,
    }  # fmt: skip
    many = attribute.name.endswith("s")
    items = list(value) if many else [value]
    shape = [len(items)] if many else []
    return tensor_data(onnx.helper.make_tensor("constant", forms[attribute.name], shape, items), None)


def _sorted(nodes: list[NodeProto], known: frozenset[str]) -> list[int]:
    """Indices with producers first, otherwise in file order; names a node that waits for itself or for nothing."""
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name in producers or name in known:
                raise InputError(f"value {printable(name)!r} is computed twice", remedy=AGAIN,
                                 where=f"node {printable(node.name)!r}")  # fmt: skip
            if name:
                producers[name] = index
    waiting: list[set[str]] = []
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        needs = dict.fromkeys(n for n in (*node.input, *captured_names(node)) if n and n not in known)
        for name in needs:
            if name not in producers:
                raise InputError(f"{printable(name)!r} is never computed", remedy=AGAIN,
                                 where=f"node {printable(node.name)!r} ({node.op_type})")  # fmt: skip
            readers.setdefault(name, []).append(index)
        waiting.append(set(needs))
    return _in_order(nodes, waiting, readers)


def _in_order(nodes: list[NodeProto], waiting: list[set[str]], readers: dict[str, list[int]]) -> list[int]:
    ready = [i for i, needs in enumerate(waiting) if not needs]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for name in nodes[order[-1]].output:
            for reader in readers.get(name, ()):
                waiting[reader].discard(name)
                if not waiting[reader]:
                    heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(n for n, needs in zip(nodes, waiting, strict=True) if needs)
        raise InputError("the graph has a cycle", where=f"node {printable(stuck.name)!r} ({stuck.op_type})",
                         remedy="an ONNX graph must be acyclic; export the model again")  # fmt: skip
    return order

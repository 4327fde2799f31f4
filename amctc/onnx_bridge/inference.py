"""Types of carried ops, from ONNX shape inference: over the whole model at import, per node when operands change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

import onnx
from onnx import NodeProto, TensorProto, helper, shape_inference

from amctc.data import Data
from amctc.errors import UnsupportedError
from amctc.onnx_bridge.propagation import with_types
from amctc.onnx_bridge.subgraphs import inner_nodes
from amctc.onnx_bridge.tensors import tensor_proto, type_of, type_proto
from amctc.ops.onnx import Node, use_type_inference
from amctc.types import OpaqueType, TensorType, shapes_agree

FAKE_QUANTIZERS = frozenset(
    (domain, op_type)
    for domain in ("onnx.brevitas", "qonnx.custom_op.general", "finn.custom_op.general")
    for op_type in ("BipolarQuant", "FloatQuant", "IntQuant", "Quant", "Trunc")
)
"""Quantizers of QONNX, by all the names its domain has had: floats in, floats of the same shape out."""

KEPT_ELEMENTS = 1024
"""Initializers up to this size take part in data propagation (shapes, axes); larger ones are reduced to their type."""

FRAGILE = {"EyeLike", "RegexFullMatch"}
"""Ops whose inference reads the type of an operand without asking whether it is known, and then ends the process."""


def inferred_types(model: onnx.ModelProto) -> dict[str, TensorType]:
    """Types of all values of a model by name, as far as ONNX finds them. Weights are left out of the inference."""
    found = skeleton = _without_weights(model)
    if not any(has_fragile_body(node) or node.op_type in FRAGILE for node in model.graph.node):
        # The C++ inference raises bare exceptions on odd models; per-node inference still works.
        with contextlib.suppress(Exception):
            found = with_types(skeleton)
    known = _symbols(i.type for i in (*model.graph.input, *model.graph.output, *model.graph.value_info))
    types: dict[str, TensorType] = {}
    shared: dict[bytes, TensorType | None] = {}  # models repeat themselves, and a type costs more than its bytes
    for info in (*found.graph.value_info, *found.graph.output, *found.graph.input):
        key = info.type.SerializeToString(deterministic=True)
        if key not in shared:
            type_ = type_of(info.type, f"value {info.name!r}")
            shared[key] = None if type_ is None else _with_symbols(type_, known)
        if (remembered := shared[key]) is not None:
            types[info.name] = remembered
    return types


def has_fragile_body(node: NodeProto) -> bool:
    """True when ONNX must not look into the bodies of ``node``."""
    return any(inner.op_type in FRAGILE for inner in inner_nodes(node))


def _symbols(types: Iterable[onnx.TypeProto]) -> frozenset[str]:
    return frozenset(d.dim_param for t in types for d in _dimensions(t) if d.dim_param)


def _dimensions(proto: onnx.TypeProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    """The dimensions of a type, those of what sequences, optionals and maps hold included."""
    while (kind := proto.WhichOneof("value")) in ("sequence_type", "optional_type", "map_type"):
        proto = proto.map_type.value_type if kind == "map_type" else getattr(proto, kind).elem_type
    if kind in ("tensor_type", "sparse_tensor_type"):
        yield from getattr(proto, kind).shape.dim


def _with_symbols(type_: TensorType, known: frozenset[str]) -> TensorType:
    """The type without symbols that ONNX invented for unknown dimensions (``unk__0``)."""
    if isinstance(type_.elem, OpaqueType):
        proto = type_proto(type_)
        for dim in _dimensions(proto):
            if dim.dim_param not in known:
                dim.ClearField("dim_param")
        return type_.with_elem(replace(type_.elem, proto=proto.SerializeToString(deterministic=True)))
    if type_.shape is None or all(not isinstance(d, str) or d in known for d in type_.shape):
        return type_
    return TensorType(tuple(d if not isinstance(d, str) or d in known else None for d in type_.shape), type_.elem)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    kept, declared = [], []
    given = {i.name for i in graph.input}
    for sparse in graph.sparse_initializer:
        if sparse.values.name not in given:
            info = helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, list(sparse.dims))
            declared.append(info)
    for tensor in graph.initializer:
        size = 1
        for d in tensor.dims:
            size *= d
        if size <= KEPT_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
            kept.append(tensor)
        elif tensor.name not in given:
            declared.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    slim = helper.make_graph(
        list(graph.node), graph.name or "g", [*graph.input, *declared], list(graph.output), kept,
        value_info=list(graph.value_info),
    )  # fmt: skip
    return helper.make_model(slim, opset_imports=list(model.opset_import), ir_version=max(model.ir_version, 4))


def node_types(
    node: NodeProto,
    version: int,
    operands: Sequence[TensorType | None],
    constants: Mapping[str, TensorProto],
) -> list[TensorType | None]:
    """Result types of one node by its schema, ``None`` where ONNX cannot tell."""
    if has_fragile_body(node):
        return [None] * len(node.output)
    if (node.domain, node.op_type) in FAKE_QUANTIZERS and len(node.output) == 1:
        return [operands[0]]
    inputs = {n: type_proto(t) for n, t in zip(node.input, operands, strict=False) if n and t is not None}
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        found = shape_inference.infer_node_outputs(
            schema, node, inputs, dict(constants), opset_imports=[helper.make_opsetid(node.domain, version)]
        )
    except Exception:  # unknown op, or an inference function that rejects what it is given
        return [None] * len(node.output)
    types = [type_of(found[n], f"result of {node.op_type}") if n in found else None for n in node.output]
    known = _symbols(inputs.values())
    return [t and _with_symbols(t, known) for t in types]


def small_constants(
    node: NodeProto, constants: Sequence[Data | None], operands: Sequence[TensorType | None]
) -> dict[str, TensorProto]:
    """Contents of a node's constant operands by operand name, as far as they are small enough to be shapes."""
    return {
        name: tensor_proto(name, data.read(), type_.elem)
        for name, data, type_ in zip(node.input, constants, operands, strict=False)
        if name and data is not None and type_ is not None and data.size <= KEPT_ELEMENTS
    }


def _infer_carried(
    kind: Node, operands: tuple[TensorType | None, ...], constants: Sequence[Data | None]
) -> tuple[TensorType, ...]:
    node = NodeProto.FromString(kind.proto)
    found = node_types(node, kind.version, operands, small_constants(node, constants, operands))
    results = [t for name, t in zip(node.output, found, strict=True) if name]
    if any(t is None for t in results):
        if _agree(operands, kind.operand_types):
            return kind.result_types  # more or less is known of the same operands: what the importer found out stands
        raise UnsupportedError(
            f"the results of carried op {kind.op_type} cannot be typed for operands "
            + ", ".join(str(t) for t in operands),
            remedy="the rewrite that changed its operand must leave this op alone",
        )
    return tuple(t for t in results if t is not None)


def _agree(operands: Sequence[TensorType | None], known: Sequence[TensorType | None]) -> bool:
    """Whether two lists of operand types, one perhaps without its absent end, can be those of the same values."""
    return all(
        a is b if a is None or b is None else a.elem == b.elem and shapes_agree(a.shape, b.shape)
        for a, b in zip_longest(operands, known)
    )


use_type_inference(_infer_carried)

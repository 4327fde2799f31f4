"""Types of nodes that ONNX has no schema for but ONNX Runtime has: its own ops, and those of custom libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import NodeProto, TensorProto, helper

from amctc.errors import UnsupportedError
from amctc.onnx_bridge.sessions import open_session
from amctc.onnx_bridge.subgraphs import captured_names
from amctc.onnx_bridge.tensors import ELEM_TYPES, value_info
from amctc.types import TensorType


def runtime_types(
    node: NodeProto,
    opsets: Mapping[str, int],
    operands: Sequence[TensorType | None],
    constants: Mapping[str, TensorProto],
) -> list[TensorType | None]:
    """Result types of one node as ONNX Runtime infers them for it alone; ``None`` where it cannot.

    ``opsets`` are versions by domain. Symbols that the runtime makes up become unknown dimensions.
    """
    nothing: list[TensorType | None] = [None] * len(node.output)
    if captured_names(node):
        return nothing
    named = {n: t for n, t in zip(node.input, operands, strict=True) if n and t is not None}
    inputs = [value_info(n, t) for n, t in named.items() if n not in constants]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    graph = helper.make_graph([node], "node", inputs, outputs, [constants[n] for n in named if n in constants])
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    try:
        session = open_session(model.SerializeToString(), optimise=False)
    except UnsupportedError:  # the runtime does not know the op either, or not in this form
        return nothing
    known = frozenset(d for t in named.values() for d in t.shape or () if isinstance(d, str))
    found = {o.name: _type(o.type, o.shape, known) for o in session.get_outputs()}
    return [found.get(n) for n in node.output]


def _type(notation: str, shape: Sequence[int | str | None], known: frozenset[str]) -> TensorType | None:
    """A type in the runtime's words, ``tensor(float)``; it gives no dimensions for a scalar and for an unknown rank."""
    code = TensorProto.DataType.items()
    elem = next((ELEM_TYPES.get(c) for n, c in code if notation == f"tensor({n.lower()})"), None)
    if elem is None:
        return None
    dims = tuple(d if isinstance(d, int) or d in known else None for d in shape)
    return TensorType(dims or None, elem)

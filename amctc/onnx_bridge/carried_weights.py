"""Remarks on carried ops: those with weights, which stay as they came, and those that draw random numbers."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from amctc.ir import LAYER_OP_TYPES, Graph, Op, constant_data, layer_name
from amctc.onnx_bridge.subgraphs import bodies, inner_nodes
from amctc.ops import quant
from amctc.ops.onnx import Node

WEIGHTED = LAYER_OP_TYPES | {
    "Attention", "ConvInteger", "DeformConv", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "Einsum", "FusedConv",
    "FusedGemm", "FusedMatMul", "GRU", "LSTM", "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits",
    "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "RNN",
}  # fmt: skip
"""Ops with most of their work in products with weights, of the standard and of ONNX Runtime's domain."""


DRAWS = frozenset({"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                   "RandomUniformLike"})  # fmt: skip
"""Ops with other results in every run; of Dropout, those that are carried because they are still training."""


def carried_weights(graph: Graph) -> Iterator[tuple[str, str]]:
    """Layers of the user's model that no pass has quantized, and why: name and remark."""
    for op in graph.ops:
        reason = _reason(op, op.kind) if isinstance(op.kind, Node) and not stored_in_integers(op) else None
        if reason is not None:
            yield layer_name(op), f"left as it came: {reason}"


def stored_in_integers(op: Op) -> bool:
    """Whether the op reads numbers that are stored as integers, with a scale."""
    makers = (None if o is None else o.producer for o in op.operands)
    return any(
        m is not None and isinstance(m.kind, quant.Dequantize) and constant_data(m.operands[0]) is not None
        for m in makers
    )


def random_ops(graph: Graph) -> Iterator[tuple[str, str]]:
    """Ops that compute something else in every run: name and remark."""
    for op in graph.ops:
        if isinstance(op.kind, Node) and op.kind.op_type in DRAWS and not op.kind.domain:
            yield layer_name(op), "draws random numbers: the models differ by chance too"


def _reason(op: Op, kind: Node) -> str | None:
    node = NodeProto.FromString(kind.proto)
    if any(True for _ in bodies(node)):
        inside = sum(inner.op_type in WEIGHTED for inner in inner_nodes(node))
        layers = "a layer" if inside == 1 else f"{inside} layers"
        return f"{layers} in the body of {kind.op_type}" if inside else None
    if kind.op_type not in WEIGHTED or all(constant_data(o) is None for o in op.operands):
        return None
    data = op.operands[0]
    if data is not None and data.type.shape is None and kind.op_type in LAYER_OP_TYPES:
        return "the rank of its input is not known"
    return f"{kind.op_type} is a carried op"

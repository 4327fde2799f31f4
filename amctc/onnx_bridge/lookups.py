"""Stored integers that a model looks up: tables that came quantized, as of embeddings."""

from __future__ import annotations

from amctc.analysis import forward
from amctc.ir import Constant, Graph, Value
from amctc.onnx_bridge.deploy_form import data_operands, moves
from amctc.ops import nn, quant
from amctc.ops.onnx import Node

_ALONE = (nn.Cast, nn.Sub, nn.Mul, quant.Quantize, quant.Dequantize)
"""What integers are made real numbers by."""


@forward
def is_looked_up(value: Value, operands: tuple[bool, ...]) -> bool:
    """Whether all numbers in ``value`` stand in constants, or are such integers scaled: nothing of it is data."""
    op = value.producer
    if op is None:
        return False
    if isinstance(op.kind, Constant):
        return True
    if moves(op):
        return all(operands[: len(data_operands(op))])
    return isinstance(op.kind, _ALONE) and all(operands)


def quantizes_at_run_time(graph: Graph) -> bool:
    """True for a model whose data is quantized by ranges found while it runs, and by no quantizer of its own.

    Quantizers of what it looks up, as ONNX Runtime's ``quantize_dynamic`` leaves behind an embedding, are none of data.
    """
    quantizers = [op for op in graph.ops if isinstance(op.kind, quant.Quantize | quant.Dequantize)]
    dynamic = any(isinstance(op.kind, Node) and op.kind.op_type == "DynamicQuantizeLinear" for op in graph.ops)
    return dynamic and all(is_looked_up(op.result) for op in quantizers)

"""What is measured of a graph's outputs: scores, not the shares a final softmax makes of them."""

from __future__ import annotations

from amctc.ir import Graph, Value
from amctc.ops import nn


def scores(value: Value) -> Value:
    """What a final softmax is of: its few uncertain results would hide the noise of all others."""
    op = value.producer
    if op is None or not isinstance(op.kind, nn.Softmax | nn.LogSoftmax | nn.Sigmoid):
        return value
    operand = op.operands[0]
    assert operand is not None
    return operand


def with_scores(graph: Graph) -> Graph:
    """``graph`` without final softmaxes; the names of its outputs stay."""
    return graph.with_outputs(tuple(map(scores, graph.outputs)))

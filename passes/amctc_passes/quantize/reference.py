"""The float network inside a graph with quantizers."""

from __future__ import annotations

from amctc.ir import Graph, Value, with_operands
from amctc.ops import quant
from amctc_passes.facts import has_row_steps, is_quantized, stored_under


def before_quantizer(value: Value | None) -> Value:
    """x for dequantize(quantize(x)), and for x rounded row by row; a dequantized graph input stands for itself."""
    assert value is not None
    if value.producer is not None and has_row_steps(value):
        assert value.producer.operands[0] is not None
        return value.producer.operands[0]
    quantizer = stored_under(value).producer if is_quantized(value) else None
    if quantizer is None or not isinstance(quantizer.kind, quant.Quantize):
        return value
    source = quantizer.operands[0]
    assert source is not None
    return source


def without_quantizers(graph: Graph) -> tuple[Graph, dict[Value, Value]]:
    """``graph`` with every dequantize(quantize(x)) replaced by x, and what became of each value."""
    twins: dict[Value, Value] = {i: i for i in graph.inputs}
    for op in graph.ops:
        if before_quantizer(op.results[0]) is not op.results[0]:
            twins[op.results[0]] = twins[before_quantizer(op.results[0])]
            continue
        operands = tuple(None if o is None else twins[o] for o in op.operands)
        same = all(a is b for a, b in zip(operands, op.operands, strict=True))
        twins.update(zip(op.results, (op if same else with_operands(op, operands)).results, strict=True))
    return graph.with_outputs(tuple(twins[o] for o in graph.outputs)), twins

"""Assemble the report of a compression from its graphs and the comparison of their runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from amctc.cost import estimate, layer_macs
from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.ops import ascend, nn, quant
from amctc.ops.onnx import Node
from amctc.pipeline import Note, PassRecord
from amctc.report.compare import Comparison
from amctc.report.model import ChoiceReport, CompressionReport, LayerReport
from amctc.targets import Profile
from amctc.types import F16, I8


def build_report(
    *,
    model: str,
    pipeline: str,
    atc: str,
    target: Profile,
    float_graph: Graph,
    qdq_graph: Graph,
    integer_graph: Graph,
    comparison: Comparison,
    preprocess: str | None,
    bytes_before: int,
    bytes_after: int,
    notes: Sequence[Note],
    passes: Sequence[PassRecord],
) -> CompressionReport:
    """The report; every number in it follows from the model, the samples and the options alone."""
    times, total = _times(integer_graph, target)
    _, float_total = _times(float_graph, target)
    by_layer: dict[str, list[str]] = {}
    for note in notes:
        by_layer.setdefault(note.layer, []).append(note.text)
    edges = _edges(integer_graph)
    layers = tuple(
        _layer(op, by_layer.get(layer_name(op), []), comparison, edges, times)
        for op in qdq_graph.ops
        if isinstance(op.kind, nn.Layer)
    )
    named = {layer.name for layer in layers}
    compared = comparison.samples
    return CompressionReport(
        model=model, target=target.name, pipeline=pipeline, preprocess=preprocess, samples=compared, layers=layers,
        float_ops=_float_ops(integer_graph), bytes_before=bytes_before, bytes_after=bytes_after,
        output_sqnr_db=_rounded(comparison.outputs.sqnr_db) if compared else None,
        agreement=round(comparison.agreeing / compared, 6) if compared else None,
        overflows=tuple(sorted(comparison.overflows.items())), time_us=total, float_time_us=float_total,
        passes=tuple((p.name, tuple(sorted(p.rewrites.items()))) for p in passes),
        choices=used_choices(integer_graph, target),
        notes=tuple(f"{n.layer}: {n.text}" for n in notes if n.layer not in named), atc=atc,
    )  # fmt: skip


def _layer(
    op: Op, notes: Sequence[str], comparison: Comparison, edges: Mapping[str, str], times: Mapping[str, float]
) -> LayerReport:
    name, result = layer_name(op), op.result.name or ""
    integer = _is_dequantized(op.operands[1])
    error, steps = comparison.layers.get(result), comparison.steps.get(result)
    share = None if steps is None or not steps.total else round(steps.different / steps.total, 6)
    return LayerReport(
        name=name, op_type=op.kind.op_name.removeprefix("nn."), action="int8" if integer else "float",
        notes=tuple(dict.fromkeys(notes)), fused=tuple(o.name for o in op.origins if o.name != name),
        bytes_before=_bytes(op, real=True), bytes_after=_bytes(op, real=not integer), macs=layer_macs(op),
        sqnr_db=None if error is None else _rounded(error.sqnr_db),
        steps_max=None if steps is None else steps.largest, steps_share=share,
        edge=edges.get(name, "float"), time_us=times.get(name),
    )  # fmt: skip


def _rounded(value: float) -> float:
    return round(value, 3) if math.isfinite(value) else value


def _is_dequantized(value: Value | None) -> bool:
    return value is not None and value.producer is not None and isinstance(value.producer.kind, quant.Dequantize)


def _bytes(op: Op, real: bool) -> int:
    """Bytes of weight and bias: as they were in float, or stored as integers with a parameter word per scale (N11)."""
    total = 0
    for index in (1, 2):
        value = op.operand(index)
        if value is None:
            continue
        stored = value.producer.operands[0] if _is_dequantized(value) and value.producer else value
        data, elem = constant_data(stored), value.type.elem
        if data is None or stored is None:
            continue
        total += data.size * (elem.bits if real else stored.type.elem.bits) // 8
        if not real and index == 1:
            total += 8 * len(getattr(stored.type.elem, "scales", (0,)))
    return total


def _edges(graph: Graph) -> dict[str, str]:
    """How the result of each integer layer leaves the accumulator."""
    found = {}
    for op in graph.ops:
        if isinstance(op.kind, ascend.Requant | ascend.Dequant):
            found[layer_name(op)] = "requant" if isinstance(op.kind, ascend.Requant) else "dequant"
    return found


def _float_ops(graph: Graph) -> tuple[str, ...]:
    """What the target computes in float, as ``op (layer)``; casts and moves of data left out."""
    listed = []
    for op in graph.ops:
        quiet = isinstance(op.kind, nn.Cast | nn.Reshape | nn.Flatten | nn.Transpose | nn.Identity)
        computed = any(r.type.is_float for r in op.results) and bool(op.operands)
        if computed and not quiet and not op.kind.op_name.startswith("ascend."):
            kind = op.kind.op_type if isinstance(op.kind, Node) else op.kind.op_name.removeprefix("nn.")
            listed.append(f"{kind} ({layer_name(op)})")
    return tuple(listed)


def _times(graph: Graph, target: Profile) -> tuple[dict[str, float], float | None]:
    """Estimated microseconds per layer and in all for one sample; nothing where the chip's figures are not public."""
    try:
        result = estimate(graph, target)
    except UnsupportedError:
        return {}, None
    times: dict[str, float] = {}
    for op in result.ops:
        if op.time_us is not None:
            times[op.layer] = round(times.get(op.layer, 0.0) + op.time_us, 3)
    return times, None if result.total_us is None else round(result.total_us, 3)


def used_choices(graph: Graph, target: Profile) -> tuple[ChoiceReport, ...]:
    """The choices that are not certain and that this graph depends on."""
    kinds = {type(op.kind) for op in graph.ops}
    slopes = {op.kind.slope for op in graph.ops if isinstance(op.kind, ascend.Requant)}
    halves = any(r.type.elem == F16 for op in graph.ops for r in op.results)
    used = {
        "quant_mode": ascend.Quant in kinds, "dequant_multiplier": ascend.Dequant in kinds,
        "dequant_overflow": ascend.Dequant in kinds, "requant": ascend.Requant in kinds,
        "requant_leaky": bool(slopes - {0.0, 1.0}), "elementwise": nn.Add in kinds and halves,
        "max_pool_int8": any(isinstance(o.kind, nn.MaxPool) and o.result.type.elem == I8 for o in graph.ops),
        "float_island": halves, "island_overflow": halves,
    }  # fmt: skip
    return tuple(
        ChoiceReport(c.name, c.value, c.tag, c.rule) for c in target.choices if c.tag != "C" and used.get(c.name)
    )

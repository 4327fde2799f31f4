"""Assemble the report of a compression from its graphs and the comparison of their runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from amctc.cost import estimate, layer_macs
from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.numerics.fixed_point import unpack_dequant
from amctc.ops import ascend, nn, quant
from amctc.ops.onnx import Node
from amctc.pipeline import Note, PassRecord
from amctc.report.compare import Comparison
from amctc.report.model import ChoiceReport, CompressionReport, LayerReport
from amctc.schema import OpKind, Trait
from amctc.targets import Profile
from amctc.types import F16, F32, I4, I8


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
        if isinstance(op.kind, nn.Layer) or (isinstance(op.kind, nn.AveragePool) and _is_dequantized(op.operands[0]))
    )
    named = {layer.name for layer in layers}
    compared = comparison.samples
    return CompressionReport(
        model=model, target=target.name, pipeline=pipeline, preprocess=preprocess, samples=compared, layers=layers,
        float_ops=_float_ops(integer_graph), bytes_before=bytes_before, bytes_after=bytes_after,
        output_sqnr_db=_rounded(comparison.outputs.sqnr_db) if comparison.outputs.count else None,
        agreement=round(comparison.agreeing / comparison.rows, 6) if comparison.rows else None,
        overflows=tuple(sorted(comparison.overflows.items())), time_us=total, float_time_us=float_total,
        passes=tuple((p.name, tuple(sorted(p.rewrites.items()))) for p in passes),
        choices=used_choices(integer_graph, target, overflowed=bool(comparison.overflows)),
        notes=(*(f"{n.layer}: {n.text}" for n in notes if n.layer not in named), *_infinite(comparison),
               *_zero_rows(comparison)), atc=atc,
        reference="QDQ" if any(isinstance(op.kind, quant.Quantize) for op in float_graph.ops) else "float",
    )  # fmt: skip


def _infinite(comparison: Comparison) -> tuple[str, ...]:
    """Where values left float16, if that can be seen where the float model is finite."""
    errors = (comparison.outputs, *comparison.layers.values())
    if not any(math.isinf(error.noise_energy) for error in errors):
        return ()
    return tuple(f"{name}: {count} results beyond float16 (N26)" for name, count in sorted(comparison.infinite.items()))


def _zero_rows(comparison: Comparison) -> tuple[str, ...]:
    """N6: what the chip makes of the integers of such rows is not defined."""
    return tuple(
        f"{name}: {count} rows of zeros, whose integers the chip computes as 0 · ∞ and we give as 0 (N6); "
        "their step is 0, so they add nothing either way"
        for name, count in sorted(comparison.zero_rows.items())
    )


def _layer(
    op: Op, notes: Sequence[str], comparison: Comparison, edges: Mapping[str, str], times: Mapping[str, float]
) -> LayerReport:
    name, result = layer_name(op), op.result.name or ""
    stored = _is_dequantized(op.operand(1)) or isinstance(op.kind, nn.AveragePool)
    integers = _is_dequantized(op.operands[0]) or _has_row_steps(op.operands[0])
    quantized = "int8" if stored and integers else "weight-only" if stored else "float"
    # Lowering may have left it in float after all; an op without origins has no name to find it by.
    action = quantized if name in edges or not op.origins else "float"
    error, steps = comparison.layers.get(result), comparison.steps.get(result)
    share = None if steps is None or not steps.total else round(steps.different / steps.total, 6)
    return LayerReport(
        name=name, op_type=op.kind.op_name.removeprefix("nn."), action=action,
        notes=tuple(dict.fromkeys(notes)), fused=tuple(o.name for o in op.origins if o.name != name),
        bytes_before=_bytes(op, real=True), bytes_after=_bytes(op, real=action == "float"),
        macs=layer_macs(op) if isinstance(op.kind, nn.Layer) else 0,
        sqnr_db=None if error is None else _rounded(error.sqnr_db),
        steps_max=None if steps is None else steps.largest, steps_share=share,
        edge="float" if action == "weight-only" else edges.get(name, "float"), time_us=times.get(name),
        weight_bits=None if action == "float" else _stored_bits(op.operand(1)),
    )  # fmt: skip


def _rounded(value: float) -> float:
    return round(value, 3) if math.isfinite(value) else value


def _is_dequantized(value: Value | None) -> bool:
    return value is not None and value.producer is not None and isinstance(value.producer.kind, quant.Dequantize)


def _stored_bits(weight: Value | None) -> int | None:
    """Bits of each integer that a weight is made of."""
    if weight is None or weight.producer is None or not isinstance(weight.producer.kind, quant.Dequantize):
        return None
    stored = weight.producer.operands[0]
    return None if stored is None or constant_data(stored) is None else stored.type.elem.bits


def _has_row_steps(value: Value | None) -> bool:
    return value is not None and value.producer is not None and isinstance(value.producer.kind, quant.FakeQuantizeRows)


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
    """How the result of each integer layer leaves the accumulator: ``requant``, ``dequant``, ``dequant-rows`` (N13), or
    ``weight-only``.
    """
    found = {}
    for op in graph.ops:
        if isinstance(op.kind, ascend.WeightQuantMatMul):
            found[layer_name(op)] = "weight-only"
        elif isinstance(op.kind, ascend.DequantRows):
            found[layer_name(_before(op) or op)] = "dequant-rows"
        elif isinstance(op.kind, ascend.Requant | ascend.Dequant):
            # Fused with the quantizer behind it, the op descends from the next layer as well; its operand does not.
            layer = _before(op) or op
            found[layer_name(layer)] = "requant" if isinstance(op.kind, ascend.Requant) else "dequant"
    return found


QUIET = (
    nn.Cast, nn.Expand, nn.Flatten, nn.Gather, nn.Identity, nn.Reshape, nn.Slice, nn.Split, nn.Squeeze, nn.Transpose,
    nn.Unsqueeze,
)  # fmt: skip
"""Op kinds that move data and compute nothing."""


def _float_ops(graph: Graph) -> tuple[str, ...]:
    """What the target computes in float, as ``op (layer)``; casts and moves of data left out."""
    listed = []
    for op in graph.ops:
        quiet = isinstance(op.kind, QUIET)
        computed = any(r.type.is_float for r in op.results) and bool(op.operands)
        if computed and not quiet and not isinstance(op.kind, ascend.KINDS):
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


def used_choices(graph: Graph, target: Profile, *, overflowed: bool = False) -> tuple[ChoiceReport, ...]:
    """The choices that are not certain and that a run of this graph depends on, as it is after the target's compiler.

    ``overflowed`` tells that accumulators left int32 in the run. A requantization counts as used where the target
    makes one, and where it could but dequantizes and quantizes.
    """
    kinds = {type(op.kind) for op in graph.ops}
    halves = any(r.type.elem == F16 for op in graph.ops for r in op.results)
    exact = (ascend.AntiQuant, nn.Identity, nn.Relu)
    rounded = [o for o in graph.ops if Trait.ELEMENTWISE in o.kind.traits and not isinstance(o.kind, exact)]
    elementwise = any(o.results[0].type.elem in (F16, F32) for o in rounded)
    layers = [op for op in graph.ops if isinstance(op.kind, ascend.Conv | ascend.ConvTranspose)]
    dequantizes = bool({ascend.Dequant, ascend.AntiQuant, ascend.DequantRows} & kinds)
    used = {
        "quant_mode": ascend.Quant in kinds, "dynamic_quant": ascend.DynamicQuant in kinds,
        "accumulate_overflow": overflowed,
        "dequant_multiplier": ascend.Dequant in kinds, "dequant_overflow": dequantizes,
        "dequant_guard": ascend.Dequant in kinds, "shift_field": any(map(_shifts, graph.ops)),
        "requant": ascend.Requant in kinds or any(map(_unfused, graph.ops)),
        "requant_leaky": any(isinstance(o.kind, ascend.Requant) and o.kind.slope not in (0.0, 1.0) for o in graph.ops)
        or any(map(_unfused_leaky, graph.ops)),
        "elementwise": elementwise and (halves or target.elementwise == "f32"),
        "max_pool_int8": any(isinstance(o.kind, nn.MaxPool) and o.result.type.elem == I8 for o in graph.ops)
        or any(isinstance(o.kind, ascend.Quant) and isinstance(_kind_before(o), nn.MaxPool) for o in graph.ops),
        "average_pool_int8": ascend.SumPool in kinds
        or any(isinstance(o.kind, nn.AveragePool) and isinstance(_kind_before(o), ascend.AntiQuant) for o in graph.ops),
        "weight_only_type": halves and ascend.WeightQuantMatMul in kinds,
        "float_island": halves, "island_overflow": halves,
        "w4a8_conv": any(op.operands[1] is not None and op.operands[1].type.elem == I4 for op in layers),
    }  # fmt: skip
    return tuple(
        ChoiceReport(c.name, c.value, c.tag, c.rule) for c in target.choices if c.tag != "C" and used.get(c.name)
    )


def _before(op: Op) -> Op | None:
    return None if op.operands[0] is None else op.operands[0].producer


def _kind_before(op: Op) -> OpKind | None:
    before = _before(op)
    return None if before is None else before.kind


def _unfused(op: Op) -> bool:
    """Whether a quantizer reads a dequantized accumulator, through an activation or not."""
    before = _before(op) if isinstance(op.kind, ascend.Quant) else None
    if before is not None and isinstance(before.kind, nn.Relu | nn.LeakyRelu | nn.Clip):
        before = _before(before)
    return before is not None and isinstance(before.kind, ascend.Dequant)


def _unfused_leaky(op: Op) -> bool:
    return _unfused(op) and isinstance(_kind_before(op), nn.LeakyRelu)


def _shifts(op: Op) -> bool:
    """Whether a dequantization shifts its accumulator (N16)."""
    data = constant_data(op.operand(1)) if isinstance(op.kind, ascend.Dequant) else None
    return data is not None and data.dtype == np.uint64 and bool(unpack_dequant(data.read())[1].any())

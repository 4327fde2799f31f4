"""Compute what stays in float as the target does: in float16."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from amctc.analysis import uses
from amctc.contract import Changes, Contract
from amctc.data import Data, deferred
from amctc.ir import Constant, Graph, Op, Value, apply, build, const, constant_data
from amctc.ops import ascend, nn
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import F16, F32, Array
from amctc_passes.facts import LOWERED


@register
@dataclass(frozen=True)
class DemoteFloat(Pass):
    """Turn float32 ops into float16 ones (N26): results rounded once each, accumulations in float32.

    The interface keeps its types through casts. AscendQuant reads a float32 graph input as it is. A carried op runs in
    float32 between two casts, so that its results too are rounded to float16.
    """

    name: ClassVar[str] = "demote-float"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("float islands are computed in float16"), requires=(LOWERED,), keeps=(LOWERED,)
    )

    def run(self, graph: Graph, context: Context) -> Graph:
        """Convert op by op, then cast the outputs back."""
        if context.target.float_island == "f32":
            return graph
        settled = _settled(graph)
        demoted = convert(graph, lambda op, operands: None if op in settled else _demoted(op, operands))
        if demoted is graph:
            return graph
        outputs = tuple(
            apply(nn.Cast(F32), new, name=new.name and f"{new.name}.f32") if new.type != old.type else new
            for new, old in zip(demoted.outputs, graph.outputs, strict=True)
        )
        return demoted.with_outputs(outputs)


def _settled(graph: Graph) -> set[Op]:
    """Carried ops that stand between two casts already."""
    readers = uses(graph)
    carried = [op for op in graph.ops if isinstance(op.kind, Node)]
    return {
        op
        for op in carried
        if all(o is None or o.type.elem != F32 or _widened(o) is not None for o in op.operands)
        and all(
            use.op is not None and isinstance(use.op.kind, nn.Cast) and use.op.kind.to == F16
            for result in op.results
            if result.type.elem == F32
            for use in readers.get(result, ())
        )
    }


def _widened(value: Value) -> Value | None:
    """The float16 value that ``value`` is a cast of; a constant or graph input in float32 is one for a carried op."""
    op = value.producer
    if op is None or isinstance(op.kind, Constant):
        return value
    source = op.operands[0] if isinstance(op.kind, nn.Cast) else None
    return source if source is not None and source.type.elem == F16 else None


def _demoted(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    kind = op.kind
    if isinstance(kind, Constant):
        return None  # each reader decides: parameters of integer ops stay as they are
    if isinstance(kind, ascend.Dequant | ascend.AntiQuant):
        return (apply(replace(kind, to=F16), *operands),) if kind.to == F32 else None
    if kind.op_name.startswith("ascend."):
        return None
    if isinstance(kind, Node):
        return _carried(op, operands)
    if isinstance(kind, nn.Cast):
        source = operands[0]
        assert source is not None
        widens = kind.to == F32 and source.type.elem == F16
        return (apply(replace(kind, to=F16), source),) if kind.to == F32 and not widens else None
    if not any(r.type.elem == F32 for r in op.results):
        return None
    halves = tuple(None if o is None else half(o) for o in operands)
    return build(kind, *halves, names=tuple(r.name for r in op.results)).results


def _carried(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    """The carried op on float32 operands, each float32 result rounded to float16."""
    wide = tuple(
        apply(nn.Cast(F32), new) if new is not None and old is not None and new.type != old.type else new
        for new, old in zip(operands, op.operands, strict=True)
    )
    results = build(op.kind, *wide, names=tuple(r.name for r in op.results)).results
    return tuple(apply(nn.Cast(F16), r) if r.type.elem == F32 else r for r in results)


def half(value: Value) -> Value:
    """``value`` in float16: a constant converted, anything else cast."""
    if value.type.elem != F32:
        return value
    data = constant_data(value)
    if data is not None:
        return const(_rounded(data), name=value.name)
    source = _widened(value)
    return apply(nn.Cast(F16), value) if source is None or source is value else source


def _rounded(data: Data) -> Data:
    def to_half(array: Array) -> Array:
        with np.errstate(over="ignore"):
            return array.astype(np.float16)

    return deferred("to float16", to_half, data, shape=data.shape, dtype=np.float16)

"""Compute what stays in float as the target does: in float16."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from amctc.analysis import uses
from amctc.contract import Changes, Contract
from amctc.data import Data, deferred
from amctc.ir import Constant, Graph, Op, Value, apply, build, const, constant_data
from amctc.onnx_bridge.deploy_form import moves
from amctc.ops import ascend, nn
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pass, register
from amctc.schema import Trait
from amctc.substitute import convert
from amctc.targets import Profile
from amctc.types import F16, F32, Array
from amctc_passes.facts import LOWERED, TWO_OF_FOUR


@register
@dataclass(frozen=True)
class DemoteFloat(Pass):
    """Turn float32 ops into float16 ones (N26): results rounded once each, accumulations in float32.

    The profile decides for element-wise ops (``elementwise``) and for the others (``float_island``) apart; ops that it
    leaves in float32 read float16 values through casts, which change nothing. The interface keeps its types through
    casts. AscendQuant reads a float32 graph input as it is. A carried op runs in float32 between two casts, so that
    its results too are rounded to float16.
    """

    name: ClassVar[str] = "demote-float"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("float islands are computed in float16"), requires=(LOWERED,), keeps=(LOWERED, TWO_OF_FOUR)
    )

    def run(self, graph: Graph, context: Context) -> Graph:
        """Convert op by op, then cast the outputs back."""
        profile = context.target
        if profile.float_island == profile.elementwise == "f32":
            return graph
        settled = _settled(graph)
        demoted = convert(graph, lambda op, operands: None if op in settled else _demoted(op, operands, profile))
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


def _demoted(op: Op, operands: tuple[Value | None, ...], profile: Profile) -> tuple[Value, ...] | None:
    kind = op.kind
    if isinstance(kind, nn.Identity) and operands[0] is not None:
        return (operands[0],)  # a file has one where an output is an input, which nothing rounds
    if isinstance(kind, Constant):
        return None  # each reader decides: parameters of integer ops stay as they are
    if isinstance(kind, ascend.Dequant | ascend.AntiQuant | ascend.DequantRows):
        return (apply(replace(kind, to=F16), *operands),) if kind.to == F32 else None
    if isinstance(kind, ascend.DynamicQuant):
        return _rows(op, operands, profile)
    weight_only = isinstance(kind, ascend.WeightQuantMatMul)
    if isinstance(kind, ascend.KINDS) and not weight_only:
        return None
    if isinstance(kind, Node):
        return _carried(op, operands, profile)
    if isinstance(kind, nn.Cast):
        source = operands[0]
        assert source is not None
        widens = kind.to == F32 and source.type.elem == F16
        narrows = kind.to == F32 and not widens and profile.float_island == "f16"
        return (apply(replace(kind, to=F16), source),) if narrows else None
    if not any(r.type.elem == F32 for r in op.results):
        return None
    in_half = _precision(op, operands, profile) == "f16"
    own = (1, 2, 3) if weight_only else ()  # the weight, its scales and offsets stay as they are
    halves = tuple(o if o is None or i in own else half(o) for i, o in enumerate(operands))
    made = halves if in_half else _wide(op, operands)
    return None if made == op.operands else build(kind, *made, names=tuple(r.name for r in op.results)).results


def _rows(op: Op, operands: tuple[Value | None, ...], profile: Profile) -> tuple[Value, ...] | None:
    """DynamicQuant reads float16 alone, unlike AscendQuant (N6)."""
    assert operands[0] is not None
    if profile.float_island == "f32" or operands[0].type.elem == F16:
        return None
    return build(op.kind, half(operands[0]), names=tuple(r.name for r in op.results)).results


def _precision(op: Op, operands: tuple[Value | None, ...], profile: Profile) -> str:
    """The float type an op computes in; one that only moves elements follows what it moves."""
    if profile.elementwise != profile.float_island and moves(op):
        computed = [o for o in operands if o is not None and o.producer is not None and constant_data(o) is None]
        return "f32" if any(o.type.elem == F32 for o in computed) else "f16"
    return profile.elementwise if Trait.ELEMENTWISE in op.kind.traits else profile.float_island


def _carried(op: Op, operands: tuple[Value | None, ...], profile: Profile) -> tuple[Value, ...] | None:
    """The carried op on float32 operands, each float32 result rounded to float16 unless islands are in float32."""
    wide = _wide(op, operands)
    if profile.float_island == "f32" and wide == op.operands:
        return None
    results = build(op.kind, *wide, names=tuple(r.name for r in op.results)).results
    if profile.float_island == "f32":
        return results
    return tuple(apply(nn.Cast(F16), r) if r.type.elem == F32 else r for r in results)


def _wide(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """The operands in the types that ``op`` had: float16 values widened."""
    return tuple(
        apply(nn.Cast(F32), new) if new is not None and old is not None and new.type != old.type else new
        for new, old in zip(operands, op.operands, strict=True)
    )


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

"""Split layers into two of lower rank."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import ClassVar

from amctc.concurrency import in_order
from amctc.contract import Changes, Contract
from amctc.cycles import layer_macs
from amctc.ir import Graph, Op, Value, const, constant_data, layer_name
from amctc.numerics.low_rank import Factors
from amctc.numerics.threads import single_threaded_blas
from amctc.onnx_bridge.names import Names
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import Array
from amctc_passes.compress.plans import Criterion, Plan
from amctc_passes.compress.selection import selected
from amctc_passes.compress.splits import Method, Split, Splittable, built, pieces
from amctc_passes.facts import UNOBSERVED, UNQUANTIZED
from amctc_passes.quantize.layers import names

Key = tuple[Value, Split, int, bool]
Shared = dict[Key, tuple[Value, Value]]
FactorsOf = Mapping[Key, Factors]


@register
@dataclass(frozen=True)
class SplitLowRank(Pass):
    """Split convolutions and matrix products into two of lower rank, where that saves multiply-accumulates.

    ``method`` is for kernels: ``spatial`` makes k×1 and 1×k (Jaderberg 2014) and leaves 1×1 kernels whole,
    ``pointwise`` makes 1×1 and k×k (Zhang 2015), ``auto`` takes whichever is better. A matrix product becomes two in
    any case.

    The rank follows from one of ``rank`` (itself), ``energy`` (the least that keeps this share of the squared singular
    values), ``ratio`` (the largest within this share of the layer's multiply-accumulates; 0.5 when none of these is
    given) and ``evbmf`` (layers, orientation and rank as the existing tool chooses them). Energy rounds it up and ratio
    down to a multiple of ``multiple``, the channel block of the target. ``layers`` and ``skip`` take names with
    wildcards. The pieces are called ``name/0`` and ``name/1``; bias and activation are on the last.
    """

    method: Method = "spatial"
    rank: int | None = None
    energy: float | None = None
    ratio: float | None = None
    evbmf: bool = False
    multiple: int = 16
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    name: ClassVar[str] = "split-low-rank"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are approximated by factors of lower rank"), requires=(UNQUANTIZED, UNOBSERVED),
        idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._criterion()
        if self.evbmf and self.method == "pointwise":
            raise ValueError("evbmf splits kernels into k×1 and 1×k, not method=pointwise")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Plan layer by layer, then split. Factors are computed here and held: they are smaller than the weight."""
        chosen, executor = selected(graph, self.layers, self.skip), context.executor
        plans: dict[Op, Plan | str] = {}
        for op, plan in zip(chosen, self._criterion().plans(chosen, self.method, executor), strict=True):
            plans[op] = plan
            context.progress(self.name, len(plans), len(chosen))
        return self._split(graph, plans, _all_factors(plans, executor), context)

    def _criterion(self) -> Criterion:
        return Criterion(self.rank, self.energy, self.ratio, self.evbmf, self.multiple)

    def _split(self, graph: Graph, plans: dict[Op, Plan | str], found: FactorsOf, context: Context) -> Graph:
        taken, shared = Names(names(graph)), Shared()

        def divided(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            plan = plans.get(op)
            if isinstance(plan, Plan):
                result = _divided(op, operands, plan, found, taken, shared)
                context.note(self.name, layer_name(op), _remark(op, plan, result))
                return (result,)
            if plan is not None:
                context.note(self.name, layer_name(op), f"left whole: {plan}")
            return None

        return convert(graph, divided)


def _key(op: Op, plan: Plan) -> Key:
    """What the factors of a layer depend on; layers that share a weight share its factors."""
    weight = op.operands[1]
    assert weight is not None
    return weight, plan.split, plan.rank, isinstance(op.kind, nn.Gemm) and op.kind.trans_b


def _all_factors(plans: Mapping[Op, Plan | str], executor: Executor) -> FactorsOf:
    """The factors of all weights that are split."""
    splitting = {_key(op, plan): (op, plan) for op, plan in plans.items() if isinstance(plan, Plan)}
    works = ((data.read(), op.kind, plan) for op, plan in splitting.values()
             if isinstance(op.kind, Splittable) and (data := constant_data(op.operands[1])) is not None)  # fmt: skip
    return dict(zip(splitting, in_order(executor, _factors, works), strict=True))


def _factors(work: tuple[Array, Splittable, Plan]) -> Factors:
    weight, kind, plan = work
    with single_threaded_blas():
        return plan.split.factors(weight, kind, plan.rank)


def _divided(
    op: Op, operands: tuple[Value | None, ...], plan: Plan, found: FactorsOf, taken: Names, shared: Shared
) -> Value:
    """The layer as two."""
    weight, kind, layer = operands[1], op.kind, layer_name(op)
    assert weight is not None
    assert isinstance(kind, Splittable)
    origins = pieces(op, (taken.fresh(f"{layer}/0"), taken.fresh(f"{layer}/1")))
    key = _key(op, plan)
    if key not in shared:
        hints = (None, None) if weight.name is None else (f"{weight.name}/0", f"{weight.name}/1")
        first, last = (
            const(factor, weight.type.elem, name=hint, origins=origin)
            for factor, hint, origin in zip(found[key], hints, origins, strict=True)
        )
        shared[key] = first, last
    return built(op, operands, plan.split, shared[key], origins)


def _remark(op: Op, plan: Plan, result: Value) -> str:
    """What was done, with the multiply-accumulates of the layer before and of both after."""
    last, data = result.producer, constant_data(op.operands[1])
    assert last is not None
    assert data is not None
    inner = last.operands[0]
    assert inner is not None
    assert inner.producer is not None
    before, first, second = layer_macs(op), layer_macs(inner.producer), layer_macs(last)
    counted = "" if before is None or first is None or second is None else f" {before:,} → {first + second:,}"
    saved = 1 - plan.cost / plan.split.full
    return (
        f"split into {plan.split.title(data.shape[2:])} of rank {plan.rank}: relative error {plan.error:.4f}, "
        f"multiply-accumulates{counted} (−{saved:.1%})"
    )

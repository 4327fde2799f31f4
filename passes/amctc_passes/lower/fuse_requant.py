"""Do what the target's graph compiler does to a deploy file: fuse dequantize, activation and quantize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Lossy
from amctc.ir import Graph, Op, Value, apply
from amctc.ops import ascend
from amctc.pipeline import Context, Pass, register
from amctc.rewrite import Rewrite, apply_rewrites
from amctc.schema import OpKind
from amctc.substitute import convert
from amctc.targets import Profile, load_profile
from amctc_passes.facts import LOWERED, TWO_OF_FOUR
from amctc_patterns import requant


@register
@dataclass(frozen=True)
class FuseRequant(Pass):
    """Fuse dequant + activation + quant into requant where the target does (N17 to N19), and relu into dequant (N12).

    Quantizers move before max pooling and concatenation first, where the profile says the target works on int8 there;
    where it says that the target averages in float16, AveragePool leaves the integers (N26).
    Fused and unfused forms give different numbers, so the interpreter runs this on every deploy file it loads.
    """

    target: str = ""

    name: ClassVar[str] = "fuse-requant"
    contract: ClassVar[Contract] = Contract(effect=Lossy(bound=2), requires=(LOWERED,), keeps=(LOWERED, TWO_OF_FOUR))

    def __post_init__(self) -> None:
        if self.target:
            load_profile(self.target)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Share equal quantizers and rewrite, again where quantizers that were moved met."""
        rules = self.rewrites(load_profile(self.target) if self.target else context.target)
        before: Graph | None = None
        while graph is not before:
            before, graph = graph, apply_rewrites(_shared_quantizers(graph), rules, context.log)
        return graph

    @staticmethod
    def rewrites(profile: Profile) -> tuple[Rewrite, ...]:
        """The fusions that ``profile`` makes."""
        rules: list[Rewrite] = [] if profile.average_pool_int8 == "requant" else [requant.average_in_float]
        if profile.requant != "unfused":
            if profile.max_pool_int8 == "int8":
                rules.append(requant.quantize_before_pool)
            leaky = profile.requant_leaky == "slope"
            fusion = requant.fuse_requant if leaky else requant.fuse_requant_without_leaky
            rules += [requant.quantize_before_concat(profile.c0["i8"]), fusion]
        return (*rules, requant.fuse_dequant_relu)


def _shared_quantizers(graph: Graph) -> Graph:
    """One AscendQuant per value and parameters: the compiler merges equal ones before it counts readers."""
    known: dict[tuple[OpKind, Value | None], Value] = {}

    def shared(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        if not isinstance(op.kind, ascend.Quant):
            return None
        key = (op.kind, operands[0])
        if key in known:
            return (known[key],)
        if operands[0] is op.operands[0]:
            known[key] = op.result
            return (op.result,)
        known[key] = apply(op.kind, operands[0], name=op.result.name)
        return (known[key],)

    return convert(graph, shared)

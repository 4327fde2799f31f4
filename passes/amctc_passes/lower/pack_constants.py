"""Pack constants the way the target reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.errors import UnsupportedError
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.fixed_point import pack_dequant, pack_requant
from amctc.ops import ascend
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import U64
from amctc_passes.facts import LOWERED, PACKED, TWO_OF_FOUR


@register
@dataclass(frozen=True)
class PackConstants(Pass):
    """Pack dequantization and requantization scales into uint64 parameters (N11)."""

    name: ClassVar[str] = "pack-constants"
    contract: ClassVar[Contract] = Contract(
        effect=Exact(), requires=(LOWERED,), ensures=(PACKED,), keeps=(LOWERED, TWO_OF_FOUR)
    )

    def run(self, graph: Graph, context: Context) -> Graph:
        """Replace float32 scales by packed words."""
        return convert(graph, _packed)


def _packed(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
    kind = op.kind
    if not isinstance(kind, ascend.Dequant | ascend.Requant):
        return None
    acc, scale = operands
    assert scale is not None
    if scale.type.elem == U64:
        return None
    data = constant_data(scale)
    if data is None:
        raise UnsupportedError("a computed scale cannot be packed", where=layer_name(op))
    words = pack_dequant(data.read()) if isinstance(kind, ascend.Dequant) else pack_requant(data.read(), kind.offset)
    return (apply(kind, acc, const(words, name=scale.name)),)

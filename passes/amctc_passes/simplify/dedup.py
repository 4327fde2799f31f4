"""Compute once what is computed twice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.ir import Constant, Graph, Op, Value, with_operands
from amctc.onnx_bridge.carried import inner_ops
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc_passes.facts import TWO_OF_FOUR
from amctc_passes.simplify.fold_constants import NONDETERMINISTIC, UNBOUNDED


@register
@dataclass(frozen=True)
class Dedup(Pass):
    """Let equal ops on equal operands be one op, equal constants included (common subexpression elimination).

    Random ops and nodes of other domains stay apart, in bodies too: they need not compute the same twice.
    """

    name: ClassVar[str] = "dedup"
    contract: ClassVar[Contract] = Contract(effect=Exact(), keeps=(TWO_OF_FOUR,))

    def run(self, graph: Graph, context: Context) -> Graph:
        """One walk in topological order; the first of equal ops stays, with its name and origins."""
        known: dict[Hashable, Op] = {}

        def first(op: Op, operands: tuple[Value | None, ...]) -> Sequence[Value] | None:
            kind = op.kind
            if isinstance(kind, Node) and _may_differ(kind):
                return None
            key: Hashable = (kind, operands)
            if isinstance(kind, Constant):
                key = (kind.elem, kind.data.digest())
            if key in known:
                return known[key].results
            same = all(a is b for a, b in zip(operands, op.operands, strict=True))
            known[key] = op if same else with_operands(op, operands)
            return known[key].results

        return convert(graph, first)


def _may_differ(kind: Node) -> bool:
    """Whether the node, or one in a body of it, may compute something else the second time."""
    found = [(kind.domain, kind.op_type), *(inner_ops(kind) if kind.op_type in UNBOUNDED else ())]
    return any(domain or name in NONDETERMINISTIC for domain, name in found)

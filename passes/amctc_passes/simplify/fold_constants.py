"""Compute what depends on constants only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.contract import Contract, Rounding
from amctc.errors import AmctcError
from amctc.interp import Plan
from amctc.ir import Constant, Graph, Op, Value, const, constant_data, layer_name
from amctc.onnx_bridge.carried import attribute_names, recognised, refined
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import ascend, quant
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc_passes.simplify.shape_contents import settled

FREE_BYTES = 1 << 20
"""A result up to this size may be larger than its operands: shapes expand, but a folding bomb must not."""

NONDETERMINISTIC = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial",
                              "Bernoulli", "Dropout"})  # fmt: skip
UNBOUNDED = frozenset({"If", "Loop", "Scan"})


@register
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace ops on constants by their value, and what is computed from known dimensions by constants.

    A reshape to computed sizes becomes one to -1 where only one of them is not known (a free batch). Random ops,
    control flow and quantizers stay. A result larger than its operands and than 1 MiB is not folded, nor is one that
    makes all folded results together larger than the model's weights and 64 MiB.
    """

    name: ClassVar[str] = "fold-constants"
    contract: ClassVar[Contract] = Contract(effect=Rounding(units=2))

    def run(self, graph: Graph, context: Context) -> Graph:
        """Fold in topological order, so that a chain folds in one go.

        Carried ops learn from operands that became constant, or of which some elements are known: some are recognised
        as ours, some know their shape.
        """
        budget = (64 << 20) + sum(o.kind.data.nbytes for o in graph.ops if isinstance(o.kind, Constant))

        def fold(op: Op, operands: tuple[Value | None, ...]) -> Sequence[Value] | None:
            nonlocal budget
            if not _foldable(op, operands):
                return recognised(op, operands) or settled(op, operands) or refined(op, operands)
            try:
                values = _evaluated(op, operands)
            except AmctcError as error:
                context.note(self.name, layer_name(op), f"not folded: {error.what}")
                return None
            budget -= 8 * sum(c.type.num_elements or 0 for c in values)
            return values if budget >= 0 else None

        return convert(graph, fold)


def _foldable(op: Op, operands: tuple[Value | None, ...]) -> bool:
    kind = op.kind
    if isinstance(kind, (Constant, quant.Observe, quant.Quantize, quant.Dequantize, *ascend.KINDS)):
        return False
    if isinstance(kind, Node) and (kind.domain or kind.op_type in NONDETERMINISTIC | UNBOUNDED):
        return False
    if isinstance(kind, Node) and kind.op_type in ("Shape", "Size"):
        # Only the shape counts, so the operand need not be constant; attributes (start, end) leave it to the runtime.
        return operands[0] is not None and operands[0].type.is_static and not attribute_names(kind)
    if any(r.type.shape is None for r in op.results) and not all(_small(o) for o in operands):
        return False
    constants = all(o is None or constant_data(o) is not None for o in operands)
    sizes = [r.type.num_elements for r in op.results]
    given = sum(d.nbytes for o in operands if (d := constant_data(o)) is not None)
    bounded = all(s is None or s * 8 <= max(FREE_BYTES, 2 * given) for s in sizes)
    return constants and bounded and (None not in sizes or given <= FREE_BYTES)


def _small(value: Value | None) -> bool:
    data = constant_data(value)
    return value is None or (data is not None and data.nbytes <= FREE_BYTES)


def _evaluated(op: Op, operands: tuple[Value | None, ...]) -> list[Value]:
    if isinstance(op.kind, Node) and op.kind.op_type in ("Shape", "Size"):
        source = operands[0]
        assert source is not None
        shape = np.asarray(source.type.dims, np.int64)
        value = shape if op.kind.op_type == "Shape" else np.asarray(source.type.num_elements, np.int64)
        return [const(value, name=op.result.name, origins=op.origins)]
    alone = Op(op.kind, operands, tuple(r.type for r in op.results), tuple(r.name for r in op.results), op.origins)
    names = tuple(str(i) for i in range(len(alone.results)))
    arrays = Plan(Graph((), alone.results, names), WHOLE_FLOAT).run({})
    return [
        const(arrays[n], r.type.elem, name=r.name, origins=op.origins)
        for n, r in zip(names, alone.results, strict=True)
    ]

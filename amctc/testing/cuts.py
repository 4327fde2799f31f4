"""One rewrite application on its own: what was there and what is there now, as functions of the match's leaves.

Results are compared at this cut and nowhere deeper, because the magnitude that the tolerance is relative to explodes
over a deep graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from amctc.analysis import EVERYTHING, value_range
from amctc.data import ArrayData, Data
from amctc.interp import KernelTable, Plan
from amctc.ir import Constant, Graph, GraphInput, Op, Value, constant_data
from amctc.ops import nn
from amctc.rewrite import Application
from amctc.testing.arrays import Recipe, feed, numbered
from amctc.testing.workbench import transplant
from amctc.types import F16, F32, Array, TensorType

ROUNDING_INPUTS = (Recipe(1), Recipe(2, 10.0), Recipe(3, special="edges"), Recipe(4, special="integers"),
                   Recipe(5, special="zeros"), Recipe(6, special="large"))  # fmt: skip
EXACT_INPUTS = (*ROUNDING_INPUTS, Recipe(7, special="nonfinite"))
"""Inputs each application is compared on; bit-exact ones must also agree on NaN and infinities."""


@dataclass(frozen=True)
class Cut:
    """``before`` and ``after`` compute the root of a match from the same inputs, which stand for ``leaves``."""

    before: Graph
    after: Graph
    leaves: tuple[Value, ...]

    def feeds(self, actual: Mapping[Value, Array], recipes: tuple[Recipe, ...]) -> Iterator[dict[str, Array]]:
        """Inputs of the cut: the ``actual`` values at the leaves, then each recipe in their shapes."""
        arrays = dict(zip(self.before.inputs, (actual[v] for v in self.leaves), strict=True))
        yield {value.name: array for value, array in arrays.items()}
        for recipe in recipes:
            drawn = (numbered(recipe, i).array(a.shape, v.type.elem) for i, (v, a) in enumerate(arrays.items()))
            leaves = zip(self.before.inputs, self.leaves, drawn, strict=True)
            yield {value.name: _possible(leaf, array) for value, leaf, array in leaves}


def leaf_arrays(
    graph: Graph, leaves: tuple[Value, ...], table: KernelTable, feeds: Mapping[str, Array] | None = None
) -> dict[Value, Array]:
    """What the inputs of ``graph`` give at ``leaves``, in one run; drawn inputs unless ``feeds`` are given."""
    given = feed(graph.inputs, Recipe(11)) if feeds is None else feeds
    with np.errstate(all="ignore"):
        return Plan(_of(graph.inputs, leaves), table).run_values(given)


def _possible(leaf: Value, array: Array) -> Array:
    """``array`` moved into the range a leaf's producer guarantees: a rewrite may rely on what analysis proves."""
    low, high = value_range(leaf)
    return array if (low, high) == EVERYTHING else np.clip(array, low, high).astype(array.dtype)


def cut_out(application: Application) -> Cut:
    """The cut around an application, at the leaves of its match.

    A replacement that reads values above the leaves is compared from the graph inputs on.
    """
    match = application.match
    root = match.value(match.root)
    read = dict.fromkeys(o for op in match.ops for o in op.operands if o is not None)
    leaves = [v for v in read if v.producer not in match.ops and constant_data(v) is None]
    fresh: dict[Value, Value] = {v: GraphInput(f"leaf{i}", v.type) for i, v in enumerate(leaves)}
    before, after = transplant(root, dict(fresh)), transplant(application.replacement, dict(fresh))
    if not reached_inputs(before, after) <= set(fresh.values()):
        reached = [v for v in reached_inputs(root, application.replacement) if isinstance(v, GraphInput)]
        inputs = tuple(sorted(reached, key=lambda v: v.name))
        return Cut(_of(inputs, (root,)), _of(inputs, (application.replacement,)), inputs)
    inputs = tuple(v for v in fresh.values() if isinstance(v, GraphInput))
    return Cut(_of(inputs, (before,)), _of(inputs, (after,)), tuple(leaves))


def _of(inputs: tuple[GraphInput, ...], outputs: tuple[Value, ...]) -> Graph:
    return Graph(inputs, outputs, tuple(f"y{i}" for i in range(len(outputs))))


def ops_of(*values: Value) -> tuple[Op, ...]:
    """The ops that values are computed by."""
    found, stack = dict[Op, None](), [v.producer for v in values]
    while stack:
        op = stack.pop()
        if op is not None and op not in found:
            found[op] = None
            stack.extend(o.producer for o in op.operands if o is not None)
    return tuple(found)


def reached_inputs(*values: Value) -> set[Value]:
    """The graph inputs that values are computed from."""
    read = [*values, *(o for op in ops_of(*values) for o in op.operands)]
    return {v for v in read if isinstance(v, GraphInput)}


def widened(graph: Graph) -> Graph:
    """The graph with float32 in place of float16, so that it can be evaluated in float64.

    Casts of floats to float16 stay and round: a rewrite that forgets one computes something else. The kernel of such a
    cast goes on in float64; integers, which it would leave in float16, become float32.
    """
    if not any(v.type.elem == F16 for v in graph.values()):
        return graph
    inputs = tuple(GraphInput(v.name, _wide(v.type), _wide_default(v)) for v in graph.inputs)
    leaves: dict[Value, Value] = dict(zip(graph.inputs, inputs, strict=True))
    for op in graph.ops:
        kind = op.kind
        if isinstance(kind, Constant) and kind.elem == F16:
            kind = Constant(ArrayData(kind.data.read().astype(np.float32)), F32)
        elif isinstance(kind, nn.Cast) and kind.to == F16 and not _reads_float(op):
            kind = nn.Cast(F32)
        operands = tuple(None if o is None else leaves[o] for o in op.operands)
        types = tuple(_wide(r.type) for r in op.results)
        leaves.update(zip(op.results, Op(kind, operands, types, (None,) * len(types), op.origins).results, strict=True))
    return Graph(inputs, tuple(leaves[v] for v in graph.outputs), graph.output_names)


def _reads_float(op: Op) -> bool:
    return any(o is not None and o.type.is_float for o in op.operands)


def _wide_default(value: GraphInput) -> Data | None:
    if value.default is None or value.type.elem != F16:
        return value.default
    return ArrayData(value.default.read().astype(np.float32))


def _wide(type_: TensorType) -> TensorType:
    return type_.with_elem(F32) if type_.elem == F16 else type_

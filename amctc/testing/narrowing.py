"""Narrow two graphs that differ down to the smallest part that does, between values that both of them name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from amctc.contract import Effect
from amctc.errors import AmctcError
from amctc.ir import Graph, GraphInput, Value, constant_data
from amctc.testing.comparisons import Tables, check_outputs
from amctc.testing.cuts import leaf_arrays
from amctc.testing.violations import Evidence, Violation
from amctc.testing.workbench import transplant
from amctc.types import Array

Named = Mapping[str, Value]


def narrowed(evidence: Evidence | None, effect: Effect, tables: Tables) -> Evidence | None:
    """The first part of both graphs that differs by itself, fed with what the graph before computes around it.

    A value keeps its name when it is rewritten, so parts are cut at the values that both graphs name and type alike.
    The evidence comes back as it is where no part differs alone.
    """
    if evidence is None:
        return None
    before, after = _named(evidence.before), _named(evidence.after)
    common = [n for n, v in after.items() if n in before and before[n].type == v.type]
    try:
        arrays = leaf_arrays(evidence.before, tuple(before[n] for n in common), tables.kernels, evidence.feeds)
        for name in (n for n in common if before[n].producer is not None):
            part = _part(name, {n: before[n] for n in common}, {n: after[n] for n in common}, arrays)
            check_outputs(part.before, part.after, [effect] * max(1, len(part.before.ops)), tables, part.feeds)
    except Violation as violation:
        return violation.evidence
    except AmctcError:
        pass  # what cannot be evaluated in parts is shown whole
    return evidence


def _named(graph: Graph) -> dict[str, Value]:
    """Computed values whose name no other value has, and the inputs, in topological order."""
    values = [v for v in graph.values() if constant_data(v) is None]
    counts = Counter(v.name for v in values)
    return {v.name: v for v in values if v.name is not None and counts[v.name] == 1}


def _part(name: str, before: Named, after: Named, arrays: Mapping[Value, Array]) -> Evidence:
    """What computes ``name`` from the nearest values that both graphs name."""
    inputs = {n: GraphInput(n, v.type) for n, v in before.items() if n != name}
    sides = (before, after)
    roots = [transplant(side[name], {side[n]: i for n, i in inputs.items()}) for side in sides]
    graphs = [Graph(tuple(inputs.values()), (root,), (name,)) for root in roots]
    read = {o for graph in graphs for op in graph.ops for o in op.operands} | set(roots)
    kept = tuple(i for i in inputs.values() if i in read)
    first, second = (Graph(kept, graph.outputs, graph.output_names) for graph in graphs)
    return Evidence(first, second, {i.name: arrays[before[i.name]] for i in kept})

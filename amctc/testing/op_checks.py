"""``check_op``: what must hold of every op kind, tested on drawn instances."""

from __future__ import annotations

import numpy as np

from amctc.errors import AmctcError, TypeConstraintError, UnsupportedError
from amctc.interp import KernelTable, Plan
from amctc.ir import Graph, Op
from amctc.kernels.tables import ORACLE
from amctc.magnitude import MAGNITUDE
from amctc.parser import parse_graph
from amctc.schema import OpKind, op_kind
from amctc.testing.arrays import Recipe, feed
from amctc.testing.checks import default_examples
from amctc.testing.strategies import op_graphs
from amctc.testing.violations import Violation, explore
from amctc.text import print_graph
from amctc.types import Array, QuantizedType, TensorType


def check_op(
    kind: type[OpKind] | str,
    *,
    examples: int | None = None,
    seed: int | None = 0,
    kernels: KernelTable = ORACLE,
    magnitude: KernelTable = MAGNITUDE,
) -> None:
    """Check an op kind that has a sampler: its instances build and infer deterministically, print and parse; a wrong
    number of operands breaks C0; results have the inferred shape and type in float32 and float64; and it declares how
    it carries error.

    ``examples`` defaults to 100 (``AMCTC_EXAMPLES``). Raises :class:`AssertionError` with a small graph.
    """
    kind = op_kind(kind) if isinstance(kind, str) else kind
    name, examples = kind.op_name, default_examples() if examples is None else examples
    _check_tables(kind, kernels, magnitude)

    def examine(graph: Graph) -> None:
        op = graph.outputs[0].producer
        assert op is not None
        check_inference(graph, op)
        check_arity(graph, op)
        check_text(graph)
        check_evaluation(graph, kernels)
        check_magnitude(graph, magnitude)

    try:
        explore(op_graphs(kind), examine, examples=examples, seed=seed)
    except Violation as violation:
        raise violation.replayed(f"check_op({name!r}, seed={seed}, examples={examples})") from violation.__cause__


def _check_tables(kind: type[OpKind], kernels: KernelTable, magnitude: KernelTable) -> None:
    """**declared**: a kernel computes the op, and the magnitude table says how it carries error."""
    for table, what in ((kernels, "kernel"), (magnitude, "magnitude")):
        if kind not in table:
            raise Violation("declared", f"{kind.op_name} has no {what}; pass a table that has one")


def _types(op: Op) -> tuple[TensorType | None, ...]:
    return tuple(None if o is None else o.type for o in op.operands)


def check_inference(graph: Graph, op: Op) -> None:
    """**infers**: inference gives the stored types, every time, and says something about each result."""
    stored = tuple(r.type for r in op.results)
    if op.kind.infer(*_types(op)) != stored:
        raise Violation("infers", f"{op} infers other types a second time", graph)


def check_arity(graph: Graph, op: Op) -> None:
    """**C0**: too many operands, too few, and a missing required one are :class:`TypeConstraintError` of rule C0."""
    specs, types = op.kind.operand_specs, _types(op)
    wrong: list[tuple[TensorType | None, ...]] = []
    if specs and not specs[-1].variadic:
        wrong.append((*types, *[types[0]] * (len(specs) - len(types) + 1)))
    required = sum(not s.optional and not s.variadic for s in specs)
    if required:
        wrong += [types[: required - 1], (None, *types[1:])]
    for operands in wrong:
        try:
            op.kind.check_arity(operands)
        except TypeConstraintError as error:
            if error.rule == f"{op.kind.op_name}.C0":
                continue
            raise Violation("C0", f"{len(operands)} operands break {error.rule}, not C0", graph) from error
        raise Violation("C0", f"operands {operands} are accepted by {op.kind.op_name}", graph)


def check_text(graph: Graph) -> None:
    """**prints and parses**: the text reads back to the same text."""
    text = print_graph(graph)
    try:
        back = print_graph(parse_graph(text))
    except AmctcError as error:
        raise Violation("prints and parses", str(error), graph) from error
    if back != text:
        raise Violation("prints and parses", f"it reads back as\n{back}", graph)


def check_evaluation(graph: Graph, kernels: KernelTable) -> None:
    """**evaluates**: results have the inferred shape, symbols bound once; the type's dtype, float64 in the oracle."""
    for size, recipe in ((1, Recipe(1)), (3, Recipe(2)), (2, Recipe(3, special="edges"))):
        feeds = feed(graph.inputs, recipe, {"N": size})
        for precision in (None, np.float64):
            try:
                plan = Plan(graph, kernels, float_type=precision)
                results = plan.run(feeds)
            except AmctcError as error:
                raise Violation("evaluates", f"the kernel refuses what inference accepts: {error}", graph) from error
            for value, array in zip(graph.outputs, results.values(), strict=True):
                _check_result(graph, value.type, array, {"N": size}, precision is not None)


def _check_result(graph: Graph, type_: TensorType, array: Array, sizes: dict[str, int], oracle: bool) -> None:
    _check_shape(graph, type_, array, sizes)
    if array.dtype != type_.elem.dtype and not (oracle and type_.is_float and array.dtype == np.float64):
        raise Violation("evaluates", f"the result holds {array.dtype}, inferred was {type_}", graph)
    if isinstance(type_.elem, QuantizedType) and array.size:
        low, high = int(array.min()), int(array.max())
        if low < type_.elem.low or high > type_.elem.high:
            raise Violation("evaluates", f"stored integers [{low}, {high}] leave the range of {type_}", graph)


def _check_shape(graph: Graph, type_: TensorType, array: Array, sizes: dict[str, int]) -> None:
    expected = [sizes.get(d, 2) if isinstance(d, str) else d for d in type_.dims]
    fits = array.ndim == len(expected) and all(e in (None, n) for e, n in zip(expected, array.shape, strict=False))
    if not fits:
        raise Violation("evaluates", f"the result has shape {list(array.shape)}, inferred was {type_}", graph)


def check_magnitude(graph: Graph, magnitude: KernelTable) -> None:
    """**magnitude**: not negative and of the result's shape, unless the op declares itself discontinuous."""
    try:
        plan = Plan(graph, magnitude, float_type=np.float64)
    except UnsupportedError:
        return
    with np.errstate(all="ignore"):
        found = plan.run(feed(graph.inputs, Recipe(1)))
    for value, array in zip(graph.outputs, found.values(), strict=True):
        if (np.isfinite(array) & (array < 0)).any():
            raise Violation("magnitude", f"{array.tolist()} is negative", graph)
        _check_shape(graph, value.type, array, {})

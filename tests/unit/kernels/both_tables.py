"""The fast kernels of a target and its definitions, run on one op and held against each other."""

from __future__ import annotations

from typing import Any

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.ascend_table import ascend_table
from amctc.kernels.reference_table import reference_table
from amctc.targets import Profile
from amctc.types import Array, ScalarType, TensorType


def ran(
    kind: Any, x: Array, elem: ScalarType, *constants: Array, profile: Profile, told: list[Any] | None = None
) -> Array:
    """The op on ``x`` and constants, by the kernels of ``profile``; both tables give the same bits and overflows."""
    given = GraphInput("x", TensorType(x.shape, elem))
    value: Value = apply(kind, given, *(const(c) for c in constants))
    return evaluated(Graph((given,), (value,), ("y",)), {"x": x}, profile, told)


def evaluated(graph: Graph, feeds: dict[str, Array], profile: Profile, told: list[Any] | None = None) -> Array:
    """``y`` by the fast kernels and by the definitions, which agree; ``told`` gets what left int32, once."""
    heard: dict[Any, list[Any]] = {ascend_table: [], reference_table: []}
    results = []
    for table, counts in heard.items():
        listener = None if told is None else lambda layer, count, counts=counts: counts.append((layer, count))
        results.append(evaluate(graph, feeds, table(profile, listener))["y"])
    fast, defined = results
    assert (fast.dtype, fast.shape, fast.tobytes()) == (defined.dtype, defined.shape, defined.tobytes())
    assert heard[ascend_table] == heard[reference_table]
    if told is not None:
        told.extend(heard[ascend_table])
    return fast

"""What tests of passes look at: the ops that are left, the contents of constants, results before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amctc.ir import Graph, Value, constant_data
from amctc.types import Array


def left(graph: Graph) -> list[str]:
    """The kinds of the ops that are left beside constants, in order."""
    return [op.kind.op_name for op in graph.ops if op.kind.op_name != "const"]


def read(value: Value | None) -> Array:
    """The contents of a constant."""
    data = constant_data(value)
    assert data is not None
    return data.read()


def close(real: Callable[..., dict[str, Array]], before: Graph, after: Graph, **feeds: Array) -> None:
    """The outputs agree, evaluated in float64, up to the rounding of a few float32 constants of size 1."""
    old, new = real(before, **feeds), real(after, **feeds)
    for name in before.output_names:
        np.testing.assert_allclose(old[name], new[name], rtol=1e-5, atol=1e-5)

"""Refuse to run a graph whose values cannot fit: a few bytes of a file make any number of elements."""

from __future__ import annotations

import math

from amctc.errors import LimitError
from amctc.ir import Constant, Graph, layer_name
from amctc.types import QuantizedType

LARGEST_VALUE = 1 << 31
"""Most bytes that one computed value may take, as far as its sizes are known. Constants are bounded by their files."""


def require_sizes(graph: Graph) -> None:
    """Raise :class:`LimitError` naming the op for a computed value of more than :data:`LARGEST_VALUE` bytes.

    Unknown sizes count as 1.
    """
    for op in graph.ops:
        if isinstance(op.kind, Constant):
            continue
        for result in op.results:
            elem = result.type.elem.storage if isinstance(result.type.elem, QuantizedType) else result.type.elem
            size = math.prod(d for d in result.type.shape or () if isinstance(d, int)) * elem.dtype.itemsize
            if size > LARGEST_VALUE:
                raise LimitError(
                    f"its result {result.type} takes {size} bytes, more than the {LARGEST_VALUE} allowed",
                    where=layer_name(op), remedy="use a smaller batch, or a model with smaller values",
                )  # fmt: skip

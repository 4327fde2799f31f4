"""What a plan does, step by step, and how much memory of this machine it takes."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from amctc.interp import Plan, Step
from amctc.ir import Constant, GraphInput, Value
from amctc.types import Array, ScalarType, TensorType


@dataclass(frozen=True)
class ListedStep:
    """One step: the ``layer``, the op kinds it computes, how, the bytes of its results, and of all values alive then.

    ``None`` stands for what is not known because some size is not.
    """

    layer: str
    ops: str
    kernel: str
    result_bytes: int | None
    alive_bytes: int | None


@dataclass(frozen=True)
class Listing:
    """The steps of a plan; bytes of its constants, and of activations at the fullest step, ``fullest``.

    Kernels' packed weights (float32, so four times the int8 ones, and of Winograd's layers 16 / 9 of that beside) and
    their scratch come on top.
    """

    steps: tuple[ListedStep, ...]
    constant_bytes: int
    peak_bytes: int | None
    fullest: str


def listed(plan: Plan) -> Listing:
    """The listing of a plan; sizes are known where the graph's types have no free dimension."""
    alive: dict[Value, int | None] = {v: _host_bytes(v.type) for v in plan.graph.inputs}
    steps, peak, fullest = [], _total(alive), ""
    for index, step in enumerate(plan.steps):
        made = {r: _host_bytes(r.type, step.stored.get(r)) for r in step.results}
        alive |= made
        now = _total(alive)
        steps.append(ListedStep(step.layer, _kinds(step), _described(step), _total(made), now))
        if peak is not None and (now is None or now > peak):
            peak, fullest = now, step.layer
        alive = {v: size for v, size in alive.items() if v in plan.kept or plan.last_use.get(v, -1) > index}
    return Listing(tuple(steps), plan.constant_bytes, peak, fullest)


def measured_peak(plan: Plan) -> int:
    """Bytes that NumPy allocated at the fullest moment of one run on zeros; the graph's sizes must be known."""
    feeds = {v.name: _zeros(v) for v in plan.graph.inputs if v.default is None}
    plan.run(feeds)  # what is allocated once is not part of it
    tracemalloc.start()
    try:
        plan.run(feeds)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _host_bytes(type_: TensorType, stored: np.dtype[Any] | None = None) -> int | None:
    """Bytes of a value in this machine's memory, ``stored`` so or as its type; 4-bit integers take one each."""
    if type_.shape is None or not isinstance(type_.elem, ScalarType):
        return None
    sizes = [d for d in type_.shape if isinstance(d, int)]
    return math.prod(sizes) * (stored or type_.elem.dtype).itemsize if len(sizes) == len(type_.shape) else None


def _total(sizes: dict[Value, int | None]) -> int | None:
    known = [s for s in sizes.values() if s is not None]
    return sum(known) if len(known) == len(sizes) else None


def _kinds(step: Step) -> str:
    counted = Counter(op.kind.op_name for op in step.ops if not isinstance(op.kind, Constant))
    return ", ".join(f"{n} {name}" if n > 1 else name for name, n in counted.items())


def _described(step: Step) -> str:
    """How the kernel says it computes; kernels that are plain functions say nothing."""
    kernel: object = step.kernel
    return str(kernel) if type(kernel).__str__ is not object.__str__ else ""


def _zeros(value: GraphInput) -> Array:
    return np.zeros([d for d in value.type.dims if isinstance(d, int)], value.type.elem.dtype)

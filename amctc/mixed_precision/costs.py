"""What a choice of precision costs: bytes of constants and estimated time on the target; budgets for either."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from amctc.cost import estimate
from amctc.cycles import value_bytes
from amctc.errors import UnsupportedError, UsageError
from amctc.ir import Graph, Value, constant_data, layer_name
from amctc.mixed_precision.assembly import FLOAT, Assignment
from amctc.mixed_precision.space import Space
from amctc.targets import Profile

Resource = Literal["bytes", "time"]


@dataclass(frozen=True)
class Budget:
    """At most ``amount`` of a resource: bytes or microseconds, or where ``relative`` a share of all in float16."""

    resource: Resource
    amount: float
    relative: bool = False

    @classmethod
    def parse(cls, resource: Resource, text: str) -> Budget:
        """``0.6x``; bytes as ``40000`` or ``40KiB``; time as ``12us`` or ``0.3ms``. :class:`UsageError` for others."""
        units: dict[str, float] = {"x": 1.0}
        if resource == "bytes":
            units |= {"kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3, "kb": 1e3, "mb": 1e6, "gb": 1e9, "b": 1.0,
                      "": 1.0}  # fmt: skip
        else:
            units |= {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}
        number = text.strip().lower().rstrip("abcdefghijklmnopqrstuvwxyzµ")
        unit = text.strip().lower()[len(number) :]
        try:
            amount = float(number) * units[unit]
        except (ValueError, KeyError):
            amount = math.nan
        if not (math.isfinite(amount) and amount > 0):
            example = "0.6x, 40000 or 40KiB" if resource == "bytes" else "0.6x, 12us or 0.3ms"
            raise UsageError(f"--budget-{resource} {text!r} is no budget", remedy=f"write it as {example}")
        return cls(resource, amount, unit == "x")

    def limit(self, float16: Cost) -> float:
        """The bytes or microseconds it stands for; :class:`UnsupportedError` for a time nobody can estimate."""
        return self.amount * float16.of(self.resource) if self.relative else self.amount


@dataclass(frozen=True)
class Cost:
    """Bytes of constants in the target's memory, floats in two each; microseconds for one sample, if estimated."""

    bytes: int
    time_us: float | None

    def of(self, resource: Resource) -> float:
        """The amount of a resource; :class:`UnsupportedError` for a time that is not known."""
        if resource == "bytes":
            return self.bytes
        if self.time_us is None:
            raise UnsupportedError("the time of this model on this target cannot be estimated",
                                   remedy="give a budget of bytes, or choose another target")  # fmt: skip
        return self.time_us


def cost_of(graph: Graph, target: Profile) -> Cost:
    """The cost of a compiled graph."""
    time = estimate(graph, target).total_us if target.has_cost_figures else None
    return Cost(sum(_bytes_by_layer(graph).values()), time)


def layer_costs(space: Space, resource: Resource) -> dict[str, dict[str, float]]:
    """For each layer what each of its candidates costs, where all layers have that candidate.

    Neighbours matter a little: what passes between two integer layers need not leave the accumulator as float16. So
    sums of these numbers are checked against :func:`cost_of`.
    """
    found: dict[str, dict[str, float]] = {layer: {} for layer in space.assembly.layers}
    for candidate in dict.fromkeys(c for own in space.assembly.candidates.values() for c in (FLOAT, *own)):
        shares = _by_layer(space, space.assembly.uniform(candidate), resource)
        for layer, own in space.assembly.candidates.items():
            if candidate in own:
                found[layer][candidate] = shares.get(layer, 0.0)
    return found


def _by_layer(space: Space, assignment: Assignment, resource: Resource) -> dict[str, float]:
    graph = space.compiled(assignment)
    if resource == "bytes":
        return {layer: float(size) for layer, size in _bytes_by_layer(graph).items()}
    cost_of(graph, space.target).of("time")
    return {layer: time or 0.0 for layer, time in estimate(graph, space.target).layers_us.items()}


def _bytes_by_layer(graph: Graph) -> dict[str, int]:
    """Bytes of constants by the layer that reads them first."""
    readers: dict[Value, str] = {}
    for op in graph.ops:
        for value in op.operands:
            if constant_data(value) is not None and value is not None:
                readers.setdefault(value, layer_name(op))
    found = dict.fromkeys(readers.values(), 0)
    for value, layer in readers.items():
        found[layer] += value_bytes(value.type) or 0
    return found

"""What a case is, and how one op is run: through a plan for the target, as every deployed graph is."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from amctc.execution import DEFAULT_EXECUTOR, plan_for
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.ascend_table import OverflowListener
from amctc.schema import OpKind
from amctc.targets import Profile, load_profile, profile_names
from amctc.types import I4, Array, Elem, TensorType, scalar_of

Generator = np.random.Generator


class Comparison(NamedTuple):
    """What was computed and what the rule says; ``what`` describes the case when they differ."""

    actual: Array
    expected: Array
    what: str


@dataclass(frozen=True)
class Row:
    """Cases about one rule. Elements may differ by ``steps``, which is 0 but where a rule says they do."""

    rule: str
    name: str
    draw: Callable[[Generator], Comparison]
    share: float = 1.0
    steps: int = 0


@dataclass
class Tally:
    """What the cases of a row came to; ``wrong`` describes the first element that breaks the rule."""

    row: Row
    cases: int = 0
    elements: int = 0
    different: int = 0
    wrong: str = ""

    def add(self, comparison: Comparison, index: int) -> None:
        """Count one case."""
        actual, expected, what = comparison
        self.cases += 1
        self.elements += expected.size
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            self.different += expected.size
            shapes = f"{actual.dtype}{list(actual.shape)} instead of {expected.dtype}{list(expected.shape)}"
            self.wrong = self.wrong or f"case {index}: {shapes}: {what}"
            return
        apart = _apart(actual, expected)
        self.different += int(np.count_nonzero(apart))
        if (apart > self.row.steps).any():
            at = tuple(np.argwhere(apart > self.row.steps)[0])
            pair = f"element {[*map(int, at)]} is {actual[at]} instead of {expected[at]}"
            self.wrong = self.wrong or f"case {index}: {pair}: {what}"


def _apart(actual: Array, expected: Array) -> Array:
    """The distance of each pair; two NaNs, and two equal infinities, are no distance apart."""
    with np.errstate(invalid="ignore"):
        same = (actual == expected) | ((actual != actual) & (expected != expected))
        distance = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    return np.where(same, 0.0, np.nan_to_num(distance, nan=np.inf))


EXECUTOR = ContextVar("executor", default=DEFAULT_EXECUTOR)
"""What runs the graphs of cases (:data:`amctc.execution.EXECUTORS`)."""


def run_row(row: Row, count: int, seed: int, executor: str = DEFAULT_EXECUTOR) -> Tally:
    """``count`` cases of a row, each drawn by itself from the seed, the row's name and its number."""
    tally = Tally(row)
    EXECUTOR.set(executor)
    with np.errstate(all="ignore"):
        for index in range(max(1, round(count * row.share))):
            rng = np.random.default_rng([seed, zlib.crc32(row.name.encode()), index])
            tally.add(row.draw(rng), index)
    return tally


class Given(NamedTuple):
    """An operand: its contents, whether they are a constant of the op, and the element type if NumPy has none."""

    array: Array
    constant: bool = False
    elem: Elem | None = None


def run_op(
    kind: OpKind, operands: Sequence[Given | None], profile: Profile, on_overflow: OverflowListener | None = None
) -> Array:
    """The result of one op with the kernels of a target."""
    values, inputs, feeds = list[Value | None](), list[GraphInput](), {}
    for index, given in enumerate(operands):
        if given is None:
            values.append(None)
            continue
        elem = scalar_of(given.array.dtype) if given.elem is None else given.elem
        if given.constant:
            values.append(const(given.array, elem))
            continue
        inputs.append(GraphInput(f"x{index}", TensorType(given.array.shape, elem)))
        feeds[f"x{index}"] = given.array
        values.append(inputs[-1])
    graph = Graph(tuple(inputs), (apply(kind, *values),), ("y",))
    return run_graph(graph, feeds, profile, on_overflow)["y"]


def run_graph(
    graph: Graph, feeds: Mapping[str, Array], profile: Profile, on_overflow: OverflowListener | None = None
) -> dict[str, Array]:
    """A lowered graph, run as a session of its target runs it."""
    return plan_for(graph, profile, EXECUTOR.get(), on_overflow=on_overflow).run(feeds)


def any_profile(rng: Generator, *choices: str) -> Profile:
    """A shipped target, each of ``choices`` that it can meet made at random."""
    name = str(rng.choice(profile_names()))
    return _chosen(name, tuple((n, str(rng.choice(values))) for n, values in _choices(name) if n in choices))


def profile_of(name: str) -> Profile:
    """A shipped target with its own choices."""
    return _chosen(name, ())


@functools.cache
def _choices(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((c.name, (c.value, *c.alternatives)) for c in load_profile(name).choices)


@functools.cache
def _chosen(name: str, values: tuple[tuple[str, str], ...]) -> Profile:
    profile = load_profile(name)
    for choice, value in values:
        profile = profile.replace_choice(choice, value)
    return profile


def integers(rng: Generator, shape: Sequence[int], bits: int = 8) -> Array:
    """Stored integers: all values, small ones, or the extremes alone."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    form = rng.integers(4)
    if form == 0:
        return rng.choice(np.array([low, high], np.int8), tuple(shape))
    reach = (low, high) if form < 3 else (max(low, -3), 3)
    return rng.integers(*reach, tuple(shape), np.int8, endpoint=True)


def int4_or_int8(rng: Generator, shape: Sequence[int]) -> Given:
    """A constant weight of either storage type."""
    small = rng.random() < 0.15
    return Given(integers(rng, shape, 4 if small else 8), True, I4 if small else None)


def accumulators(rng: Generator, shape: Sequence[int]) -> Array:
    """int32 values of all sizes, the extremes and zero among them."""
    reach = 1 << int(rng.integers(1, 32))
    values = rng.integers(-reach, reach, tuple(shape)).clip(-(2**31), 2**31 - 1)
    values[rng.random(values.shape) < 0.05] = rng.choice([-(2**31), 2**31 - 1, 0, 1, -1])
    return values.astype(np.int32)


def positive_scales(rng: Generator, count: int, low: float = -40, high: float = 30) -> Array:
    """float32 scales: of any size from 2^``low`` to 2^``high``, some of them powers of two."""
    exponents = rng.uniform(low, high, count)
    if rng.random() < 0.2:
        exponents = np.floor(exponents)
    return np.exp2(exponents).astype(np.float32)

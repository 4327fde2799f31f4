"""Algebraic identities proved on exact rationals: a rewrite run again on tiny shapes, where nothing rounds.

An application of a rewrite whose effect is ``Rounding(algebraic=True)`` is cut out, made small, and given constants
that are powers of two (and variances that are squares, less ε). All that a fold computes from those is exact in
float32, so the rewrite's own code gives the exact constants, and both graphs, evaluated in fractions, must be *equal*:
no tolerance hides a shift that is small, a sign, a factor applied twice. Inputs are a point of small numbers and one of
random integers of 20 bits: an affine identity that holds there holds for every input, but for a chance of 2^-20
(Schwartz 1980).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from zlib import crc32

import numpy as np

from amctc.analysis import EVERYTHING, value_range
from amctc.contract import Rounding
from amctc.errors import AmctcError, UnsupportedError
from amctc.ir import Constant, Graph, GraphInput, Op, Value, build, const
from amctc.magnitude import MagnitudePlan, tolerance
from amctc.matcher import Matcher
from amctc.ops import nn
from amctc.pattern import NoMatch
from amctc.rewrite import Application, Rewrite
from amctc.schema import OpKind
from amctc.testing.cuts import cut_out, widened
from amctc.testing.rationals import evaluate_exactly, exact
from amctc.testing.violations import Evidence, Violation
from amctc.text import print_graph
from amctc.types import Array, TensorType

PRODUCTS = 100_000
"""Multiplications that one proof may take; larger layers are made smaller first."""

SMALL = 8
"""Sizes up to this are kept when a graph is made smaller: kernels, groups, ranks of one."""

EPSILON = Fraction(1, 64)
"""What batch normalisation adds to a variance here; large, so that leaving it out shows."""

ROUNDED = 4.0
"""Units of 2^-23 of the terms: differences below come from constants that were rounded, so nothing is proved or
refuted. An error of algebra is a multiple of the step of numbers that are powers of two, thousands of times that."""

POINT_BITS = 20


def is_algebraic(rule: Rewrite) -> bool:
    """Whether a rule says that it is an identity of real numbers."""
    return isinstance(rule.effect, Rounding) and rule.effect.algebraic


def check_algebra(application: Application) -> str | None:
    """**equal in exact arithmetic**: what an algebraic rewrite replaces, and what it puts there, on a tiny instance.

    Raises :class:`Violation` where they differ; returns why nothing was proved, ``None`` if it was.
    """
    rule, cut = application.rule, cut_out(application)
    ranges = {v.name: value_range(leaf) for v, leaf in zip(cut.before.inputs, cut.leaves, strict=True)}
    seed = crc32(print_graph(cut.before, elide=True).encode())  # the same whenever the application comes again
    rng, reason = np.random.default_rng(seed), "no small shapes fit"
    for instance in _instances(widened(cut.before), rng):
        try:
            replaced = _rewritten(rule, instance)
            for feeds in _points(instance, ranges, rng):
                _compare(rule, instance, replaced, feeds)
        except (NoMatch, UnsupportedError) as error:
            reason = error.what if isinstance(error, UnsupportedError) else str(error)
            continue
        return None
    return reason


# ------------------------------------------------------------------------------------------------------- tiny instances


def _instances(graph: Graph, rng: np.random.Generator) -> Iterator[Graph]:
    """The graph with coarse constants: in its own sizes if they are small enough, else in smaller ones that fit."""
    for sizes in _smaller_sizes(graph):
        if not sizes and any(math.prod(_shape(v.type)) > PRODUCTS for v in graph.values()):
            continue
        try:
            made = _Miniature(sizes, rng).of(graph)
        except AmctcError:
            continue  # these sizes do not go together, or an attribute depends on them
        if _products(made) <= PRODUCTS:
            yield made


def miniature(graph: Graph, sizes: Mapping[int, int] | None = None, seed: int = 0) -> Graph:
    """The graph with sizes mapped and float constants that are powers of two; raises where sizes do not fit."""
    return _Miniature(sizes or {}, np.random.default_rng(seed)).of(graph)


def _smaller_sizes(graph: Graph) -> Iterator[Mapping[int, int]]:
    """Ways to map sizes: none; then large ones to the least numbers above the small ones, or to the least of all."""
    yield {}
    found = {d for v in graph.values() if v.type.shape is not None for d in v.type.shape if isinstance(d, int)}
    group = max((op.kind.group for op in graph.ops if isinstance(op.kind, nn.Conv | nn.ConvTranspose)), default=1)
    large = sorted(d for d in found if d > SMALL)
    if large:
        for start in (max((d for d in found if d <= SMALL), default=1) + 1, 2):
            yield _mapped_sizes(large, group, itertools.count(start))


def _mapped_sizes(large: list[int], group: int, numbers: Iterator[int]) -> Mapping[int, int]:
    """Equal sizes stay equal, different ones different, and multiples of the group as many times another group."""
    sizes = {group: group if group <= SMALL else 2}
    for size in large:
        times = size // group
        if group > 1 and size % group == 0:
            per_group = times if times <= SMALL else sizes.setdefault(times, next(numbers))
            sizes.setdefault(size, per_group * sizes[group])
        else:
            sizes.setdefault(size, next(numbers))
    return sizes


@dataclass
class _Miniature:
    """A copy of a graph in other sizes, with powers of two for its float constants."""

    sizes: Mapping[int, int]
    rng: np.random.Generator

    def of(self, graph: Graph) -> Graph:
        """Types are inferred anew, which raises where the sizes do not go together."""
        inputs = tuple(GraphInput(v.name, self._type(v.type)) for v in graph.inputs)
        values: dict[Value | None, Value | None] = {None: None, **dict(zip(graph.inputs, inputs, strict=True))}
        variances = {op.operands[4] for op in graph.ops if isinstance(op.kind, nn.BatchNorm)}
        for op in graph.ops:
            if isinstance(op.kind, Constant):
                values[op.result] = self._constant(op, variance=op.result in variances)
            else:
                made = build(self._kind(op.kind), *(values[o] for o in op.operands), origins=op.origins)
                values.update(zip(op.results, made.results, strict=True))
        outputs = tuple(v for o in graph.outputs if (v := values[o]) is not None)
        return Graph(inputs, outputs, graph.output_names)

    def _type(self, type_: TensorType) -> TensorType:
        dims = (2 if not isinstance(d, int) else self.sizes.get(d, d) for d in type_.dims)
        return TensorType(tuple(dims), type_.elem)

    def _constant(self, op: Op, *, variance: bool) -> Value:
        type_ = op.result.type
        if not type_.is_float:
            return op.result
        shape = tuple(self.sizes.get(d, d) for d in type_.dims if isinstance(d, int))
        drawn = np.exp2(self.rng.integers(-1, 2, shape)) * self.rng.choice([-1.0, 1.0], shape)
        if variance:
            drawn = self.rng.choice([0.25, 4.0], shape) - float(EPSILON)  # roots of no 1
        return const(np.asarray(drawn, type_.elem.dtype), type_.elem, name=op.result.name)

    def _kind(self, kind: OpKind) -> OpKind:
        if isinstance(kind, nn.BatchNorm):
            return replace(kind, eps=float(EPSILON))
        if isinstance(kind, nn.Gemm):
            return replace(kind, alpha=self._factor(kind.alpha), beta=self._factor(kind.beta))
        if isinstance(kind, nn.Conv | nn.ConvTranspose):
            return replace(kind, group=self.sizes.get(kind.group, kind.group))
        if any(f.name in ("shape", "sizes") for f in fields(kind)) and self.sizes:
            raise UnsupportedError(f"{kind.op_name} names sizes")
        return kind

    def _factor(self, factor: float) -> float:
        """Another power of two; 0 and 1 stay, because rewrites look for them."""
        return factor if factor in (0.0, 1.0) else float(self.rng.choice([-2.0, -0.5, 0.5, 2.0]))


def _shape(type_: TensorType) -> tuple[int, ...]:
    return tuple(d for d in type_.dims if isinstance(d, int))  # all of them are, in a miniature


def _products(graph: Graph) -> int:
    """How many multiplications the layers of a graph take."""
    total = 0
    for op in graph.ops:
        if isinstance(op.kind, nn.Layer):
            weight = op.operands[1]
            assert weight is not None
            channels = weight.type.dims[nn.weight_channel_axis(op.kind, weight.type)]
            terms = math.prod(_shape(weight.type)) // max(1, channels if isinstance(channels, int) else 1)
            total += math.prod(_shape(op.result.type)) * terms
    return total


# ------------------------------------------------------------------------------------------------------------- equality


def _rewritten(rule: Rewrite, instance: Graph) -> Graph:
    """The instance with the rule applied at its root; :class:`NoMatch` where it does not fire."""
    (root,) = instance.outputs
    matcher = Matcher(instance, explain=True)
    match = matcher.match(rule.pattern, root)
    if match is None:
        raise NoMatch(matcher.nearest.reason if matcher.nearest else "the pattern does not match by itself")
    with np.errstate(all="ignore"):
        replacement = rule(match)
    if replacement is root:
        raise NoMatch("nothing changes with other constants")
    return instance.with_outputs((replacement,))


def _points(
    instance: Graph, ranges: Mapping[str, tuple[float, float]], rng: np.random.Generator
) -> Iterator[dict[str, Array]]:
    """Small numbers, for activations to see both sides; then large integers. Within what analysis proves of a leaf."""
    if not all(v.type.is_float for v in instance.inputs):
        raise UnsupportedError("an input holds no floats")
    for reach, scale in ((12, 4.0), (1 << POINT_BITS, 1.0)):
        drawn = {v.name: rng.integers(-reach, reach + 1, _shape(v.type)) / scale for v in instance.inputs}
        for name, (low, high) in ranges.items():
            if (low, high) != EVERYTHING:
                drawn[name] = np.clip(drawn[name], low, high)
        yield {n: a.astype(np.float32) for n, a in drawn.items()}


def _compare(rule: Rewrite, before: Graph, after: Graph, feeds: Mapping[str, Array]) -> None:
    given: dict[Value, Array] = {v: exact(feeds[v.name]) for v in before.inputs}
    (old,), (new,) = evaluate_exactly(before, given), evaluate_exactly(after, given)
    evidence = Evidence(before, after, feeds)
    if old.shape != new.shape:
        finding = f"results had shape {list(old.shape)} and have {list(new.shape)}"
        raise Violation(NAME, finding, before, evidence=evidence)
    if not (old != new).any():
        return
    apart = np.abs((old - new).astype(np.float64))
    index = np.unravel_index(int(np.argmax(apart)), apart.shape)
    if not (apart > tolerance(ROUNDED, _magnitude(before, after, feeds))).any():
        raise UnsupportedError(f"the new constants are rounded: results differ by {float(apart[index]):.2g}")
    count = int((old != new).sum())
    finding = (
        f"on powers of two element {[*map(int, index)]} was {old[index]} and is {new[index]}; {count} of {old.size} "
        f"elements differ, though {rule.name} says that it is an algebraic identity"
    )
    raise Violation(NAME, finding, before, evidence=evidence)


NAME = "equal in exact arithmetic"


def _magnitude(before: Graph, after: Graph, feeds: Mapping[str, Array]) -> Array:
    precise = {n: a.astype(np.float64) for n, a in feeds.items()}
    found = (MagnitudePlan(g).run(precise)[g.output_names[0]] for g in (before, after))
    return np.asarray(np.maximum(*found))

"""A random model for each pair of seed and number: what it was made from, its file, what it is fed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from amctc.errors import AmctcError, UnsupportedError
from amctc.ir import Graph, apply
from amctc.magnitude import MagnitudePlan, tolerance
from amctc.onnx_bridge import export_model, import_model
from amctc.ops import ascend, nn, quant
from amctc.pattern import Either, OpPattern, Pattern
from amctc.pipeline import installed
from amctc.rewrite import Rewrite, RewriteLog, apply_rewrites
from amctc.testing import Recipe, SeededSource, Unfit, draw_instance, random_graph
from amctc.testing.arrays import feed
from amctc.testing.comparisons import WHOLE_GRAPH
from amctc.testing.cuts import widened
from amctc.types import F16, F32, Array, QuantizedType
from tools.random_graphs.forms import Feeds, in_another_form

FIRING_TRIES = 40
"""How often an instance is drawn again whose rewrite must fire: some decline nineteen in twenty."""

TRIES = 50
"""How often a number draws again when what was drawn came to no end; each time from another seed."""

LARGEST_HALF = float(np.finfo(np.float16).max)

RECIPES = (Recipe(1), Recipe(2, 10.0), Recipe(3, special="edges"), Recipe(4, special="integers"), Recipe(5, 0.1))


@dataclass(frozen=True)
class Case:
    """A model, the graph whose export it is a form of, what it is fed, and where further choices come from.

    ``rule`` is the rewrite whose pattern the graph was drawn from. ``as_drawn`` says that the graph itself is compiled,
    not what is imported of the file: no file says that a layer has a fused activation.
    """

    name: str
    graph: Graph
    model: onnx.ModelProto
    feeds: Feeds
    source: SeededSource
    rule: Rewrite | None = None
    as_drawn: bool = False

    @functools.cached_property
    def imported(self) -> Graph:
        """The graph that passes start from."""
        return self.imported_anew()

    def imported_anew(self) -> Graph:
        """The same, read from the file once more."""
        return self.graph if self.as_drawn else import_model(self.model)

    @property
    def is_half(self) -> bool:
        """Whether there is float16: runtimes round to it after every node or after several."""
        return any(v.type.elem == F16 for v in self.graph.values())

    def magnitudes(self, feeds: Feeds) -> dict[str, Array] | None:
        """Per output how large the terms were that it is made of.

        Those of the model where every node is modelled, else those of the graph it was made from. ``None`` where a
        quantizer makes results jump, and where float16 overflows: a runtime may compute in float32 between its nodes.
        """
        for graph in (self.imported, self.graph):
            wide = widened(graph)
            inner = [v for v in wide.values() if v.producer is not None]
            try:
                plan = MagnitudePlan(wide, keep=inner)
            except UnsupportedError:
                continue
            known = {i.name for i in graph.inputs}
            precise = {n: _precise(a) for n, a in feeds.items() if n in known}
            with np.errstate(all="ignore"):
                values = plan.run_values(precise)
            if wide is not graph and any(values[v].max(initial=0.0) > LARGEST_HALF for v in inner):
                return None
            return {n: values[v] for n, v in zip(wide.output_names, wide.outputs, strict=True)}
        return None

    def allowed(self, magnitudes: Mapping[str, Array], units: float) -> dict[str, Array]:
        """Per output how far results may lie apart, when rewrites may move them by ``units`` in all.

        Both sides round after every op, which counts as a rewrite of two units; float16 has 13 fewer bits than float32.
        """
        units = (units + 2 * len(self.graph.ops)) * WHOLE_GRAPH * (2.0**13 if self.is_half else 1.0)
        return {name: tolerance(units, size) for name, size in magnitudes.items()}


def _precise(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def drawn_case(seed: int, number: int) -> Case:
    """The case of a number: the same one on every machine."""
    for attempt in range(TRIES):
        source = SeededSource(((seed << 32) + number) * TRIES + attempt)
        try:
            graph, rule = _graph(source)
        except (Unfit, AmctcError):
            continue  # a sampler came to no end
        if _is_unloadable(graph) and source.flip(0.9):
            continue
        model = export_model(graph)
        as_drawn = rule is not None and _is_fused(graph) and source.flip(0.7)
        more = {} if as_drawn else in_another_form(source, model)
        recipe = source.choice(RECIPES)
        feeds = feed(graph.inputs, Recipe(number, recipe.scale, recipe.special), {"N": source.integer(1, 3)})
        for given in graph.inputs:
            if given.default is not None and source.flip():
                del feeds[given.name]
        feeds = {n: np.asarray(a) for n, a in (feeds | more).items()}
        return Case(f"--seed {seed} --only {number}", graph, model, feeds, source, rule, as_drawn)
    raise AssertionError(f"number {number} of seed {seed} draws no graph in {TRIES} tries")


def _graph(source: SeededSource) -> tuple[Graph, Rewrite | None]:
    """A random graph, or as often one drawn from the pattern of a rewrite; that one fires in every other at least."""
    elems = (F16,) if source.flip(0.1) else (F32,)
    if source.flip():
        return _readable(random_graph(source, max_ops=10, elems=elems)), None
    rule, must_fire = source.choice(float_rewrites()), source.flip()
    for _ in range(FIRING_TRIES if must_fire else 1):
        graph, log = draw_instance(source, rule.pattern, elems=elems).graph, RewriteLog()
        if must_fire:
            apply_rewrites(graph, (rule,), log)
        if log.applications and not _is_unloadable(graph):
            break
    return _readable(graph), rule


def _is_fused(graph: Graph) -> bool:
    return any(getattr(op.kind, "activation", None) is not None for op in graph.ops)


def _is_unloadable(graph: Graph) -> bool:
    """Whether ONNX Runtime refuses what the standard allows: such a model is compiled, but nobody runs it.

    Pads as large as the kernel of a pool, an output padding as large as the stride, pads of a scalar.
    """
    for op in graph.ops:
        kind = op.kind
        if isinstance(kind, nn.MaxPool | nn.AveragePool) and any(
            p >= k for p, k in zip(kind.pads, kind.kernel * 2, strict=True)
        ):
            return True
        if isinstance(kind, nn.ConvTranspose) and any(
            p >= s for p, s in zip(kind.output_padding, kind.strides, strict=False)
        ):
            return True
        if isinstance(kind, nn.Pad) and not kind.pads:
            return True
    return False


def _readable(graph: Graph) -> Graph:
    """The graph, its outputs of 4 bits dequantized: ONNX Runtime computes them, but NumPy has no type for them."""
    return graph.with_outputs(tuple(
        apply(quant.Dequantize(), v) if isinstance(v.type.elem, QuantizedType) and v.type.elem.storage.bits == 4 else v
        for v in graph.outputs
    ))  # fmt: skip


@functools.cache
def float_rewrites() -> Sequence[Rewrite]:
    """The installed rewrites of graphs that ONNX Runtime can run, by name: those of the target's ops it cannot."""
    rules: list[Rewrite] = [entry.load() for _, entry in sorted(installed("amctc.rewrites").items())]
    return [rule for rule in rules if not _names_target_op(rule.pattern)]


def _names_target_op(pattern: Pattern[object]) -> bool:
    if isinstance(pattern, OpPattern):
        if any(issubclass(kind, ascend.KINDS) for kind in pattern.kinds):
            return True
        return any(map(_names_target_op, pattern.operands or ()))
    return isinstance(pattern, Either) and any(map(_names_target_op, pattern.choices))

"""Results before and after: the same as far as an effect says, at one application and at a graph's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from amctc.contract import Effect, Exact, Lossy, Rounding
from amctc.errors import UnsupportedError
from amctc.interp import KernelTable, Plan
from amctc.ir import Constant, Graph, Value
from amctc.magnitude import MagnitudePlan, tolerance
from amctc.rewrite import Application
from amctc.testing.arrays import Recipe, feed
from amctc.testing.cuts import EXACT_INPUTS, ROUNDING_INPUTS, Cut, cut_out, leaf_arrays, widened
from amctc.testing.violations import Evidence, Violation
from amctc.types import F16, Array

WHOLE_GRAPH = 64.0
"""Slack for whole graphs: an op after the instance multiplies the error at the cut by what its magnitude says, and the
magnitude itself is a bound to first order."""


class Setting(NamedTuple):
    """What a comparison is about: the property, the effect that is allowed, both graphs and the arrays they are fed."""

    name: str
    effect: Effect
    evidence: Evidence


class Tables(NamedTuple):
    """Kernels to evaluate with, and how each op carries error."""

    kernels: KernelTable
    magnitude: KernelTable


def check_application(
    graph: Graph, application: Application, tables: Tables, actual: Mapping[Value, Array] | None = None
) -> str | None:
    """**same results**: at the cut of one application, results move no further than the rule's effect allows.

    ``Exact``: the same elements in the graph's own precision, NaN where there was NaN; the sign of a zero is free,
    because ONNX leaves it open for max and min. ``Rounding``: within its units of the magnitude, both sides in float64.
    ``Lossy`` on a quantized result: within the bound in steps. ``actual`` holds what the graph computes at the cut's
    leaves, if that is known. Returns why nothing was compared, ``None`` if it was.
    """
    effect = application.rule.effect
    cut = cut_out(application)
    quantized = not cut.before.outputs[0].type.is_float
    lossy = isinstance(effect, Lossy) and quantized
    if not isinstance(effect, Exact | Rounding) and not lossy:
        return f"effect: {effect}"
    leaves = leaf_arrays(graph, cut.leaves, tables.kernels) if actual is None else actual
    if isinstance(effect, Rounding) and not quantized:
        try:
            _compare_rounding(graph, cut, effect, tables, leaves)
            return None
        except UnsupportedError as error:
            return error.what
    steps = effect.bound if isinstance(effect, Lossy) else 0.0
    before, after = Plan(cut.before, tables.kernels), Plan(cut.after, tables.kernels)
    for feeds in cut.feeds(leaves, EXACT_INPUTS):
        with np.errstate(all="ignore"):
            old, new = before.run(feeds)["y0"], after.run(feeds)["y0"]
        setting = Setting("same results", effect, Evidence(cut.before, cut.after, feeds))
        _compare(graph, setting, old, new, np.asarray(steps), exact=True)
    return None


def _compare_rounding(graph: Graph, cut: Cut, effect: Rounding, tables: Tables, leaves: Mapping[Value, Array]) -> None:
    scale = 2.0**13 if cut.before.outputs[0].type.elem == F16 else 1.0  # float16 has 13 fewer bits than float32
    wide = [widened(cut.before), widened(cut.after)]
    magnitudes = [MagnitudePlan(g, tables.magnitude, kernels=tables.kernels) for g in wide]
    values = [Plan(g, tables.kernels, float_type=np.float64) for g in wide]
    for feeds in cut.feeds(leaves, ROUNDING_INPUTS):
        with np.errstate(all="ignore"):
            precise = _precise(feeds)
            old, new = (plan.run(precise)["y0"] for plan in values)
            magnitude = np.fmax(*np.broadcast_arrays(*(plan.run(precise)["y0"] for plan in magnitudes)))
            allowed = tolerance(effect.units * scale, magnitude)
        setting = Setting("same results", effect, Evidence(cut.before, cut.after, feeds))
        _compare(graph, setting, old, new, allowed)


def _precise(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feeds.items()}


def _compare(graph: Graph, setting: Setting, old: Array, new: Array, allowed: Array, *, exact: bool = False) -> None:
    name, effect, evidence = setting
    if old.shape != new.shape:
        finding = f"results had shape {list(old.shape)} and have {list(new.shape)}"
        raise Violation(name, finding, graph, evidence=evidence)
    with np.errstate(all="ignore"):
        difference = np.abs(old.astype(np.float64) - new.astype(np.float64))
        close = (old == new) | (difference <= allowed)
    if exact:
        wrong = ~(close | (np.isnan(old) & np.isnan(new)))
    else:
        wrong = np.isfinite(old) & ~(close & np.isfinite(new)) & ~np.isnan(allowed)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        limit = np.broadcast_to(allowed, old.shape)[index]
        finding = (
            f"element {list(index)} was {old[index].item()!r} and is {new[index].item()!r}: they differ by "
            f"{difference[index]:.3g}, allowed is {limit:.3g} ({effect}); {int(wrong.sum())} of {wrong.size} elements "
            f"are wrong with {_shown(evidence.feeds)}"
        )
        raise Violation(name, finding, graph, evidence=evidence)


def _shown(feeds: Mapping[str, Array]) -> str:
    parts = (f"{n} = {a.tolist() if a.size <= 8 else f'{a.ravel()[:8].tolist()}…'}" for n, a in feeds.items())
    return ", ".join(parts) or "no inputs"


def check_kernels(graph: Graph, result: Graph, effect: Effect, tables: Tables) -> None:
    """**evaluates**: every op kind has a kernel, and a magnitude if the effect is a rounding.

    Else results would pass without being compared.
    """
    needed = [(tables.kernels, "kernels"), *([(tables.magnitude, "magnitude")] if isinstance(effect, Rounding) else [])]
    for op in (*graph.ops, *result.ops):
        for table, what in needed:
            if not isinstance(op.kind, Constant) and type(op.kind) not in table:
                finding = f"no entry for {op.kind.op_name} in {what}: pass check_rewrite a table that has one, {what}="
                raise Violation("evaluates", finding, graph)


def check_outputs(
    graph: Graph, result: Graph, effects: Sequence[Effect], tables: Tables, feeds: Mapping[str, Array] | None = None
) -> str | None:
    """**same outputs**: whole graphs agree loosely too, so that values ended up where they belong.

    ``Exact`` applications leave the same elements. With ``Rounding`` ones, only where every op carries error
    continuously; returns why nothing was compared otherwise. ``feeds`` is one batch, drawn unless it is given.
    """
    feeds = feed(graph.inputs, Recipe(11)) if feeds is None else feeds
    if not all(isinstance(e, Exact | Rounding) for e in effects):
        return "effect is not a rounding"
    evidence = Evidence(graph, result, feeds)
    if all(isinstance(e, Exact) for e in effects):
        with np.errstate(all="ignore"):
            first, second = (Plan(g, tables.kernels).run(feeds) for g in (graph, result))
        for name in graph.output_names:
            setting = Setting("same outputs", Exact(), evidence)
            _compare(graph, setting, first[name], second[name], np.zeros(()), exact=True)
        return None
    units = sum(e.units if isinstance(e, Rounding) else 1.0 for e in effects)
    half = any(v.type.elem == F16 for v in (*graph.values(), *result.values()))
    wide = [widened(graph), widened(result)]
    try:
        magnitudes = [MagnitudePlan(g, tables.magnitude, kernels=tables.kernels) for g in wide]
        values = [Plan(g, tables.kernels, float_type=np.float64) for g in wide]
    except UnsupportedError as error:
        return error.what
    with np.errstate(all="ignore"):
        old, new = (p.run(_precise(feeds)) for p in values)
        sizes = [p.run(_precise(feeds)) for p in magnitudes]
    for name in graph.output_names:
        allowed = tolerance(units * WHOLE_GRAPH * (2.0**13 if half else 1.0), np.fmax(sizes[0][name], sizes[1][name]))
        _compare(graph, Setting("same outputs", Rounding(units), evidence), old[name], new[name], allowed)
    return None

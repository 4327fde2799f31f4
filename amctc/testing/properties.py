"""What must hold of every rewrite: each property a function of its own that raises :class:`Violation`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from amctc.contract import Effect, Exact, Lossy, Rounding
from amctc.errors import AmctcError, LimitError, UnsupportedError
from amctc.interp import KernelTable, Plan
from amctc.ir import Constant, Graph
from amctc.magnitude import EPSILON, tolerance
from amctc.parser import parse_graph
from amctc.rewrite import Application, Rewrite, RewriteLog, apply_rewrites
from amctc.schema import Trait
from amctc.testing.arrays import Recipe, feed
from amctc.testing.cuts import EXACT_INPUTS, ROUNDING_INPUTS, Cut, cut_out, ops_of, widened
from amctc.testing.violations import Violation
from amctc.text import print_graph
from amctc.types import F16, Array, TensorType, shapes_agree

LIMIT = (24, 6)
"""Applications allowed: a constant and so many per op. Far fewer than the engine's own bound, to fail fast."""

WHOLE_GRAPH = 64.0
"""Slack for whole graphs: an op after the instance multiplies the error at the cut by what its magnitude says, and the
magnitude itself is a bound to first order."""


class Setting(NamedTuple):
    """What a comparison is about: the property, the effect that is allowed, the arrays fed."""

    name: str
    effect: Effect
    feeds: dict[str, Array]


class Tables(NamedTuple):
    """Kernels to evaluate with, and how each op carries error."""

    kernels: KernelTable
    magnitude: KernelTable


def rewritten(rule: Rewrite, graph: Graph, log: RewriteLog) -> Graph:
    """**terminates**, **runs**: the engine comes to an end and the rule raises nothing but ``NoMatch``."""
    try:
        return apply_rewrites(graph, [rule], log, limit=LIMIT[0] + LIMIT[1] * len(graph.ops))
    except LimitError as error:
        raise Violation("terminates", f"{error.what}: the rule matches its own result", graph) from error
    except AmctcError as error:
        raise Violation("builds well-typed ops", str(error), graph) from error
    except Exception as error:
        finding = f"the rule raised {type(error).__name__}: {error}; a rule declines with NoMatch"
        raise Violation("runs", finding, graph) from error


def check_arguments_unchanged(graph: Graph, text: str) -> None:
    """**arguments unchanged**: the graph that was rewritten still prints as before."""
    if print_graph(graph) != text:
        raise Violation("arguments unchanged", f"the rule changed the graph it was given; it was\n{text}", graph)


def check_interface(graph: Graph, result: Graph) -> None:
    """**interface kept**: the same inputs and output names, output types that agree."""
    if result.inputs != graph.inputs or result.output_names != graph.output_names:
        raise Violation("interface kept", "inputs or output names changed", graph)
    for name, old, new in zip(graph.output_names, graph.outputs, result.outputs, strict=True):
        if old.type.elem != new.type.elem or not shapes_agree(old.type.shape, new.type.shape):
            raise Violation("interface kept", f"output {name} was {old.type} and is {new.type}", graph)


def check_types(graph: Graph, result: Graph) -> None:
    """**types hold**: every op's stored types are what inference gives, and the verifier agrees."""
    for op in result.ops:
        stored = tuple(r.type for r in op.results)
        try:
            inferred: tuple[TensorType, ...] = op.kind.infer(*(None if o is None else o.type for o in op.operands))
        except AmctcError as error:
            raise Violation("types hold", f"{op} does not infer: {error}", graph) from error
        if stored != inferred:
            raise Violation("types hold", f"{op} is stored as {stored} and infers {inferred}", graph)
    if importlib.util.find_spec("amctc.verify") is not None:
        try:
            importlib.import_module("amctc.verify").verify(result)
        except AmctcError as error:
            raise Violation("types hold", f"the verifier says: {error}", graph) from error


def check_duplicates(graph: Graph, result: Graph, application: Application) -> None:
    """**no layer twice**: a matched layer that others still read is not computed a second time in the replacement."""
    kept = [o for o in application.match.ops if Trait.LINEAR_LAYER in o.kind.traits and o in set(result.ops)]
    known = set(graph.ops)
    made = [o for o in ops_of(application.replacement) if Trait.LINEAR_LAYER in o.kind.traits and o not in known]
    if kept and made:
        finding = f"{kept[0]} is still read by others and {made[0]} computes it again: give its pattern uses=1"
        raise Violation("no layer twice", finding, graph)


def check_fixpoint(rule: Rewrite, graph: Graph, result: Graph) -> None:
    """**idempotent**: applying the rule to its result gives that very object."""
    if rewritten(rule, result, RewriteLog()) is not result:
        raise Violation("idempotent", "applied to its own result the rule fires again", graph)


def check_deterministic(rule: Rewrite, graph: Graph, result: Graph) -> None:
    """**deterministic**: a second run from the same graph prints the same text."""
    again = print_graph(rewritten(rule, graph, RewriteLog()))
    if again != print_graph(result):
        raise Violation("deterministic", f"two runs differ; the second gave\n{again}", graph)


def check_round_trip(graph: Graph, result: Graph) -> None:
    """**prints and parses**: the text of the result reads back to a graph of the same text."""
    text = print_graph(result)
    try:
        back = print_graph(parse_graph(text))
    except AmctcError as error:
        raise Violation("prints and parses", f"the result does not parse: {error}", graph) from error
    if back != text:
        raise Violation("prints and parses", f"the result prints as\n{text}and reads back as\n{back}", graph)


def check_application(graph: Graph, application: Application, tables: Tables) -> str | None:
    """**same results**: at the cut of one application, results move no further than the rule's effect allows.

    ``Exact``: the same elements in the graph's own precision, NaN where there was NaN; the sign of a zero is free,
    because ONNX leaves it open for max and min. ``Rounding``: within its units of the magnitude, both sides in float64.
    ``Lossy`` on a quantized result: within the bound in steps. Returns why nothing was compared, ``None`` if it was.
    """
    effect = application.rule.effect
    cut = cut_out(application)
    quantized = not cut.before.outputs[0].type.is_float
    if isinstance(effect, Rounding) and not quantized:
        try:
            _compare_rounding(graph, cut, effect, tables)
            return None
        except UnsupportedError as error:
            return error.what
    if not isinstance(effect, Exact | Rounding) and not (isinstance(effect, Lossy) and quantized):
        return f"effect: {effect}"
    steps = effect.bound if isinstance(effect, Lossy) else 0.0
    before, after = Plan(cut.before, tables.kernels), Plan(cut.after, tables.kernels)
    for feeds in cut.feeds(graph, tables.kernels, EXACT_INPUTS):
        with np.errstate(all="ignore"):
            old, new = before.run(feeds)["y0"], after.run(feeds)["y0"]
        _compare(graph, Setting("same results", effect, feeds), old, new, np.asarray(steps), exact=True)
    return None


def _compare_rounding(graph: Graph, cut: Cut, effect: Rounding, tables: Tables) -> None:
    scale = 2.0**13 if cut.before.outputs[0].type.elem == F16 else 1.0  # float16 has 13 fewer bits than float32
    wide = [widened(cut.before), widened(cut.after)]
    magnitudes = [Plan(g, tables.magnitude, float_type=np.float64) for g in wide]
    values = [Plan(g, tables.kernels, float_type=np.float64) for g in wide]
    for feeds in cut.feeds(graph, tables.kernels, ROUNDING_INPUTS):
        with np.errstate(all="ignore"):
            precise = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feeds.items()}
            old, new = (plan.run(precise)["y0"] for plan in values)
            magnitude = np.fmax(*np.broadcast_arrays(*(plan.run(precise)["y0"] for plan in magnitudes)))
            allowed = tolerance(effect.units * scale, magnitude)
        _compare(graph, Setting("same results", effect, feeds), old, new, allowed)


def _compare(graph: Graph, setting: Setting, old: Array, new: Array, allowed: Array, *, exact: bool = False) -> None:
    name, effect, feeds = setting
    if old.shape != new.shape:
        raise Violation(name, f"results had shape {list(old.shape)} and have {list(new.shape)}", graph)
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
            f"are wrong with {_shown(feeds)}"
        )
        raise Violation(name, finding, graph)


def _shown(feeds: dict[str, Array]) -> str:
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


def check_outputs(graph: Graph, result: Graph, effects: Sequence[Effect], tables: Tables) -> str | None:
    """**same outputs**: whole graphs agree loosely too, so that values ended up where they belong.

    ``Exact`` applications leave the same elements. With ``Rounding`` ones, only where every op carries error
    continuously; returns why nothing was compared otherwise.
    """
    if all(isinstance(e, Exact) for e in effects):
        native = feed(graph.inputs, Recipe(11))
        with np.errstate(all="ignore"):
            first, second = (Plan(g, tables.kernels).run(native) for g in (graph, result))
        for name in graph.output_names:
            setting = Setting("same outputs", effects[0], native)
            _compare(graph, setting, first[name], second[name], np.zeros(()), exact=True)
        return None
    if not all(isinstance(e, Exact | Rounding) for e in effects):
        return "effect is not a rounding"
    units = sum(e.units if isinstance(e, Rounding) else 1.0 for e in effects) * WHOLE_GRAPH
    half = any(v.type.elem == F16 for v in (*graph.values(), *result.values()))
    wide = [widened(graph), widened(result)]
    feeds = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feed(graph.inputs, Recipe(11)).items()}
    try:
        values = [Plan(g, tables.kernels, float_type=np.float64) for g in wide]
        magnitudes = [Plan(g, tables.magnitude, float_type=np.float64) for g in wide]
    except UnsupportedError as error:
        return error.what
    with np.errstate(all="ignore"):
        old, new = (p.run(feeds) for p in values)
        sizes = [p.run(feeds) for p in magnitudes]
    for name in graph.output_names:
        allowed = units * EPSILON * (2.0**13 if half else 1.0) * np.fmax(sizes[0][name], sizes[1][name])
        setting = Setting("same outputs", effects[0], feeds)
        _compare(graph, setting, old[name], new[name], np.asarray(allowed))
    return None

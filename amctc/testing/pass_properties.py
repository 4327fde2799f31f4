"""What must hold of every run of a pass: each property a function of its own that raises :class:`Violation`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from amctc.contract import Changes, Effect, Exact, Lossy, Rounding
from amctc.errors import AmctcError, InputError, TypeConstraintError, UnsupportedError, UsageError, VerificationError
from amctc.interp import Plan
from amctc.ir import Graph, Op, Value, constant_data
from amctc.kernels.ascend_table import ascend_table
from amctc.kernels.tables import ORACLE
from amctc.magnitude import MAGNITUDE
from amctc.onnx_bridge.runtime import CARRIED
from amctc.ops import ascend
from amctc.pipeline import Batch, Context, Pass, Pipeline
from amctc.rewrite import Application
from amctc.targets import Profile
from amctc.testing import properties
from amctc.testing.arrays import Recipe, feed
from amctc.testing.comparisons import Tables, check_application, check_outputs
from amctc.testing.cuts import EXACT_INPUTS, cut_out, leaf_arrays
from amctc.testing.narrowing import narrowed
from amctc.testing.violations import Violation
from amctc.text import print_graph
from amctc.types import F16, Array
from amctc.verify import verify

REFUSALS = (InputError, UnsupportedError, UsageError)
"""Errors by which a pass may decline a graph that meets its requirements: NaN in calibration, what no target does."""

GROWTH = (1.01, 64 << 10)
"""Bytes of constants a pass may leave: so many times those before, and so many more. A folding bomb breaks it."""


class Step(NamedTuple):
    """One run of a pass: what went in, what came out, the rewrites applied, the target compiled for."""

    item: Pass
    before: Graph
    after: Graph
    applications: tuple[Application, ...]
    target: Profile


def run_step(item: Pass, graph: Graph, samples: Sequence[Batch]) -> Step:
    """**runs**, **keeps its contract**: nothing is raised but refusals, which pass through; facts hold as promised."""
    context = Context(samples=samples)
    try:
        result = Pipeline((item,)).run(graph, context).graph
    except (TypeConstraintError, VerificationError) as error:
        raise Violation("builds well-typed ops", str(error), graph) from error
    except REFUSALS:
        raise
    except AmctcError as error:
        raise Violation("keeps its contract", str(error), graph) from error
    except Exception as error:
        raise Violation("runs", f"the pass raised {type(error).__name__}: {error}", graph) from error
    return Step(item, graph, result, tuple(context.log.applications), context.target)


def check_structure(step: Step, samples: Sequence[Batch]) -> None:
    """All properties that need no arithmetic: one more run for each that compares two."""
    item, graph, result = step.item, step.before, step.after
    text = print_graph(result)
    try:
        verify(result, deep=True)
    except AmctcError as error:
        raise Violation("verifies", str(error), graph) from error
    properties.check_round_trip(graph, result)
    check_interface(item, graph, result)
    check_size(graph, result)
    if print_graph(run_step(item, graph, samples).after) != text:
        raise Violation("deterministic", "two runs differ", graph)
    if item.contract.idempotent and print_graph(run_step(item, result, samples).after) != text:
        raise Violation("idempotent", f"a second run changes the result, which is\n{text}", graph)
    if text == print_graph(graph) and result is not graph:
        raise Violation("same object", "nothing changed, yet the graph is another object", graph)
    check_names_are_hints(step, samples)
    check_order_is_free(step, samples)


def check_interface(item: Pass, graph: Graph, result: Graph) -> None:
    """**interface kept**: inputs, output names and their types, and the model's metadata."""
    frozen = {i for i in graph.inputs if i.default is not None and i not in result.inputs}
    properties.check_interface(graph, result, frozen if item.contract.freezes_defaults else frozenset())
    if result.metadata != graph.metadata:
        raise Violation("interface kept", f"metadata was {graph.metadata} and is {result.metadata}", graph)


def check_size(graph: Graph, result: Graph) -> None:
    """**size bound**: constants grow by no more than :data:`GROWTH`, ops by no more than the engine's own bound."""
    before, after = (sum(d.nbytes for d in constants(g)) for g in (graph, result))
    if after > GROWTH[0] * before + GROWTH[1]:
        raise Violation("size bound", f"constants took {before} bytes and take {after}", graph)
    fixed, per_op = properties.LIMIT
    if len(result.ops) > fixed + per_op * len(graph.ops):
        raise Violation("size bound", f"there were {len(graph.ops)} ops and are {len(result.ops)}", graph)


def constants(graph: Graph) -> Iterator[Array]:
    """The contents of all constants."""
    found = (constant_data(op.results[0]) for op in graph.ops)
    return (data.read() for data in found if data is not None)


def check_names_are_hints(step: Step, samples: Sequence[Batch]) -> None:
    """**names are hints**: other names of the values inside change nothing but names."""
    other = run_step(step.item, with_names(step.before, lambda i: f"value.{997 - i}"), samples).after
    if (again := _nameless(other)) != _nameless(step.after):
        raise Violation("names are hints", f"with other names of values the result is\n{again}", step.before)


def check_order_is_free(step: Step, samples: Sequence[Batch]) -> None:
    """**order is free**: independent ops may come in another order, as they do when outputs are listed in reverse."""
    if len(step.before.outputs) < 2:
        return
    other = reversed_outputs(run_step(step.item, reversed_outputs(step.before), samples).after)
    if (again := _nameless(other)) != _nameless(step.after):
        raise Violation("order is free", f"with the outputs in reverse the result is\n{again}", step.before)


def reversed_outputs(graph: Graph) -> Graph:
    """The graph with its outputs in reverse, which turns the order of its ops around."""
    return graph.with_outputs(graph.outputs[::-1], graph.output_names[::-1])


def with_names(graph: Graph, name: Callable[[int], str | None], *, origins: bool = True) -> Graph:
    """The graph with each result called ``name`` of its number, and without ``origins`` if told so."""
    values: dict[Value | None, Value | None] = {None: None, **{i: i for i in graph.inputs}}
    for op in graph.ops:
        names = tuple(name(len(values) + i) for i in range(len(op.results)))
        operands, result_types = tuple(values[o] for o in op.operands), tuple(r.type for r in op.results)
        made = Op(op.kind, operands, result_types, names, op.origins if origins else ())
        values.update(zip(op.results, made.results, strict=True))
    return graph.with_outputs(tuple(v for o in graph.outputs if (v := values[o]) is not None))


def _nameless(graph: Graph) -> str:
    """What is computed: of two equal ops either may be the one that is kept."""
    return print_graph(with_names(graph, lambda index: None, origins=False))


# ------------------------------------------------------------------------------------------------------------ results


def tables_for(step: Step) -> Tables:
    """The kernels that graphs of this stage are evaluated with: those of the target once anything is lowered."""
    lowered = any(isinstance(op.kind, ascend.KINDS) for g in (step.before, step.after) for op in g.ops)
    return Tables({**(ascend_table(step.target) if lowered else ORACLE), **CARRIED}, MAGNITUDE)


def check_effect(step: Step, feeds: Batch | None = None) -> Iterator[str | None]:
    """**same results** as far as the contract says; yields for every comparison why it was not made, or ``None``.

    Each rewrite application is compared at its own cut. Outputs are compared where the effect is exact (on edge values
    and NaN as well) or a rounding; where it changes results, they keep their types and stay finite. One batch of
    ``feeds`` is what the graph is run on, drawn unless it is given.
    """
    effect, tables = step.item.contract.effect, tables_for(step)
    for application in step.applications:
        check_within(step, application)
    yield from check_applications(step, tables, feeds)
    if isinstance(effect, Changes):
        yield _check_finite(step, tables, feeds)
    else:
        yield from check_results(step, tables, feeds)


def check_results(step: Step, tables: Tables, feeds: Batch | None = None) -> Iterator[str | None]:
    """**same outputs** as far as an exact or rounding pass says; yields as :func:`check_effect`."""
    if step.after is step.before:
        return
    effect = step.item.contract.effect
    given = [feeds] if feeds is not None else [feed(step.after.inputs, r) for r in inputs_for(effect)]
    count = 1 if isinstance(effect, Exact) else len(step.applications) or len(step.before.ops)
    for batch in given:
        try:
            yield check_outputs(step.before, step.after, [effect] * count, tables, batch)
        except Violation as violation:
            violation.evidence = narrowed(violation.evidence, effect, tables)
            raise


def inputs_for(effect: Effect) -> tuple[Recipe, ...]:
    """How whole graphs are fed: edge values as well where not a bit may change."""
    return (Recipe(11), *EXACT_INPUTS[1:]) if isinstance(effect, Exact) else (Recipe(11),)


def check_within(step: Step, application: Application) -> None:
    """**effect covers its rewrites**: what a pass applies moves results no further than its contract says."""
    order = (Exact, Rounding, Lossy, Changes)
    own, rule = step.item.contract.effect, application.rule.effect
    if order.index(type(rule)) > order.index(type(own)):
        finding = f"the contract says {own}, and rewrite {application.rule.name} says {rule}"
        raise Violation("effect covers its rewrites", finding, step.before)


def check_applications(step: Step, tables: Tables, feeds: Batch | None = None) -> Iterator[str | None]:
    """**same results** at the cut of every application; the graph is run once to get values at all leaves."""
    leaves = tuple(dict.fromkeys(v for a in step.applications for v in cut_out(a).leaves))
    if not step.applications:
        return
    actual = leaf_arrays(step.before, leaves, tables.kernels, feeds)
    for application in step.applications:
        try:
            yield check_application(step.before, application, tables, actual)
        except Violation as violation:
            raise violation.at(application) from violation.__cause__
        except (AmctcError, IndexError, ValueError) as error:  # drawn indices may lie outside, drawn values unfit
            yield f"{application.rule.name}: {error.what if isinstance(error, AmctcError) else error}"


def _check_finite(step: Step, tables: Tables, feeds: Batch | None) -> str | None:
    """**stays finite**: where the graph computed numbers, it still computes numbers of the same type."""
    before, after = ({v.type.elem for v in g.values()} for g in (step.before, step.after))
    if F16 in after and F16 not in before:
        return "float16 has a smaller range than float32"
    batch = feed(step.after.inputs, Recipe(11)) if feeds is None else feeds
    with np.errstate(all="ignore"):
        old, new = (Plan(g, tables.kernels).run(batch) for g in (step.before, step.after))
    for name in step.before.output_names:
        if old[name].dtype != new[name].dtype or old[name].shape != new[name].shape:
            finding = (
                f"output {name} was {old[name].dtype}{list(old[name].shape)}, is {new[name].dtype}{new[name].shape}"
            )
            raise Violation("stays finite", finding, step.before)
        if old[name].dtype.kind == "f" and np.isfinite(old[name]).all() and not np.isfinite(new[name]).all():
            raise Violation("stays finite", f"output {name} was finite and is not", step.before)
    return None

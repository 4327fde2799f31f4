"""What must hold of every rewrite beside its results: each property a function that raises :class:`Violation`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Set

from amctc.errors import AmctcError, LimitError
from amctc.ir import Graph, GraphInput
from amctc.parser import parse_graph
from amctc.rewrite import Application, Rewrite, RewriteLog, apply_rewrites
from amctc.schema import Trait
from amctc.testing.cuts import ops_of
from amctc.testing.violations import Violation
from amctc.text import print_graph
from amctc.types import TensorType, shapes_agree

LIMIT = (24, 6)
"""Applications allowed: a constant and so many per op. Far fewer than the engine's own bound, to fail fast."""


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


def check_interface(graph: Graph, result: Graph, frozen: Set[GraphInput] = frozenset()) -> None:
    """**interface kept**: the same inputs but ``frozen`` ones, the same output names, output types that agree."""
    if result.inputs != tuple(i for i in graph.inputs if i not in frozen) or result.output_names != graph.output_names:
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

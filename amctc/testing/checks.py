"""``check_rewrite``: property tests of a rewrite, drawn from its pattern."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from amctc.contract import Changes, Effect
from amctc.errors import UnsupportedError
from amctc.interp import KernelTable
from amctc.ir import Graph
from amctc.kernels.tables import ORACLE
from amctc.magnitude import MAGNITUDE
from amctc.rewrite import Rewrite, RewriteLog
from amctc.testing import comparisons, properties
from amctc.testing.algebra import check_algebra, is_algebraic
from amctc.testing.blueprints import Samplers
from amctc.testing.instances import Instance, instances
from amctc.testing.violations import Violation, explore
from amctc.text import print_graph
from amctc.types import F32, ScalarType

EXAMPLES = 100
"""Graphs per check in development; ``AMCTC_EXAMPLES`` in the environment sets another number."""

ROUNDS = 8
"""How often that many graphs are drawn again while the rule has fired too rarely."""


def default_examples() -> int:
    """``AMCTC_EXAMPLES`` from the environment, else :data:`EXAMPLES`."""
    return max(1, int(os.environ.get("AMCTC_EXAMPLES", EXAMPLES)))


@dataclass
class Report:
    """What a check saw.

    ``firings`` counts applications, ``compared`` those whose results were, ``proved`` those of an algebraic rule that
    were equal on exact rationals too. ``declined`` counts reasons,
    ``perturbations`` graphs (``fired_on``: those where the rule fired), ``notes`` why results were not compared.
    """

    rule: str
    effect: Effect
    graphs: int = 0
    firings: int = 0
    compared: int = 0
    proved: int = 0
    declined: Counter[str] = field(default_factory=Counter)
    perturbations: Counter[str] = field(default_factory=Counter)
    fired_on: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [f"{self.rule} ({self.effect}): {self.graphs} graphs, {self.firings} firings, {self.compared} compared"]
        if self.proved:
            parts.append(f"proved on exact rationals: {self.proved} instances")
        if self.perturbations:
            each = (f"{name} {self.fired_on[name]}/{n}" for name, n in sorted(self.perturbations.items()))
            parts.append("fired on " + ", ".join(each))
        if self.declined:
            parts.append("declined " + ", ".join(f"{n}x {reason}" for reason, n in self.declined.most_common()))
        if self.notes:
            parts.append("not compared " + ", ".join(f"{n}x {reason}" for reason, n in self.notes.most_common()))
        return "; ".join(parts)


def check_rewrite(
    rule: Rewrite,
    *,
    examples: int | None = None,
    seed: int | None = 0,
    minimum_firings: int = 50,
    elems: Sequence[ScalarType] = (F32,),
    samplers: Samplers | None = None,
    kernels: KernelTable = ORACLE,
    magnitude: KernelTable = MAGNITUDE,
    may_duplicate: bool = False,
) -> Report:
    """Check ``rule`` on ``examples`` graphs drawn from its pattern; needs no decorator and runs anywhere.

    Properties, each named in the message when it fails: the rule is not vacuous (``minimum_firings`` applications),
    runs, terminates, builds well-typed ops; the interface is kept, types hold, arguments are unchanged, no layer is
    computed twice; the rule is idempotent and deterministic; results print and parse; and results are the same as far
    as its effect says, at each application and at the outputs.

    ``examples`` defaults to 100 (``AMCTC_EXAMPLES``); up to eight times as many are drawn while the rule fires too
    rarely. ``seed`` None draws other graphs on every call. ``elems``: element types where the pattern leaves them open.
    ``samplers``: how to draw an op pattern or op kind instead of the registered way. ``kernels`` and ``magnitude``
    evaluate op kinds of your own. ``may_duplicate`` allows a rule to compute a layer again that others still read.

    Raises :class:`AssertionError` with the property, the finding and a small graph; :class:`UsageError` when no
    instance of the pattern can be drawn.
    """
    examples = default_examples() if examples is None else examples
    report = Report(rule.name, rule.effect)
    tables = comparisons.Tables(kernels, magnitude)
    strategy = instances(rule.pattern, elems=elems, samplers=samplers)
    replay = f"check_rewrite({rule.name}, seed={seed}, examples={examples})"

    def each(instance: Instance) -> None:
        examine(rule, instance, tables, report, may_duplicate=may_duplicate)

    rounds = max(ROUNDS, -(-ROUNDS * minimum_firings // examples))
    try:
        for turn in range(rounds):
            if turn and report.firings >= minimum_firings:
                break
            drawn_with = None if seed is None else seed * rounds + turn
            explore(strategy, each, examples=examples, seed=drawn_with)
        _check_not_vacuous(rule, report, minimum_firings)
    except Violation as violation:
        violation.args = (f"{rule.name} ({rule.effect}): {violation.args[0]}",)
        raise violation.replayed(replay) from violation.__cause__
    return report


def examine(
    rule: Rewrite, instance: Instance, tables: comparisons.Tables, report: Report, *, may_duplicate: bool = False
) -> None:
    """All properties of one rule on one graph, the cheap and telling ones first."""
    graph, log = instance.graph, RewriteLog()
    text = print_graph(graph)
    result = properties.rewritten(rule, graph, log)
    _count(report, instance, log)
    properties.check_arguments_unchanged(graph, text)
    properties.check_interface(graph, result)
    properties.check_types(graph, result)
    if log.applications:
        if not may_duplicate:
            for application in log.applications:
                properties.check_duplicates(graph, result, application)
        if not isinstance(rule.effect, Changes):
            _compare(graph, result, log, tables, report)
        properties.check_fixpoint(rule, graph, result)
    properties.check_deterministic(rule, graph, result)
    properties.check_round_trip(graph, result)


def _compare(graph: Graph, result: Graph, log: RewriteLog, tables: comparisons.Tables, report: Report) -> None:
    """The properties about results, at every application and at the outputs."""
    comparisons.check_kernels(graph, result, log.applications[0].rule.effect, tables)
    try:
        for application in log.applications:
            note = comparisons.check_application(graph, application, tables)
            report.notes.update([note] if note else [])
            report.compared += note is None
            if is_algebraic(application.rule):
                note = check_algebra(application)
                report.notes.update([f"not proved: {note}"] if note else [])
                report.proved += note is None
        comparisons.check_outputs(graph, result, [a.rule.effect for a in log.applications], tables)
    except Violation:
        raise
    except UnsupportedError as error:
        report.notes[error.what] += 1  # a target's table has kernels that want constants where a near miss has inputs
    except Exception as error:
        finding = f"evaluation raised {type(error).__name__}: {error}; what inference accepts, a kernel must compute"
        raise Violation("evaluates", finding, graph) from error


def _count(report: Report, instance: Instance, log: RewriteLog) -> None:
    report.graphs += 1
    report.firings += len(log.applications)
    report.perturbations[instance.perturbation] += 1
    report.fired_on[instance.perturbation] += bool(log.applications)
    report.declined.update(log.declined.values())


def _check_not_vacuous(rule: Rewrite, report: Report, minimum: int) -> None:
    if report.firings >= minimum:
        return
    reasons = "; ".join(f"{n}x {reason}" for reason, n in report.declined.most_common(5))
    raise Violation(
        "not vacuous",
        f"the rule fired {report.firings} times on {report.graphs} graphs drawn from its pattern, wanted {minimum}. "
        + (f"It declined: {reasons}. " if reasons else "Its pattern did not match: ")
        + "Draw what it needs with samplers={op pattern: function}, loosen it, or lower minimum_firings.",
    )

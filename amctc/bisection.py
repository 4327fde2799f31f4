"""Find the first rewrite application that changes a model's results beyond its contract, as LLVM's opt-bisect does.

::

    Pipeline.parse("fold-batch-norm,fuse-activation").run(graph, Context(validate=Bisection()))

Validation (:mod:`amctc.validate`) looks at every application by itself; this looks at the outputs, and finds what
changes them by searching over how many applications the guilty pass may make.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from amctc.contract import Exact, Rounding
from amctc.ir import Graph
from amctc.pipeline import Context, Pass
from amctc.rewrite import Application, RewriteLog
from amctc.testing.pass_properties import Step, check_results, tables_for
from amctc.testing.violations import Violation
from amctc.validate import UNEVALUATED, first_batch, miscompile, not_compared


class Bisection:
    """What :attr:`amctc.pipeline.Context.validate` takes: ends at the first pass that changes outputs too far.

    ``folder`` gets a reproducer. ``applications`` counts those looked at, ``compared`` those of passes that could be
    compared and were right.
    """

    def __init__(self, folder: str | Path = ".") -> None:
        self.folder, self.applications, self.compared = Path(folder), 0, 0

    def __str__(self) -> str:
        looked_at = f"none of {self.compared} rewrite applications changes the outputs beyond its contract"
        left = self.applications - self.compared
        return f"bisected: {looked_at}" + (f"; {left} could not be compared" if left else "")

    def __call__(
        self, item: Pass, before: Graph, after: Graph, applications: Sequence[Application], context: Context
    ) -> None:
        """Compare one run of a pass; :class:`~amctc.errors.MiscompileError` names the application that is to blame."""
        step = Step(item, before, after, tuple(applications), context.target)
        found, reasons = _violation(step, context)
        for reason in dict.fromkeys(reasons):
            context.note("bisect", item.name, not_compared(reason, context))
        if found is None:
            self.applications += len(applications)
            self.compared += 0 if reasons else len(applications)
            return
        if not applications:
            raise miscompile(f"pass {item.name}", found, self.folder)
        count, found = _first_bad(step, context, found)
        found.at(applications[count - 1])
        place = f"pass {item.name}, application {self.applications + count} (number {count} of its {len(applications)})"
        raise miscompile(place, found, self.folder)


def _violation(step: Step, context: Context) -> tuple[Violation | None, list[str]]:
    """What is wrong with the outputs of a step, if anything is, and why they could not be compared, if so."""
    effect = step.item.contract.effect
    if not isinstance(effect, Exact | Rounding):
        return None, [str(effect)]
    try:
        reasons = list(check_results(step, tables_for(step), first_batch(context)))
    except Violation as violation:
        return violation, []
    except UNEVALUATED as error:
        reasons = [str(error)]
    return None, [r for r in reasons if r is not None]


def _first_bad(step: Step, context: Context, found: Violation) -> tuple[int, Violation]:
    """The least number of applications after which the outputs are wrong, given that all of them make them so."""
    right, wrong = 0, len(step.applications)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        budgeted = dataclasses.replace(context, log=RewriteLog(budget=middle), notes=[], validate=None)
        result = step.item.run(step.before, budgeted)
        tried = step._replace(after=result, applications=tuple(budgeted.log.applications))
        violation, _ = _violation(tried, context)
        if violation is None:
            right = middle
        else:
            wrong, found = middle, violation
    return wrong, found

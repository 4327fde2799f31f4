"""Translation validation: every pass of a pipeline is checked on the very model it is run on.

::

    from amctc import Context, Pipeline
    from amctc.validate import Validation

    Pipeline.parse("fold-batch-norm").run(graph, Context(validate=Validation()))

After each pass its graph is compared with the one before: every rewrite application at its own cut, on what the model
computes there and on random and edge inputs (zeros, large numbers, NaN where the effect is exact), and the outputs
where the contract bounds them. The tolerance follows from the effect and the magnitude of the terms
(:mod:`amctc.magnitude`). An application that is an algebraic identity is proved as well, on exact rationals and a small
instance of the model's shapes (:mod:`amctc.testing.algebra`): no tolerance hides an error there. A pass that changes
results on purpose keeps its interface only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amctc.errors import AmctcError, MiscompileError
from amctc.ir import Graph
from amctc.pipeline import Batch, Context, Pass
from amctc.reproducer import write_reproducer
from amctc.rewrite import Application
from amctc.testing.algebra import check_algebra, is_algebraic
from amctc.testing.pass_properties import Step, check_effect, check_interface
from amctc.testing.violations import Violation

UNEVALUATED = (AmctcError, IndexError, ValueError)
"""What kernels raise on drawn inputs that do not suit, and for ops that have no kernel: no verdict on the pass."""


class Validation:
    """What :attr:`amctc.pipeline.Context.validate` takes: checks one pass after the other.

    A reproducer of a failure is written into ``folder``. ``compared`` counts the comparisons made, ``proved`` the
    applications that hold on exact rationals.
    """

    def __init__(self, folder: str | Path = ".") -> None:
        self.folder, self.compared, self.proved = Path(folder), 0, 0

    def __str__(self) -> str:
        proofs = f"; proved on exact rationals: {self.proved} instances" if self.proved else ""
        return f"validated: {self.compared} comparisons of results before and after, all within the contracts{proofs}"

    def __call__(
        self, item: Pass, before: Graph, after: Graph, applications: Sequence[Application], context: Context
    ) -> None:
        """Check one run of a pass; :class:`MiscompileError` names the rewrite and where, and the files written."""
        step = Step(item, before, after, tuple(applications), context.target)
        try:
            unproved = self._prove(applications)
            uncompared = self._compare(step, first_batch(context))
        except Violation as violation:
            raise miscompile(f"pass {item.name}", violation, self.folder) from None
        for reason in uncompared:
            context.note("validate", item.name, not_compared(reason, context))
        for reason in unproved:
            context.note("validate", item.name, f"not proved on exact rationals: {reason}")

    def _compare(self, step: Step, feeds: Batch | None) -> dict[str, None]:
        """Compare what the contract bounds; returns why anything was not compared."""
        reasons: dict[str, None] = {}
        check_interface(step.item, step.before, step.after)
        try:
            for reason in check_effect(step, feeds):
                self.compared += reason is None
                reasons.update({} if reason is None else {reason: None})
        except UNEVALUATED as error:
            reasons[str(error)] = None
        return reasons

    def _prove(self, applications: Sequence[Application]) -> dict[str, None]:
        """Prove the applications that are algebraic identities; returns why any was not proved."""
        reasons: dict[str, None] = {}
        for application in applications:
            if not is_algebraic(application.rule):
                continue
            try:
                reason = check_algebra(application)
            except UNEVALUATED as error:
                reason = str(error)
            except Violation as violation:
                raise violation.at(application) from violation.__cause__
            self.proved += reason is None
            reasons.update({} if reason is None else {reason: None})
        return reasons


def miscompile(where: str, violation: Violation, folder: Path) -> MiscompileError:
    """The error of a violation, after writing its evidence into ``folder``."""
    application, evidence = violation.application, violation.evidence
    place = where if application is None else f"{where}, {application}"
    files = [] if evidence is None else write_reproducer(folder, evidence)
    remedy = f"a defect of the pass; the smallest case is in {', '.join(f.name for f in files)}" if files else None
    return MiscompileError(
        f"{violation.property}: {violation.finding}", where=place, remedy=remedy, detail=str(violation)
    )


def not_compared(reason: str, context: Context) -> str:
    """The remark about results that could not be compared."""
    return f"not compared: {reason}" + ("" if context.samples is not None else " (samples may help)")


def first_batch(context: Context) -> Batch | None:
    """The first sample batch, where there are samples."""
    return None if context.samples is None else next(iter(context.samples), None)

"""A property that does not hold: what is said about it, and the search for a small example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.strategies import SearchStrategy

from amctc.ir import Graph
from amctc.rewrite import Application
from amctc.text import print_graph
from amctc.types import Array

T = TypeVar("T")

SHRINKING_RUNS = 250
"""Runs spent on making a failing example smaller: enough for graphs of ten ops, and bounded in time."""

SHOWN_IN_FULL = 3000
"""Characters of graph text that a message shows with large constants in full; longer text is elided. Small constants
are always shown by value, and what is shown without elision parses again."""


class Evidence(NamedTuple):
    """Two graphs of the same interface that compute different results from ``feeds``."""

    before: Graph
    after: Graph
    feeds: Mapping[str, Array]


class Violation(AssertionError):
    """A property fails on a graph. ``property`` is its name; the message says all that is needed to repeat it.

    ``evidence`` comes with properties about results, ``application`` with those about one application of a rewrite.
    """

    def __init__(
        self, property_: str, finding: str, graph: Graph | None = None, where: str = "",
        *, evidence: Evidence | None = None,
    ) -> None:  # fmt: skip
        self.property, self.finding, self.evidence = property_, finding, evidence
        self.application: Application | None = None
        text = ""
        if graph is not None:
            full, text = print_graph(graph), print_graph(graph, elide=True)
            if "…" in text and len(full) <= SHOWN_IN_FULL:
                text = full
            self.size = (len(graph.ops), len(full))
        else:
            self.size = (0, 0)
        lines = [f"property {property_!r} fails{f' for {where}' if where else ''}: {finding}", text.rstrip()]
        super().__init__("\n".join(line for line in lines if line))

    def at(self, application: Application) -> Violation:
        """The same violation with the rewrite application at which it was found."""
        self.application = application
        self.args = (f"{application}: {self.args[0]}",)
        return self

    def replayed(self, line: str) -> Violation:
        """The same violation with a line that repeats the search."""
        self.args = (f"{self.args[0]}\nrepeat with: {line}",)
        return self


class _EnoughShrinking(BaseException):
    """Ends Hypothesis' search: not an Exception, so that it passes through."""


def explore(strategy: SearchStrategy[T], examine: Callable[[T], None], *, examples: int, seed: int | None) -> None:
    """Run ``examine`` on ``examples`` drawn values; raise the smallest :class:`Violation` found.

    Independent of Hypothesis profiles and databases; the same ``seed`` draws the same values, ``None`` other ones each
    time.
    """
    best: list[Violation] = []
    runs_since_failure = 0

    def run(drawn: T) -> None:
        nonlocal runs_since_failure
        if best:
            runs_since_failure += 1
            if runs_since_failure > SHRINKING_RUNS:
                raise _EnoughShrinking
        try:
            examine(drawn)
        except Violation as violation:
            if not best or (violation.property == best[0].property and violation.size <= best[0].size):
                best[:] = [violation]
            raise

    configured = hypothesis.settings(
        max_examples=examples, database=None, deadline=None, derandomize=False, print_blob=False,
        verbosity=Verbosity.quiet, phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    test = configured(hypothesis.given(strategy)(run))
    try:
        (test if seed is None else hypothesis.seed(seed)(test))()
    except (_EnoughShrinking, Violation):
        smallest = best[0]
        smallest.__notes__ = []
        raise smallest.with_traceback(None) from smallest.__cause__

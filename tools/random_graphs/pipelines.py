"""What a random model is taken through: a stage, one pass alone, some in any order, the one that owns a rewrite."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from amctc.cli.rules import rewrites_of
from amctc.contract import Exact, Rounding
from amctc.pipeline import Pass, Pipeline, Repeat, installed
from amctc.preset import load_preset
from amctc.targets import DEFAULT_TARGET, load_profile
from tools.random_graphs.cases import Case


@functools.cache
def _passes() -> Sequence[Pass]:
    """The passes that say results stay the same, up to rounding at most."""
    items = [item for name in sorted(installed("amctc.passes")) for item in Pipeline.parse(name).passes]
    float_ones = [p for p in items if isinstance(p, Pass) and isinstance(p.contract.effect, Exact | Rounding)]
    return [p for p in float_ones if p.contract.idempotent]  # the others need samples


@functools.cache
def _owners(rule: str) -> Sequence[Pass]:
    """The passes that apply a rewrite, by its name."""
    target = load_profile(DEFAULT_TARGET)
    return [p for p in _passes() if any(r.name == rule for r in rewrites_of(p, target))]


@functools.cache
def prepare_stage() -> Pipeline:
    """The prepare stage of the default preset."""
    return load_preset("balanced").prepare


def drawn_pipeline(case: Case) -> Pipeline:
    """The prepare stage, one pass alone, or some in any order, sometimes until nothing changes; all take the graph.

    Of a graph that was drawn for a rewrite, mostly a pass that applies it, in half of the cases with another.
    """
    source = case.source
    fitting = [p for p in _passes() if all(fact.violation(case.graph) is None for fact in p.contract.requires)]
    owners = [p for p in _owners(case.rule.name) if p in fitting] if case.rule is not None else []
    if owners and source.flip(0.7):
        pair = [source.choice(owners), *([source.choice(fitting)] if source.flip() else [])]
        return Pipeline(tuple(pair if source.flip() else reversed(pair)))
    if len(fitting) == len(_passes()) and source.flip(0.4):
        return prepare_stage()
    items = [source.choice(fitting) for _ in range(1 if source.flip(0.4) else source.integer(2, 8))]
    return Pipeline((Repeat(tuple(items)),) if source.flip(0.1) else tuple(items))

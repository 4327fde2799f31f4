"""Choose the precision of every layer so that the outputs keep most within a budget of bytes, of time, or of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from amctc.api import Compression
from amctc.calibrate.samples import Samples
from amctc.ir import Graph
from amctc.measurement import Measurement, decibels
from amctc.mixed_precision.allocation import Allocation, Limits
from amctc.mixed_precision.assembly import FLOAT
from amctc.mixed_precision.costs import Budget, Cost, cost_of
from amctc.mixed_precision.recipe import AS_IS, Recipe, finished, trial
from amctc.mixed_precision.sensitivities import one_in
from amctc.mixed_precision.space import HALF, INT8, Options, possible_candidates, require_candidates
from amctc.report.precision import LayerPrecision, PrecisionReport, Trial
from amctc.report.units import bytes_text, time_text

FRONT_FILE = "front.json"

FRONT_POINTS = 9
"""Choices along the front that are measured."""

SEARCHED = "searched"


def search(
    model: str | PathLike[str] | Graph,
    samples: Samples | Iterable[Any],
    *budgets: Budget,
    candidates: Sequence[str] = (),
    out: str | PathLike[str] | None = None,
    held_back: int | None = None,
    **settings: Any,
) -> Compression:
    """Compress a model with the precision of each layer chosen for least noise within ``budgets``.

    The noise of each layer with each of ``candidates`` is measured alone, on some of the last ``held_back`` samples
    (by default a quarter, which calibrate nothing); noises add up. Candidates are ``f16``, ``w8a16``, ``w8a8`` and
    ``w4a8``, by default those that the target has and the preset can make. The choice of least sum within a budget is
    found by :func:`amctc.mixed_precision.knapsack.choose`, costs checked on the compiled graph. The preset then makes
    that model, and its integers are measured. Never worse than the preset as it is: where that fits the budgets and
    measures better, it is kept. What comes nearest is returned where nothing fits. ``report.precision`` says what was
    found, with the front of choices that no other beats; with ``out`` the files of :func:`amctc.compress`, whose
    ``settings`` these are, are written, and ``front.json``. Raises :class:`amctc.errors.AmctcError` of the kind that
    fits.
    """
    recipe = Recipe.of(model, samples, behind=held_back, **settings)
    wanted = require_candidates(candidates or possible_candidates(recipe.stages, recipe.target), recipe.stages,
                                recipe.target)  # fmt: skip
    float16 = cost_of(recipe.prepared, recipe.target)
    for budget in budgets:
        float16.of(budget.resource)  # refuse what cannot be estimated before long work
    result, report = _BudgetSearch(recipe, budgets, wanted).found()
    return finished(recipe, result, report, out, {FRONT_FILE: report.front_json()})


@dataclass(frozen=True)
class _Made:
    """What the preset made, measured, with its cost."""

    name: str
    result: Compression
    measured: Measurement
    cost: Cost


class _BudgetSearch:
    """One search."""

    def __init__(self, recipe: Recipe, budgets: Sequence[Budget], candidates: Sequence[str]) -> None:
        self._recipe, self._reference = recipe, recipe.reference()
        self._space = recipe.space((*candidates, INT8))
        self._limits = Limits(self._space, budgets)
        self._alone = one_in(self._space.assembly, recipe.noise_reference(), candidates, recipe.progress)
        noise: dict[str, dict[str, float]] = {}
        for layer, own in self._space.assembly.candidates.items():  # in float where it has none of the candidates
            allowed = [c for c in own if c in candidates] or [FLOAT]
            noise[layer] = {c: 0.0 if c == FLOAT else self._alone[layer][c].noise for c in allowed}
        self._allocation = Allocation(self._space, self._limits, noise)

    def found(self) -> tuple[Compression, PrecisionReport]:
        """The best compression, and the report of what was found."""
        chosen = self._allocation.best()
        searched = self._make(SEARCHED, self._space.options(chosen))
        preset = self._make(AS_IS, None)
        better = preset.measured.noise < searched.measured.noise
        fits = self._limits.fit(preset.cost)
        kept = preset if fits and (better or not self._limits.fit(searched.cost)) else searched
        return kept.result, self._report(kept, searched, preset, chosen)

    def _make(self, name: str, options: Options | None) -> _Made:
        result = self._recipe.compressed(options)
        cost = cost_of(result.integer_graph, self._recipe.target)
        return _Made(name, result, self._reference.measure(result.deploy_graph), cost)

    def _report(self, kept: _Made, searched: _Made, preset: _Made, chosen: dict[str, str]) -> PrecisionReport:
        remarks, as_is = [], _stored(preset.result)
        if not self._limits.fit(kept.cost):
            remarks.append("the budget was missed; kept is what comes nearest with these candidates")
        elif kept is preset:
            remarks.append("the preset as it is was kept: it fits the budget, and nothing that was searched is better")
        times = kept.cost.time_us, self._limits.float16.time_us
        if "time" not in self._limits.resources and (times[0] or 0.0) > (times[1] or math.inf):
            remarks.append("by the estimate this model is slower than all in float16: give a budget of time too")
        final = as_is if kept is preset else chosen
        layers = tuple(
            LayerPrecision(layer, final.get(layer, FLOAT),
                           {c: round(m.sqnr_db, 6) for c, m in self._alone.get(layer, {}).items()})
            for layer in self._space.assembly.layers
        )  # fmt: skip
        float16 = dict.fromkeys(self._space.assembly.layers, FLOAT)
        target = self._recipe.target
        trials = (
            self._trial("all in float16", float16),
            trial(preset.name, preset.result.integer_graph, target, preset.measured, as_is),
            trial(searched.name, searched.result.integer_graph, target, searched.measured, chosen,
                  self._predicted(chosen)),
        )  # fmt: skip
        return PrecisionReport(
            goal=f"at most {' and '.join(map(_amount, self._limits.amounts.items()))}",
            reached=self._limits.fit(kept.cost), kept=kept.name, remarks=tuple(remarks),
            calibrated=len(self._recipe.calibrating), held_back=len(self._recipe.held), layers=layers, trials=trials,
            front=self._front(trials),
        )  # fmt: skip

    def _front(self, made: Sequence[Trial]) -> tuple[Trial, ...]:
        """Of what was ``made`` and some choices along the front, which are measured, those that none beats."""
        whole = self._allocation.front()
        picked = sorted({round(i * (len(whole) - 1) / (FRONT_POINTS - 1)) for i in range(FRONT_POINTS)})
        known = {tuple(t.assignment.items()) for t in made}
        points = {tuple(a.items()): a for a in (*(whole[i] for i in picked), *self._allocation.uniform())}
        others = [assignment for key, assignment in points.items() if key not in known]
        trials = list(made)
        for done, assignment in enumerate(others, 1):
            trials.append(self._trial("", assignment))
            self._recipe.progress("measuring the front", done, len(others))
        ordered = sorted(trials, key=lambda t: (t.bytes, t.time_us or 0.0, -t.sqnr_db))
        return tuple(t for t in ordered if not any(self._beats(other, t) for other in trials))

    def _beats(self, a: Trial, b: Trial) -> bool:
        """Whether ``a`` takes no more of any budget and is as near to the float model, and in one of that better."""
        ours, theirs = ((-t.sqnr_db, *(Cost(t.bytes, t.time_us).of(r) for r in self._limits.resources)) for t in (a, b))
        return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))

    def _trial(self, name: str, assignment: dict[str, str]) -> Trial:
        measured = self._reference.measure(self._space.deploy(assignment))
        graph = self._space.compiled(assignment)
        return trial(name, graph, self._recipe.target, measured, assignment, self._predicted(assignment))

    def _predicted(self, assignment: dict[str, str]) -> float:
        noise = sum(self._alone[n][c].noise for n, c in assignment.items() if c != FLOAT)
        return round(decibels(noise), 6)


def _stored(result: Compression) -> dict[str, str]:
    """The precision of each layer as the preset left it."""
    stored = {"float": FLOAT, "weight-only": HALF}
    return {layer.name: stored.get(layer.action, INT8) for layer in result.report.layers}


def _amount(limit: tuple[str, float]) -> str:
    resource, amount = limit
    return bytes_text(int(amount)) if resource == "bytes" else time_text(amount)

"""Leave as few layers in float as a goal for the integer model allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from amctc.api import Compression
from amctc.calibrate.samples import Samples
from amctc.cycles import layer_macs
from amctc.evaluation import Evaluator
from amctc.ir import Graph, layer_name
from amctc.measurement import Measurement, Reference
from amctc.mixed_precision.assembly import FLOAT
from amctc.mixed_precision.goal import Goal
from amctc.mixed_precision.recipe import AS_IS, Recipe, finished, trial
from amctc.mixed_precision.sensitivities import one_in
from amctc.mixed_precision.space import INT8, Options, Space
from amctc.report.precision import LayerPrecision, PrecisionReport, Trial

MOST_REPAIRS, MOST_EXTENSIONS = 64, 3
"""Layers that are tried in int8 again; times that more layers go to float where a rounding anew misses the goal."""


def compress_to_goal(
    model: str | PathLike[str] | Graph,
    samples: Samples | Iterable[Any],
    goal: Goal,
    *,
    out: str | PathLike[str] | None = None,
    evaluator: Evaluator | None = None,
    held_back: int | None = None,
    **settings: Any,
) -> Compression:
    """Compress a model, with as few layers in float16 as the goal allows.

    Where the preset alone reaches the goal its result is returned. What it rolled back stays in float, and the other
    layers are ranked by the noise each makes alone; a binary search finds the shortest run of the most sensitive ones
    that must stay in float too, each trial being measured with the integer model on the last ``held_back`` samples (by
    default a quarter, which calibrate nothing), and those of them that prove needless go back to int8. The preset then
    makes the model anew, with weights rounded for what is left. Where none reaches the goal the result nearest to it is
    returned: ``report.precision`` says so.
    ``settings`` are those of :func:`amctc.compress`; with ``out`` its files are written.
    """
    recipe = Recipe.of(model, samples, behind=held_back, evaluator=evaluator, **settings)
    return finished(recipe, *_GoalSearch(recipe, goal).found(), out)


@dataclass(frozen=True)
class _Made:
    """A compression by the preset, and how it was measured."""

    name: str
    floats: tuple[str, ...]
    result: Compression
    measured: Measurement


class _GoalSearch:
    """One search; ``floats`` are layers left in float."""

    def __init__(self, recipe: Recipe, goal: Goal) -> None:
        self._recipe, self._goal = recipe, goal
        self._reference: Reference = recipe.reference()
        goal.excess(self._reference.clean, self._reference.clean)  # refuse what cannot be measured before long work

    def found(self) -> tuple[Compression, PrecisionReport]:
        """The best compression, and the report of what was found."""
        made, alone = [self._make(AS_IS)], dict[str, dict[str, Measurement]]()
        if not self._reached(made[0].measured):
            space = self._recipe.space([FLOAT, INT8])
            alone = one_in(space.assembly, self._recipe.noise_reference(), [INT8], self._recipe.progress)
            already = set(made[0].floats)  # what the preset rolled back stays: a coarse goal must not undo it by chance
            ranking = sorted(alone, key=lambda layer: (layer not in already, -alone[layer][INT8].noise))
            fixed = sum(layer in already for layer in ranking)
            if fixed < len(ranking):
                made += self._final(space, ranking, self._fewest(space, ranking, fixed))
        best = min(made, key=self._order)
        layers = tuple(LayerPrecision(n, FLOAT if n in best.floats else INT8, {INT8: round(m[INT8].sqnr_db, 6)})
                       for n, m in alone.items())  # fmt: skip
        return best.result, self._report(best, made, layers)

    def _fewest(self, space: Space, ranking: Sequence[str], fixed: int) -> list[str]:
        """The layers to leave in float by trials: of the ranking the shortest start that is enough, then repaired.

        The first ``fixed`` of them are in float anyway, which is not enough.
        """
        trials = _Trials(lambda floats: self._reference.measure(space.deploy(_assignment(space, floats))))
        progress, tried = self._recipe.progress, (len(ranking) - fixed).bit_length()
        low, high = fixed + 1, len(ranking)
        while low < high:
            middle = (low + high) // 2
            if self._reached(trials.measured(ranking[:middle])):
                high = middle
            else:
                low = middle + 1
            progress("searching the layers to leave in float", min(trials.count, tried), tried)
        floats = list(ranking[:low])
        if not self._reached(trials.measured(floats)):
            return min(trials.known, key=lambda known: (self._excess(trials.measured(known)), len(known)))
        macs = _macs(self._recipe.prepared)
        for layer in sorted(floats[fixed:], key=lambda layer: -macs.get(layer, 0))[:MOST_REPAIRS]:
            fewer = [other for other in floats if other != layer]
            if len(fewer) > fixed and self._reached(trials.measured(fewer)):
                floats = fewer
        return floats

    def _final(self, space: Space, ranking: Sequence[str], floats: Sequence[str]) -> list[_Made]:
        """What the preset makes with ``floats``, and with more where that misses the goal."""
        made, chosen = list[_Made](), list(floats)
        for _ in range(1 + MOST_EXTENSIONS):
            made.append(self._make(f"{len(chosen)} layers in float", space.options(_assignment(space, chosen))))
            others = [layer for layer in ranking if layer not in chosen]
            if self._reached(made[-1].measured) or not others:
                break
            chosen += others[: max(1, len(chosen) // 4)]
        return made

    def _make(self, name: str, options: Options | None = None) -> _Made:
        result = self._recipe.compressed(options)
        floats = tuple(layer.name for layer in result.report.layers if layer.action == "float")
        return _Made(name, floats, result, self._reference.measure(result.deploy_graph))

    def _excess(self, found: Measurement) -> float:
        return self._goal.excess(found, self._reference.clean)

    def _reached(self, found: Measurement) -> bool:
        return self._excess(found) <= 0

    def _order(self, made: _Made) -> tuple[float, int]:
        """What reaches the goal with the fewest layers in float first, then what is nearest to it."""
        return max(0.0, self._excess(made.measured)), len(made.floats)

    def _report(self, best: _Made, made: Sequence[_Made], layers: tuple[LayerPrecision, ...]) -> PrecisionReport:
        reached, remarks = self._reached(best.measured), []
        if not reached:
            remarks.append(f"the goal was missed: {self._goal.text(self._reference.clean)}; kept is what comes nearest")
        if len(made) > 1 and best is made[0]:
            remarks.append("the preset as it is was kept: leaving more layers in float gave nothing better")
        recipe = self._recipe
        return PrecisionReport(
            goal=self._goal.text(self._reference.clean), reached=reached, kept=best.name, remarks=tuple(remarks),
            calibrated=len(recipe.calibrating), held_back=len(recipe.held), layers=layers,
            trials=tuple(self._trial(m) for m in made),
        )  # fmt: skip

    def _trial(self, made: _Made) -> Trial:
        names = [layer.name for layer in made.result.report.layers]
        assignment = {name: FLOAT if name in made.floats else INT8 for name in names}
        return trial(made.name, made.result.integer_graph, self._recipe.target, made.measured, assignment)


class _Trials:
    """Measurements by the layers left in float, each made once."""

    def __init__(self, measure: Callable[[Sequence[str]], Measurement]) -> None:
        self._measure = measure
        self._found: dict[frozenset[str], tuple[list[str], Measurement]] = {}

    def measured(self, floats: Sequence[str]) -> Measurement:
        key = frozenset(floats)
        if key not in self._found:
            self._found[key] = list(floats), self._measure(floats)
        return self._found[key][1]

    @property
    def count(self) -> int:
        return len(self._found)

    @property
    def known(self) -> list[list[str]]:
        """What was measured, in that order."""
        return [floats for floats, _ in self._found.values()]


def _assignment(space: Space, floats: Sequence[str]) -> dict[str, str]:
    return {**space.assembly.uniform(INT8), **dict.fromkeys(floats, FLOAT)}


def _macs(graph: Graph) -> dict[str, int]:
    found: dict[str, int] = {}
    for op in graph.ops:
        found[layer_name(op)] = found.get(layer_name(op), 0) + (layer_macs(op) or 0)
    return found

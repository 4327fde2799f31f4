"""How sensitive the outputs are to each layer: quantized alone, or alone in float."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, get_args

from amctc.calibrate.samples import Samples
from amctc.cycles import layer_macs
from amctc.errors import UsageError
from amctc.evaluation import Evaluator
from amctc.ir import Graph, Op
from amctc.measurement import METRICS, Measurement, Metric, Reference
from amctc.mixed_precision.assembly import FLOAT, Assembly, Assignment
from amctc.mixed_precision.recipe import Recipe, rounded
from amctc.mixed_precision.space import INT8
from amctc.pipeline import Progress
from amctc.report.precision import LayerSensitivity, SensitivityReport

Mode = Literal["one-in", "one-out"]
MODES: tuple[Mode, ...] = get_args(Mode)

Sensitivities = Mapping[str, Mapping[str, Measurement]]
"""For each layer what each of its quantized candidates does alone."""


def sensitivity(
    model: str | PathLike[str] | Graph,
    samples: Samples | Iterable[Any],
    *,
    metric: Metric = "sqnr",
    modes: Sequence[Mode] = MODES,
    candidates: Sequence[str] = (INT8,),
    evaluator: Evaluator | None = None,
    held_back: int | None = None,
    **settings: Any,
) -> SensitivityReport:
    """Rank the layers of a model by what quantizing them does to its outputs.

    ``one-in`` quantizes a layer alone, its weights and its data, as the preset does where all are; ``one-out`` all but
    that layer. Measured with the QDQ model in ONNX Runtime on the last ``held_back`` samples, by default a quarter,
    which calibrate nothing. ``metric`` ranks: ``sqnr``, ``mse``, ``cosine``, ``kl``, or ``score``, the fall of what
    ``evaluator`` gives, a function as :func:`amctc.evaluate` takes, the higher the better. ``candidates`` are ``w8a8``
    (what the preset makes), ``w8a16`` and ``w4a8``. ``settings`` are those of :func:`amctc.compress`. Raises
    :class:`amctc.errors.AmctcError` of the kind that fits.
    """
    if metric not in METRICS:
        raise UsageError(f"no metric {metric!r}", remedy=f"metrics are {', '.join(METRICS)}")
    if (metric == "score") != (evaluator is not None):
        raise UsageError("the metric score is what an evaluator gives: one needs the other",
                         remedy="give both, or neither")  # fmt: skip
    recipe = Recipe.of(model, samples, behind=held_back, **settings)
    reference, space = recipe.noise_reference(None, evaluator), recipe.space((*candidates, INT8))
    rows = []
    for mode in modes:
        found = (one_in if mode == "one-in" else one_out)(space.assembly, reference, candidates, recipe.progress)
        listed = [_row(space.assembly.ops[layer], layer, c, mode, m, m.loss(metric, reference.clean))
                  for layer, by_candidate in found.items() for c, m in by_candidate.items()]  # fmt: skip
        # One out, the layer that leaves the least loss is the most sensitive one.
        rows += sorted(listed, key=lambda row: -row.loss if row.mode == "one-in" else row.loss)
    return SensitivityReport(recipe.target.name, recipe.stages.name, metric, len(recipe.calibrating), len(recipe.held),
                             tuple(rows))  # fmt: skip


def one_in(
    assembly: Assembly, reference: Reference, candidates: Sequence[str], progress: Progress
) -> dict[str, dict[str, Measurement]]:
    """The outputs with one layer quantized, all others in float, for each layer and candidate it can have."""
    return _measured(assembly, reference, candidates, progress, lambda layer, c: {layer: c})


def one_out(
    assembly: Assembly, reference: Reference, candidates: Sequence[str], progress: Progress
) -> dict[str, dict[str, Measurement]]:
    """The outputs with one layer in float, all others quantized as far as they can be."""
    return _measured(assembly, reference, candidates, progress, lambda layer, c: {**assembly.uniform(c), layer: FLOAT})


def _measured(
    assembly: Assembly, reference: Reference, candidates: Sequence[str], progress: Progress, assigned: Any
) -> dict[str, dict[str, Measurement]]:
    pairs = list(_pairs(assembly, candidates))
    found: dict[str, dict[str, Measurement]] = {}
    for done, (layer, candidate) in enumerate(pairs):
        assignment: Assignment = assigned(layer, candidate)
        found.setdefault(layer, {})[candidate] = reference.measure(assembly.assembled(assignment))
        progress("measuring sensitivities", done + 1, len(pairs))
    return found


def _pairs(assembly: Assembly, candidates: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((layer, c) for layer, own in assembly.candidates.items() for c in own if c in candidates and c != FLOAT)


def _row(op: Op, layer: str, candidate: str, mode: str, m: Measurement, loss: float) -> LayerSensitivity:
    return LayerSensitivity(
        layer, op.kind.op_name.removeprefix("nn."), layer_macs(op), candidate, mode, loss, round(m.sqnr_db, 6), m.mse,
        m.cosine, m.kl, rounded(m.agreement), rounded(m.score),
    )  # fmt: skip

"""Correct a quantized model for what quantization changed in it, sweep after sweep until its outputs come no nearer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from amctc.api import Compression, compress, load, written
from amctc.calibrate.samples import Samples, from_iterable
from amctc.errors import UsageError
from amctc.ir import Graph
from amctc.measurement import Reference, held_back
from amctc.pipeline import Context, Pipeline, Progress
from amctc.preset import load_preset
from amctc.report.compensation import CompensationReport, Sweep
from amctc.session import graph_kind, input_specs
from amctc.steps import gain_with_error
from amctc.targets import DEFAULT_TARGET, Profile, load_profile

SWEEP = "compensate-errors"
COMPENSATION_FILE = "compensation.json"

Model = str | PathLike[str] | Graph


@dataclass(frozen=True)
class Compensation:
    """The corrected QDQ graph, what was made of it for the target, and the report."""

    qdq_graph: Graph
    result: Compression
    report: CompensationReport


def compensate(
    model: Model,
    samples: Samples | Iterable[Any],
    reference: Model,
    *,
    sweeps: int = 3,
    options: str = "",
    out: str | PathLike[str] | None = None,
    target: str | Profile = DEFAULT_TARGET,
    preprocess: str | None = None,
    seed: int = 0,
    provider: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> Compensation:
    """Correct biases and scales of a QDQ ``model`` layer by layer, beside the float model it was made from.

    Each sweep runs the pass ``compensate-errors`` with ``options``, as ``"{rescale=false}"``, on three quarters of the
    samples, and is kept if the SQNR of the others rises on average by more than the standard error of that gain; else
    it is undone, and was the last. With ``out`` the files of :func:`amctc.compress` and ``compensation.json`` are
    written; ``preprocess`` is only recorded. Raises :class:`UsageError` for a model that is no QDQ model, or a
    reference that is no float model.
    """
    graph, real = (m if isinstance(m, Graph) else load(m) for m in (model, reference))
    for name, found, wanted in (("model", graph, "qdq"), ("reference", real, "float")):
        if graph_kind(found) != wanted:
            what = f"the {name} is a {graph_kind(found)} model, where a {wanted} one is needed"
            raise UsageError(what, remedy="give a model with QuantizeLinear nodes, and the float one it was made from")
    profile = target if isinstance(target, Profile) else load_profile(target)
    source = samples if isinstance(samples, Samples) else from_iterable(samples, input_specs(graph))
    correcting, held = held_back(source)
    context = Context(samples=correcting, seed=seed, target=profile, provider=provider, progress=progress)
    stages = load_preset("balanced")
    context.reference = stages.prepare.run(real, Context(target=profile)).graph
    adopted = stages.adopt.run(graph, context).graph
    measured = Reference(real, held, profile, provider=provider)
    best, made = _swept(adopted, measured, Pipeline.parse(SWEEP + options), context, sweeps)
    read_from = None if isinstance(reference, Graph) else reference  # what `amctc eval` compares with
    result = compress(best, source, path=read_from, target=profile, preprocess=preprocess, seed=seed, provider=provider,
                      progress=progress)  # fmt: skip
    report = CompensationReport(_named(model), _named(reference), len(correcting), len(held), made)
    if out is not None:
        result = written(result, out, texts={COMPENSATION_FILE: report.to_json()})
    return Compensation(best, result, report)


def _swept(
    graph: Graph, reference: Reference, pipeline: Pipeline, context: Context, most: int
) -> tuple[Graph, tuple[Sweep, ...]]:
    """The graph after the sweeps that helped, and all of them."""
    made: list[Sweep] = []
    before = reference.measure(graph)
    for _ in range(most):
        notes = len(context.notes)
        swept = pipeline.run(graph, context).graph
        if swept is graph:
            break
        after = reference.measure(swept)
        gain, error = gain_with_error(before, after)
        layers = tuple((note.layer, note.text) for note in context.notes[notes:])
        made.append(Sweep(round(before.sqnr_db, 6), round(after.sqnr_db, 6), round(gain, 6), round(error, 6),
                          before.agreement, after.agreement, gain > error, layers))  # fmt: skip
        if gain <= error:
            break
        graph, before = swept, after
    return graph, tuple(made)


def _named(model: Model) -> str:
    return model.name if isinstance(model, Graph) else fspath(model)

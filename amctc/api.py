"""The Python interface: load, save, compress, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from amctc.backends.deploy import export_deploy
from amctc.backends.onnx_file import model_bytes, save
from amctc.backends.record import record_text
from amctc.calibrate.preprocess import Preprocess
from amctc.calibrate.samples import Samples, from_iterable, open_samples
from amctc.errors import UnsupportedError
from amctc.files import output_folder
from amctc.frontends.onnx_file import load
from amctc.ir import Graph, constant_data
from amctc.numerics.error import ErrorStatistics
from amctc.pipeline import Context, PassRecord, Pipeline
from amctc.preset import load_preset
from amctc.report.build import build_report
from amctc.report.compare import compare
from amctc.report.model import CompressionReport, Evaluation
from amctc.session import FUSION_KEY, TARGET_KEY, Session, compiled, graph_kind, input_specs
from amctc.targets import DEFAULT_TARGET, Profile, load_profile
from amctc.types import Array
from amctc.variants import evaluate_variants

AnyPath = str | PathLike[str]
Progress = Callable[[str, int, int], None]

FILES = {
    "deploy": "model_deploy.onnx",
    "fakequant": "model_fakequant.onnx",
    "record": "record.txt",
    "report": "report.json",
}
"""What ``compress`` writes."""


def _silent(what: str, done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Compression:
    """What ``compress`` made: the graph after each stage, the report, the files written, seconds per stage."""

    float_graph: Graph
    qdq_graph: Graph
    deploy_graph: Graph
    integer_graph: Graph
    report: CompressionReport
    files: Mapping[str, Path]
    seconds: Mapping[str, float]


def compress(
    model: AnyPath | Graph,
    samples: Samples | Iterable[Any],
    *,
    target: str | Profile = DEFAULT_TARGET,
    out: AnyPath | None = None,
    preset: str = "default",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    compare_samples: int = 32,
    progress: Progress = _silent,
) -> Compression:
    """Quantize a model for ``target`` and simulate the result.

    ``samples`` calibrate: an iterable of batches ``{input name: array, batch axis first}``, or :class:`Samples`.
    ``preprocess`` is only recorded, so that ``amctc eval`` can prepare other samples alike.
    ``options`` change passes of the preset: ``{"place-qdq": {"skip": ("conv1",)}}``. The first ``compare_samples``
    samples are run through the float, the QDQ and the integer model for the report. With ``out`` four files are
    written into that folder, all or none. Raises :class:`amctc.errors.AmctcError` of the kind that fits.
    """
    clock = _Clock()
    profile = target if isinstance(target, Profile) else load_profile(target)
    stages = load_preset(preset).with_options({k: dict(v) for k, v in (options or {}).items()})
    graph = model if isinstance(model, Graph) else load(model)
    if graph_kind(graph) != "float":
        raise UnsupportedError(f"a {graph_kind(graph)} model is quantized already", where=_shown(model),
                               remedy="compress the float model it was made from")  # fmt: skip
    source = samples if isinstance(samples, Samples) else from_iterable(samples, input_specs(graph))
    source.require_batch()
    context = Context(samples=source, seed=seed, target=profile, progress=progress)
    records: list[PassRecord] = []
    clock.lap("load")

    def stage(name: str, pipeline: Pipeline, graph: Graph) -> Graph:
        result = pipeline.run(graph, context)
        records.extend(result.report)
        clock.lap(name)
        return result.graph

    prepared = stage("prepare", stages.prepare, graph)
    quantized = stage("quantize", stages.quantize, prepared)
    lowered = stage("lower", stages.lower, quantized)
    deploy = lowered.with_metadata(**{TARGET_KEY.replace(".", "__"): profile.name, FUSION_KEY.replace(".", "__"): "on"})
    integer = compiled(deploy, profile)
    comparison = compare(prepared, quantized, integer, source.limited(0, compare_samples), profile, progress)
    clock.lap("compare")
    deploy_bytes = bytes(export_deploy(deploy).SerializeToString(deterministic=True))
    report = build_report(
        model=_shown(model) or graph.name, pipeline=str(stages), preprocess=preprocess,
        atc=atc_command(deploy, profile), target=profile,
        float_graph=prepared, qdq_graph=quantized, integer_graph=integer, comparison=comparison,
        bytes_before=Path(model).stat().st_size if not isinstance(model, Graph) else _weight_bytes(graph),
        bytes_after=len(deploy_bytes), notes=context.notes, passes=records,
    )  # fmt: skip
    files: dict[str, Path] = {}
    if out is not None:
        with output_folder(out) as output:
            output.write_bytes(FILES["deploy"], deploy_bytes)
            output.write_bytes(FILES["fakequant"], model_bytes(quantized))
            output.write_text(FILES["record"], record_text(quantized))
            output.write_text(FILES["report"], report.to_json())
        files = {key: Path(out) / name for key, name in FILES.items()}
    clock.lap("write")
    return Compression(prepared, quantized, deploy, integer, report, files, clock.seconds)


class _Clock:
    """Seconds per stage, for people only: timings never go into files."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _shown(model: AnyPath | Graph) -> str | None:
    return None if isinstance(model, Graph) else fspath(model)


def _weight_bytes(graph: Graph) -> int:
    datas = (constant_data(op.results[0]) for op in graph.ops)
    return sum(d.nbytes for d in datas if d is not None)


def atc_command(graph: Graph, target: Profile) -> str:
    """The command line that compiles the deploy file for the target, run beside it; symbolic sizes are set to 1."""
    shapes = ";".join(
        f"{i.name}:{','.join(str(d) if isinstance(d, int) else '1' for d in i.type.dims)}" for i in graph.inputs
    )
    return (
        f"atc --framework=5 --model={FILES['deploy']} --output=model "
        f'--soc_version={target.soc_version} --input_format=NCHW --input_shape="{shapes}"'
    )


def open_samples_for(
    model: Session | Graph,
    path: AnyPath,
    *,
    preprocess: str | Preprocess | None = None,
    labels: AnyPath | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
) -> Samples:
    """Samples at ``path`` in the form a model wants; see :func:`amctc.calibrate.samples.open_samples`."""
    inputs = model.inputs if isinstance(model, Session) else input_specs(model)
    parsed = Preprocess.parse(preprocess) if isinstance(preprocess, str) else preprocess
    return open_samples(path, inputs, preprocess=parsed, labels=labels, batch_size=batch_size, limit=limit)


def evaluate(
    session: Session, samples: Samples, reference: Session | None = None, *, progress: Progress = _silent
) -> Evaluation:
    """Top-1 and top-5 against the samples' labels, agreement and SQNR against a reference model, on the first output.

    Shares are of samples; a row's classes are all its elements. Agreement is the share of equal largest elements.
    """
    hits1 = hits5 = agreeing = seen = 0
    classes = 0
    error = ErrorStatistics()
    labels = samples.labels
    for feeds in samples:
        scores = _rows(session.run(feeds)[session.output_names[0]])
        if labels is not None:
            wanted = labels[seen : seen + len(scores), None]
            order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            hits1 += int((order[:, :1] == wanted).sum())
            hits5 += int((order == wanted).any(axis=1).sum())
        if reference is not None:
            expected = _rows(reference.run(feeds)[reference.output_names[0]])
            error = error.updated(expected, scores)
            agreeing += int((expected.argmax(1) == scores.argmax(1)).sum())
        seen, classes = seen + len(scores), scores.shape[1]
        progress("evaluating", seen, len(samples))
    return Evaluation(
        samples=seen, top1=hits1 / seen if labels is not None else None,
        top5=hits5 / seen if labels is not None and classes > 5 else None,
        agreement=agreeing / seen if reference is not None else None,
        sqnr_db=error.sqnr_db if reference is not None else None,
    )  # fmt: skip


def _rows(array: Array) -> Array:
    """One row of scores per sample, float64."""
    return np.asarray(array, np.float64).reshape(len(array), -1)


__all__ = [
    "Compression",
    "atc_command",
    "compress",
    "evaluate",
    "evaluate_variants",
    "load",
    "open_samples_for",
    "save",
]

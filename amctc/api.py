"""The Python interface: load, save, compress, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from amctc.backends.onnx_file import save, save_into, saved_size
from amctc.backends.record import layer_records, record_text
from amctc.calibrate.checkpoint import INTERVAL, Checkpoint
from amctc.calibrate.preprocess import Preprocess
from amctc.calibrate.samples import Samples, from_iterable, open_samples
from amctc.calibrate.work import described_work
from amctc.concurrency import SerialExecutor
from amctc.errors import UnsupportedError
from amctc.evaluation import evaluate
from amctc.files import output_folder
from amctc.frontends.onnx_file import load
from amctc.ir import Graph, Value, constant_data, layer_name
from amctc.onnx_bridge.carried_weights import carried_weights, random_ops, stored_in_integers
from amctc.onnx_bridge.storage import EXTERNAL_ABOVE
from amctc.onnx_bridge.value_sizes import require_sizes
from amctc.ops import nn, quant
from amctc.pipeline import Context, PassRecord, Pipeline, Validator
from amctc.preset import Preset, load_preset
from amctc.report.build import build_report
from amctc.report.compare import Comparison, compare
from amctc.report.model import CompressionReport
from amctc.session import FUSION_KEY, TARGET_KEY, Session, compiled, graph_kind, input_specs
from amctc.steps import Settled, settle
from amctc.targets import DEFAULT_TARGET, Profile, load_profile
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
    """What ``compress`` made: the graph after each stage, the report, the files written, seconds per stage.

    ``step_seconds`` are those of each step that was tried.
    """

    float_graph: Graph
    qdq_graph: Graph
    deploy_graph: Graph
    integer_graph: Graph
    report: CompressionReport
    files: Mapping[str, Path]
    seconds: Mapping[str, float]
    step_seconds: Mapping[str, float] = field(default_factory=dict)


def compress(
    model: AnyPath | Graph,
    samples: Samples | Iterable[Any] | None = None,
    *,
    path: AnyPath | None = None,
    target: str | Profile = DEFAULT_TARGET,
    out: AnyPath | None = None,
    preset: str | Preset = "balanced",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    compare_samples: int = 32,
    executor: Executor | None = None,
    provider: str = "cpu",
    external_data_threshold: int = EXTERNAL_ABOVE,
    progress: Progress = _silent,
    validate: Validator | None = None,
    checkpoint: AnyPath | None = None,
    checkpoint_interval: float = INTERVAL,
) -> Compression:
    """Quantize a model for ``target`` and simulate the result.

    ``model`` is a float model, or one with quantizers (QDQ): those are kept, nothing is calibrated, and it is lowered
    only. ``samples`` calibrate: an iterable of batches ``{input name: array, batch axis first}``, or :class:`Samples`;
    a preset that calibrates nothing needs none, and then nothing is compared. Steps of the ``preset`` are tried first
    (:mod:`amctc.steps`), and those that do not help are left out.
    ``path`` says where a graph given as ``model`` was read, and ``preprocess`` how the samples were prepared: both are
    only recorded, for the report and for ``amctc eval``. ``options`` change passes of the preset:
    ``{"place-qdq": {"skip": ("conv1",)}}``. The first ``compare_samples`` samples are run through the float, the QDQ
    and the integer model for the report. ``executor`` runs batches (the result is the same on any), ``provider`` is
    where ONNX Runtime computes. With ``out`` four files are written into that folder, all or none; past
    ``external_data_threshold`` bytes a model's weights get a file of their own. ``validate``
    looks at each pass (:class:`amctc.validate.Validation`). ``checkpoint`` names a file that keeps, every
    ``checkpoint_interval`` seconds, what was gathered from the samples; the same call resumes it after a kill, to the
    same bytes, and removes it at its end. Raises :class:`amctc.errors.AmctcError` of the kind that
    fits.
    """
    clock = _Clock()
    profile = target if isinstance(target, Profile) else load_profile(target)
    read_from = model if path is None and not isinstance(model, Graph) else path
    graph = model if isinstance(model, Graph) else load(model)
    stages = _stages(preset, graph, read_from).with_options(options or {})
    source = samples if samples is None or isinstance(samples, Samples) else from_iterable(samples, input_specs(graph))
    if source is not None:
        source.require_batch()
    context = Context(samples=source, seed=seed, target=profile, progress=progress,
                      executor=executor or SerialExecutor(), provider=provider, validate=validate)  # fmt: skip
    if checkpoint is not None:
        pipeline = (str(stages), stages.steps, stages.trial_samples)
        settings = {"pipeline": pipeline, "target": profile, "seed": seed, "provider": provider}
        work = described_work(graph, source, settings, progress)
        context.checkpoint = Checkpoint(checkpoint, work, interval=checkpoint_interval)
    records: list[PassRecord] = []
    clock.lap("load")

    def stage(name: str, pipeline: Pipeline, graph: Graph) -> Graph:
        result = pipeline.run(graph, context)
        records.extend(result.report)
        clock.lap(name)
        return result.graph

    prepared = stage("prepare", stages.prepare, graph)
    if source is not None:
        require_sizes(prepared)
    settled = Settled(stages.taking(stages.steps)) if source is None else settle(stages, prepared, source, context)
    stages = settled.preset
    clock.lap("steps")
    prepared = stage("balance", stages.balance, prepared)
    context.reference = prepared if graph_kind(prepared) == "float" else None
    quantized = stage("quantize", stages.quantize, prepared)
    _remark(prepared, quantized, context)
    lowered = stage("lower", stages.lower, quantized)
    deploy = lowered.with_metadata(**{TARGET_KEY.replace(".", "__"): profile.name, FUSION_KEY.replace(".", "__"): "on"})
    integer = compiled(deploy, profile)
    comparison = Comparison()
    if source is not None:
        compared = source.limited(0, max(compare_samples, source.smallest_batch))
        comparison = compare(prepared, quantized, integer, compared, profile, progress, provider=provider)
    clock.lap("compare")
    report = build_report(
        model=graph.name if read_from is None else fspath(read_from), pipeline=str(stages), preprocess=preprocess,
        atc=atc_command(deploy, profile), target=profile,
        float_graph=prepared, qdq_graph=quantized, integer_graph=integer, comparison=comparison,
        bytes_before=max(_weight_bytes(graph), 0 if read_from is None else Path(read_from).stat().st_size),
        bytes_after=saved_size(deploy, FILES["deploy"], external_data_threshold=external_data_threshold),
        notes=context.notes, passes=records,
    )  # fmt: skip
    report = replace(report, steps=settled.report)
    result = Compression(prepared, quantized, deploy, integer, report, {}, clock.seconds, settled.seconds)
    if out is not None:
        result = written(result, out, external_data_threshold=external_data_threshold)
    if context.checkpoint is not None:
        context.checkpoint.remove()
    clock.lap("write")
    return result


def written(
    result: Compression, out: AnyPath, *, external_data_threshold: int = EXTERNAL_ABOVE,
    texts: Mapping[str, str] | None = None,
) -> Compression:  # fmt: skip
    """The compression with its files, and ``texts`` by file name, in the folder ``out``: all or none."""
    with output_folder(out) as output:
        for key, saved in (("deploy", result.deploy_graph), ("fakequant", result.qdq_graph)):
            save_into(output, FILES[key], saved, external_data_threshold=external_data_threshold)
        records = record_text(result.qdq_graph) if layer_records(result.qdq_graph) else ""
        for name, text in ((FILES["record"], records), *(texts or {}).items(),
                           (FILES["report"], result.report.to_json())):  # fmt: skip
            output.write_text(name, text)
    return replace(result, files={key: Path(out) / name for key, name in FILES.items()})


def _remark(graph: Graph, quantized: Graph, context: Context) -> None:
    """Note what is out of the ordinary about the model, prepared and then quantized."""
    layers, carried = [op for op in graph.ops if isinstance(op.kind, nn.Layer)], list(carried_weights(quantized))
    if not layers:
        context.note("compress", graph.name, _without_layers(quantized, bool(carried)))
    for name, remark in (*carried, *random_ops(graph)):
        context.note("compress", name, remark)
    if wide := {str(op.result.type.elem) for op in layers} & {"f16", "f64", "bf16"}:
        context.note("compress", graph.name, f"only float32 layers are quantized, and the model computes in "
                     f"{', '.join(sorted(wide))}: export it in float32")  # fmt: skip
    if graph_kind(graph) == "qdq":
        context.note("compress", graph.name, "its quantizers came with the model: nothing was calibrated")
        for op in layers:
            if not any(map(_dequantized, op.operands)):
                context.note("compress", layer_name(op), "left in float: the model brings no quantizers for it")


def _without_layers(quantized: Graph, carried: bool) -> str:
    """What becomes of a model without a layer that the target could compute in integers."""
    if any(stored_in_integers(op) for op in quantized.ops):
        return "no layer to compute in integers: weights alone are stored in them"
    why = "all layers with weights are carried" if carried else "the model has no layer with weights"
    return f"nothing to quantize: {why}"


def _dequantized(value: Value | None) -> bool:
    return value is not None and value.producer is not None and isinstance(value.producer.kind, quant.Dequantize)


class _Clock:
    """Seconds per stage, for people only: timings never go into files."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _stages(preset: str | Preset, graph: Graph, read_from: AnyPath | None) -> Preset:
    """The pipelines for this kind of model."""
    kind, stages = graph_kind(graph), preset if isinstance(preset, Preset) else load_preset(preset)
    if kind == "deploy":
        where = None if read_from is None else fspath(read_from)
        raise UnsupportedError(
            "a deploy model is quantized already", where=where, remedy="compress the float model it was made from"
        )
    return stages.adopting() if kind == "qdq" else stages


def _weight_bytes(graph: Graph) -> int:
    datas = (constant_data(op.results[0]) for op in graph.ops)
    return sum(d.nbytes for d in datas if d is not None)


def atc_command(graph: Graph, target: Profile) -> str:
    """The command line that compiles the deploy file for the target, run beside it; symbolic sizes are set to 1."""
    shapes = ";".join(
        f"{i.name}:{','.join(str(d) if isinstance(d, int) else '1' for d in i.type.dims)}" for i in graph.inputs
    )
    images = any(i.type.shape is not None and len(i.type.shape) == 4 for i in graph.inputs)
    layout = "NCHW" if images else "ND"
    return (
        f"atc --framework=5 --model={FILES['deploy']} --output=model "
        f'--soc_version={target.soc_version} --input_format={layout} --input_shape="{shapes}"'
    )


def open_samples_for(
    model: Session | Graph,
    path: AnyPath,
    *,
    preprocess: str | Preprocess | None = None,
    labels: AnyPath | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    input_shape: str | None = None,
    data_types: str | None = None,
) -> Samples:
    """Samples at ``path`` in the form a model wants; see :func:`amctc.calibrate.samples.open_samples`."""
    inputs = model.inputs if isinstance(model, Session) else input_specs(model)
    parsed = Preprocess.parse(preprocess) if isinstance(preprocess, str) else preprocess
    return open_samples(
        path, inputs, preprocess=parsed, labels=labels, batch_size=batch_size, limit=limit, input_shape=input_shape,
        data_types=data_types,
    )  # fmt: skip


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

"""The report of a compression as plain data: deterministic, serializable, without timings."""

from __future__ import annotations

from dataclasses import dataclass, field

from amctc.report.json_text import json_text
from amctc.report.precision import PrecisionReport
from amctc.report.steps import StepReport


@dataclass(frozen=True)
class LayerReport:
    """One layer: a weight op of the user's model, or an average pool computed in integers.

    ``action`` is ``int8``, ``weight-only`` (integer weights under float data) or ``float``; ``notes`` say why it stayed
    in float or what was adjusted. Bytes count weight, bias and parameters. ``macs`` are for one sample, ``None`` where
    a size is not known. ``sqnr_db`` is of the layer's output, integer run against float. ``steps_max`` and
    ``steps_share`` compare the layer's quantized input between the integer run and the QDQ model (N5): largest
    difference in steps, share of elements that differ. ``edge`` tells how the output leaves: ``requant`` (int8, fused),
    ``dequant`` (float16), ``dequant-rows`` (float16, a step per row, N13), or ``float``. ``time_us`` is the estimate
    for one sample on the target. ``weight_bits`` are those of a weight stored in integers.
    """

    name: str
    op_type: str
    action: str
    notes: tuple[str, ...]
    fused: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    macs: int | None
    sqnr_db: float | None
    steps_max: int | None
    steps_share: float | None
    edge: str
    time_us: float | None
    weight_bits: int | None = None


@dataclass(frozen=True)
class ChoiceReport:
    """An arithmetic choice of the target that is not certain ([D] documented, [I] inferred) and was used."""

    name: str
    value: str
    tag: str
    rule: str


@dataclass(frozen=True)
class CompressionReport:
    """What ``compress`` did to a model.

    ``output_sqnr_db`` and ``agreement`` compare the outputs of the integer run with the ``reference`` (the ``float``
    model, or the ``QDQ`` model where the quantizers came with it) over ``samples`` samples (agreement: same largest
    element along the last axis). ``overflows`` counts accumulators outside int32 per layer (N7). ``preprocess`` names
    how samples were prepared, where that is known. ``time_us`` and ``float_time_us`` are estimates for one sample on
    the target. ``passes`` lists the pipeline with rewrites fired. ``precision`` tells how the precision of layers was
    chosen, and ``steps`` which steps of the preset helped, where that was tried.
    """

    model: str
    target: str
    pipeline: str
    preprocess: str | None
    samples: int
    layers: tuple[LayerReport, ...]
    float_ops: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    output_sqnr_db: float | None
    agreement: float | None
    overflows: tuple[tuple[str, int], ...]
    time_us: float | None
    float_time_us: float | None
    passes: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    choices: tuple[ChoiceReport, ...]
    notes: tuple[str, ...]
    atc: str
    reference: str = "float"
    precision: PrecisionReport | None = field(default=None, metadata={"optional": True})
    steps: StepReport | None = field(default=None, metadata={"optional": True})

    def to_json(self) -> str:
        """The report as JSON text; infinities as strings, keys in field order, the same bytes for the same run."""
        return json_text(self)


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on samples. Shares lie in [0, 1]; ``None`` where there is nothing to compare with.

    ``agreement`` and ``sqnr_db`` are against the float reference. ``score`` is what the evaluator ``metric`` gave, and
    ``samples`` is 0 for one that has its own.
    """

    samples: int
    top1: float | None
    top5: float | None
    agreement: float | None
    sqnr_db: float | None
    metric: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class VariantResult:
    """A run with one choice that is not certain made differently (N26).

    ``choice`` is set to ``value`` in place of ``default``; ``tag`` and ``rule`` say how well it is known and by which
    rule. Shares are of samples: ``same`` have the same bits in the first output as the run without changes, and in
    ``same_class`` its largest element is the same. ``agreement`` and ``sqnr_db`` are against the float reference,
    ``None`` without one. ``simulated`` is false for a value that no kernel computes: then every share is ``None``.
    """

    choice: str
    value: str
    default: str
    tag: str
    rule: str
    simulated: bool = True
    same: float | None = None
    same_class: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None

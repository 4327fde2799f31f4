"""What measuring and choosing the precision of layers found, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from amctc.report.json_text import json_text


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer does to the outputs with ``candidate``, over samples that calibrated nothing.

    ``mode`` is ``one-in``: it alone is quantized, weights and data; or ``one-out``: all are but this one. ``sqnr_db``,
    ``mse``, ``cosine`` and ``kl`` (nats, of softmax outputs) compare the outputs with the float model's, ``agreement``
    is the share of equal largest elements; ``score`` is the evaluator's. ``loss`` is what the ranking is by: the noise
    over the signal for ``sqnr``, one minus the cosine, or how far a score fell.
    """

    layer: str
    op_type: str
    macs: int | None
    candidate: str
    mode: str
    loss: float
    sqnr_db: float
    mse: float
    cosine: float
    kl: float
    agreement: float | None
    score: float | None


@dataclass(frozen=True)
class SensitivityReport:
    """The sensitivity of every layer that can be quantized, by ``metric``, the most sensitive first in each mode.

    The last ``held_back`` samples were measured on, those before them, ``calibrated``, gave the ranges.
    """

    target: str
    preset: str
    metric: str
    calibrated: int
    held_back: int
    layers: tuple[LayerSensitivity, ...]

    def to_json(self) -> str:
        """The report as JSON text; the same bytes for the same run."""
        return json_text(self)


@dataclass(frozen=True)
class Trial:
    """A model with a precision for each layer (``assignment``), and what it costs and loses.

    ``bytes`` are of constants in the target's memory, ``time_us`` is the estimate for one sample. ``predicted_db`` is
    the SQNR that the sum of the layers' noises promises; ``sqnr_db``, ``agreement`` and ``top1`` are measured with the
    integer model on the samples that were held back.
    """

    name: str
    assignment: Mapping[str, str]
    bytes: int
    time_us: float | None
    predicted_db: float | None
    sqnr_db: float
    agreement: float | None
    top1: float | None
    score: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many layers have each candidate."""
        return dict(sorted(Counter(self.assignment.values()).items()))


@dataclass(frozen=True)
class LayerPrecision:
    """The precision ``chosen`` for a layer, and the outputs' SQNR in dB with it alone in each candidate."""

    layer: str
    chosen: str
    alone_db: Mapping[str, float]


@dataclass(frozen=True)
class PrecisionReport:
    """How the precision of layers was chosen for ``goal``.

    ``reached`` says whether the result meets it, ``kept`` which of ``trials`` it is; ``remarks`` are for people.
    ``front`` are the choices of which none costs no more and loses no more than another, from the cheapest on.
    """

    goal: str
    reached: bool
    kept: str
    remarks: tuple[str, ...]
    calibrated: int
    held_back: int
    layers: tuple[LayerPrecision, ...]
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...] = ()

    @property
    def floats(self) -> frozenset[str]:
        """Layers that were chosen to stay in float."""
        return frozenset(layer.layer for layer in self.layers if layer.chosen == "f16")

    def front_json(self) -> str:
        """The front as JSON text."""
        return json_text(self.front)

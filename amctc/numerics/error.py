"""How far a quantized result is from its reference: SQNR, cosine similarity, mean squared error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray, Float64Array, require_finite

_CHUNK = 1 << 16
"""Elements converted to float64 at a time: bounds the temporaries to about 1 MB, and stays in L2 cache."""


def sqnr_db(reference: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Signal to quantization noise ratio 10·log10(Σ ref² / Σ (ref − act)²) in dB, in float64.

    ``inf`` when the arrays are equal (also when both are empty), ``-inf`` when the reference is all zero and the
    other is not, and when ``actual`` holds NaN or an infinity. Raises InputError for a reference that is not
    finite or of another shape.
    """
    return ErrorStatistics().updated(reference, actual).sqnr_db


@dataclass(frozen=True)
class ErrorStatistics:
    """Running error sums over pairs of arrays; an immutable value, one per compared tensor.

    ``signal_energy`` is Σ ref², ``actual_energy`` Σ act², ``noise_energy`` Σ (ref − act)², ``dot`` Σ ref·act and
    ``max_abs_error`` max |ref − act|, all float64. Values of ``actual`` that are not finite make the noise infinite.
    """

    count: int = 0
    signal_energy: float = 0.0
    actual_energy: float = 0.0
    noise_energy: float = 0.0
    dot: float = 0.0
    max_abs_error: float = 0.0

    def updated(self, reference: npt.ArrayLike, actual: npt.ArrayLike) -> ErrorStatistics:
        """These statistics with one more pair of arrays of equal shape; raises InputError otherwise."""
        ref, act = np.asarray(reference), np.asarray(actual)
        if ref.shape != act.shape:
            raise InputError(f"reference of shape {ref.shape} compared with {act.shape}")
        ref, act = ref.reshape(-1), act.reshape(-1)
        result = self
        for start in range(0, ref.size, _CHUNK):
            result = result.merged(_chunk_statistics(ref[start : start + _CHUNK], act[start : start + _CHUNK]))
        return result

    def updated_where_finite(self, reference: npt.ArrayLike, actual: npt.ArrayLike) -> ErrorStatistics:
        """As :meth:`updated`, without elements where the reference is NaN or infinite: masked scores, log of 0."""
        ref, act = np.asarray(reference), np.asarray(actual)
        finite = np.isfinite(ref)
        if ref.shape != act.shape or finite.all():
            return self.updated(ref, act)
        return self.updated(ref[finite], act[finite])

    def merged(self, other: ErrorStatistics) -> ErrorStatistics:
        """The statistics of both sets of pairs together (sums in float64: the order can move the last bits)."""
        return ErrorStatistics(
            self.count + other.count,
            self.signal_energy + other.signal_energy,
            self.actual_energy + other.actual_energy,
            self.noise_energy + other.noise_energy,
            self.dot + other.dot,
            max(self.max_abs_error, other.max_abs_error),
        )

    @property
    def sqnr_db(self) -> float:
        """Signal to noise ratio in dB; see :func:`sqnr_db` for the infinite cases."""
        if self.noise_energy == 0.0:
            return math.inf
        if self.signal_energy == 0.0 or math.isinf(self.noise_energy):
            return -math.inf
        # The difference of logarithms cannot overflow where the quotient of the energies could.
        return 10.0 * (math.log10(self.signal_energy) - math.log10(self.noise_energy))

    @property
    def cosine(self) -> float:
        """Cosine similarity in [-1, 1]; 1 when both sides are zero, 0 when one is or when actual is not finite."""
        if self.signal_energy == 0.0 and self.actual_energy == 0.0:
            return 1.0
        if self.signal_energy == 0.0 or self.actual_energy == 0.0 or math.isinf(self.noise_energy):
            return 0.0
        norm = math.sqrt(self.signal_energy) * math.sqrt(self.actual_energy)
        return max(-1.0, min(1.0, self.dot / norm))

    @property
    def mse(self) -> float:
        """Mean squared error, in the square of the tensor's unit; 0 without data."""
        return self.noise_energy / self.count if self.count else 0.0


def _chunk_statistics(reference: AnyArray, actual: AnyArray) -> ErrorStatistics:
    # Sums of products by NumPy, not BLAS: a threaded dot product may add in another order on every run.
    ref: Float64Array = reference.astype(np.float64)
    act: Float64Array = actual.astype(np.float64)
    require_finite(ref, "the reference")
    if not np.isfinite(act).all():
        signal = float((ref * ref).sum())
        return ErrorStatistics(ref.size, signal, math.inf, math.inf, 0.0, math.inf)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        noise = ref - act
        noise_energy = float((noise * noise).sum())
        largest = float(np.abs(noise).max(initial=0.0))
        signal, energy, dot = (float((a * b).sum()) for a, b in ((ref, ref), (act, act), (ref, act)))
        return ErrorStatistics(ref.size, signal, energy, noise_energy, dot, largest)

"""IFMR ("input feature-map range"): the existing tool's search for the upper end of an activation range.

Source: calibration formulas (IFMR), read from ``custom_op/ifmr`` of AMCT; the candidate values were measured there
(61 ratios 0.70 … 1.30, both ends included). :func:`ifmr` works on raw values as the tool does, to the same scale and
offset; :func:`ifmr_from_histogram` is the streaming form.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError
from amctc.numerics._arrays import Float32Array, Float64Array, float32_array, require_finite
from amctc.numerics._even_bins import EvenBins
from amctc.numerics.affine import SMALLEST_SCALE
from amctc.numerics.histogram import Histogram
from amctc.numerics.linear import storage_range

_CHUNK = 1 << 16  # values quantized at a time: temporaries stay in L2 cache
_LANES = 8  # width of the vectors in which the tool's library generates an arithmetic sequence


class IfmrResult(NamedTuple):
    """Scale and offset (zero point), and the reals of the last and first code, all as the tool records them."""

    scale: np.float32
    offset: int
    clip_max: np.float32
    clip_min: np.float32


class _Candidates(NamedTuple):
    """Clipping bounds and scales to try, float32 [ratios]; ``ratios`` is the factor of the initial upper end."""

    ratios: Float32Array
    low: Float32Array
    high: Float32Array
    scale: Float32Array


def search_ratios(start: float = 0.7, end: float = 1.3, step: float = 0.01) -> Float32Array:
    """The factors tried, float32: what the tool's library makes of ``arange(start, end, step)``.

    There are ceil((end - start)/step) values in float64, which is 61 for the defaults: the end is included. Inside
    full pairs of 8-lane vectors value i is f32(f32(start + step·8·⌊i/8⌋) + (i mod 8)·step), afterwards
    f32(start + step·i) ("Facts seen while making them", 1). Raises InputError for an empty or endless sequence.
    """
    if not (0.0 < start < end < math.inf and step > 0.0):
        raise InputError(f"an IFMR search from {start} to {end} by {step} has no candidates")
    count = math.ceil((end - start) / step)
    i = np.arange(count)
    base = (start + step * _LANES * (i // _LANES)).astype(np.float32).astype(np.float64)
    vectors = (base + (i % _LANES) * step).astype(np.float32)
    in_vectors = i < 2 * _LANES * (count // (2 * _LANES))
    return np.where(in_vectors, vectors, (start + step * i).astype(np.float32))


def ifmr(
    x: npt.ArrayLike,
    *,
    bits: int = 8,
    symmetric: bool = False,
    max_percentile: float = 0.999999,
    min_percentile: float = 0.999999,
    search_start: float = 0.7,
    search_end: float = 1.3,
    search_step: float = 0.01,
) -> IfmrResult:
    """Scale and offset of the tool's IFMR on raw values ``x`` (any shape), computed as float32.

    Start: ``max`` is the k-th largest value with k = n - ⌊p·n⌋ (1 when 1 - p is below float32 epsilon), ``min``
    likewise, both widened to hold 0. Candidates: ``ratio·max`` with ``min`` fixed, or symmetric ``± ratio·max(|min|,
    |max|)``; scale = range/(2**n - 1), symmetric bound/(2**(n-1) - 1), or /2**(n-1) where |min| > |max|; below float32
    epsilon 1.0. Loss: Σ (RNE(clip(x, low, high)/s)·s - x)², quantized in float32, summed in float64; the bounds are
    the real ones, without offset and integer clip. The first best ratio wins.

    Raises InputError for no data, values that are not finite, percentiles outside (0, 1] and an empty search.
    """
    values = float32_array(x).reshape(-1)
    if not values.size:
        raise InputError("no range can be chosen: no data was observed")
    require_finite(values, "calibration data")
    at_top, at_bottom = (_rank(p, values.size) for p in (max_percentile, min_percentile))
    top = max(np.float32(0), np.partition(values, values.size - at_top)[values.size - at_top])
    bottom = min(np.float32(0), np.partition(values, at_bottom - 1)[at_bottom - 1])
    tried = _candidates(search_ratios(search_start, search_end, search_step), bottom, top, bits, symmetric)
    losses = np.zeros(tried.scale.size)
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK]
        for i, (low, high, step) in enumerate(zip(tried.low, tried.high, tried.scale, strict=True)):
            error = np.rint(np.clip(chunk, low, high) / step) * step - chunk
            losses[i] += np.square(error, dtype=np.float64).sum()
    scale = tried.scale[int(losses.argmin())]
    half = np.float32(1 << (bits - 1))
    offset = np.float32(0) if symmetric else -np.rint(bottom / scale) - half
    return IfmrResult(scale, int(offset), (half - 1 - offset) * scale, (half + offset) * -scale)


def ifmr_from_histogram(
    h: Histogram,
    *,
    bits: int = 8,
    symmetric: bool = False,
    max_percentile: float = 0.999999,
    min_percentile: float = 0.999999,
    search_start: float = 0.7,
    search_end: float = 1.3,
    search_step: float = 0.01,
) -> tuple[float, float]:
    """(low, high) that :func:`ifmr` would choose if the values were spread evenly over their bins.

    How close it is: the initial ends are within a bin of the raw ones (equal to them below a million values, where
    the default percentile is the extreme). A value moves by at most a bin, and the distance to a grid is 1-Lipschitz,
    so the root mean squared error of each candidate is within ``h.width`` of the one on the raw values; hence the
    chosen range is at most 2·width worse than the best of its candidates. Ratios of almost equal loss may swap.

    Exact zeros cost nothing and are left out. ``low`` and ``high`` are ready for
    :func:`amctc.numerics.affine.affine_parameters` (symmetric: both ends times the ratio) and may exceed the observed
    range by the largest ratio. Raises InputError as :func:`ifmr`.
    """
    if not h.count:
        raise InputError("no range can be chosen: no data was observed", remedy="run calibration first")
    top = max(0.0, _ranked(h, _rank(max_percentile, h.count), from_above=True))
    bottom = min(0.0, _ranked(h, _rank(min_percentile, h.count), from_above=False))
    ratios = search_ratios(search_start, search_end, search_step)
    tried = _candidates(ratios, np.float32(bottom), np.float32(top), bits, symmetric)
    edges, counts = np.clip(h.edges, h.low, h.high), h.counts.astype(np.float64)
    counts[h.half_bins] -= h.zeros
    step: Float64Array = tried.scale.astype(np.float64)
    first, last = np.rint(tried.low / step), np.rint(tried.high / step)
    at = int(EvenBins(edges[:-1], edges[1:], counts).rounding_loss(first * step, step, last - first + 1).argmin())
    ratio = float(tried.ratios[at])
    return (bottom * ratio if symmetric else bottom), top * ratio


def _candidates(ratios: Float32Array, bottom: np.float32, top: np.float32, bits: int, symmetric: bool) -> _Candidates:
    first, last = storage_range(bits)
    with np.errstate(over="ignore", under="ignore"):
        if symmetric:
            high = ratios * max(-bottom, top)
            low, scale = -high, high / np.float32(-first if -bottom > top else last)
        else:
            high = ratios * top
            low, scale = np.full_like(high, bottom), (high - bottom) / np.float32(last - first)
    if not np.isfinite(scale).all():
        raise InputError("the range of the data is beyond float32")
    return _Candidates(ratios, low, high, np.where(scale < SMALLEST_SCALE, np.float32(1), scale))


def _rank(percentile: float, count: int) -> int:
    """How many values lie at or beyond the initial end, counted from it; at least 1."""
    if not 0.0 < percentile <= 1.0:
        raise InputError(f"an IFMR percentile is in (0, 1], not {percentile}")
    if 1.0 - percentile < SMALLEST_SCALE:
        return 1
    return max(1, count - int(percentile * count))


def _ranked(h: Histogram, rank: int, *, from_above: bool) -> float:
    """The ``rank``-th value from one end: the extreme itself, or in the middle of its share of its bin."""
    if rank == 1:
        return h.high if from_above else h.low
    counts = h.counts[::-1] if from_above else h.counts
    upto = np.cumsum(counts)
    at = int(np.searchsorted(upto, rank))
    inside = (rank - 0.5 - (upto[at] - counts[at])) / counts[at]
    distance = (at + inside - h.half_bins) * h.width
    return min(max(float(-distance if from_above else distance), h.low), h.high)

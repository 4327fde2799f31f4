"""The int32 bias of an integer layer and the headroom of its accumulator (N8, N9, N10)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError, LimitError
from amctc.numerics._arrays import (
    BoolArray,
    Float32Array,
    Float64Array,
    Int64Array,
    float32_array,
    require_finite,
    require_positive_scales,
)
from amctc.numerics.linear import quantize_weight

ACTIVATION_MAGNITUDE = 128
"""Largest magnitude of an int8 activation code (N7, N9)."""

SCALE_LIMITS = (np.float32(2.2e-16), np.float32(4.5e15))
"""The scales that the record text accepts (N25)."""

_ACCUMULATOR_LIMIT = 1 << 31  # N9: |bias'| + 128·Σ|w| must stay below
_INT64_SAFE = float(1 << 62)  # keeps bias - zero_point·Σw inside int64
_DEAD_CHANNEL_EXPONENT = 23  # |bias_i32| < 2**23: exact in float32, far finer than the float16 result (N12)


def accumulator_scale(weight_scales: npt.ArrayLike, activation_scale: npt.ArrayLike) -> Float32Array:
    """The real value of one accumulator unit: float32 product scale_d · scale_w as on the wire (N11), [C] or [1].

    Raises InputError when the product is not finite and positive.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product = np.asarray(float32_array(weight_scales) * float32_array(activation_scale))
    require_positive_scales(product, "the product of weight and activation scale", "N11")
    return product


def quantize_bias(bias: npt.ArrayLike, scale: npt.ArrayLike) -> Int64Array:
    """RNE(bias / scale) as int64 (N9), with ``scale`` [C] or [1] from :func:`accumulator_scale`.

    Not clipped to int32: check with :func:`fits_int32` or :func:`has_headroom`. Only quotients beyond 2**62 are cut
    there, so that sums with them stay inside int64. The float64 quotient of two float32 numbers rounds as the exact
    one for results below 2**28 (24 + 29 = 53 significant bits separate it from every tie); above, the error is at most
    one unit in 2**28.

    Raises InputError for values that are not finite or scales that are not positive.
    """
    biases, scales = np.asarray(bias, np.float64), np.asarray(scale, np.float64)
    require_finite(biases, "the bias", "N9")
    require_positive_scales(scales, "the bias scale", "N9")
    with np.errstate(over="ignore", under="ignore"):
        quotient = np.rint(biases / scales)
    return np.asarray(np.clip(quotient, -_INT64_SAFE, _INT64_SAFE)).astype(np.int64)


def fits_int32(x: npt.ArrayLike) -> BoolArray:
    """Element by element: is this integer an int32? (N7, N9)."""
    values = np.asarray(x)
    return np.asarray((values >= -_ACCUMULATOR_LIMIT) & (values < _ACCUMULATOR_LIMIT), dtype=np.bool_)


def has_headroom(
    bias_i32: Int64Array, weight_sum: Int64Array, weight_abs_sum: Int64Array, zero_point: int
) -> BoolArray:
    """Per channel: can no input overflow the int32 accumulator? All arrays are [C] int64; the result is [C].

    |bias'| + 128·Σ|w| < 2**31 with bias' = bias_i32 - zero_point·Σw (N8, N9). The unfolded ``bias_i32`` that the file
    stores is then an int32 too: |zero_point·Σw| ≤ 128·Σ|w|, so |bias_i32| ≤ |bias'| + 128·Σ|w|.
    """
    folded = bias_i32 - zero_point * weight_sum
    return np.asarray(np.abs(folded) + ACTIVATION_MAGNITUDE * weight_abs_sum < _ACCUMULATOR_LIMIT, dtype=np.bool_)


def rescue_weight_scales(
    weight: npt.ArrayLike,
    scales: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    *,
    activation_scale: float | np.float32,
    zero_point: int,
    axis: int,
    bits: int = 8,
) -> tuple[Float32Array, BoolArray]:
    """Weight scales raised just enough that no accumulator can overflow (N9), and which channels needed it.

    ``weight`` holds the real weights with the output channel at ``axis`` (C channels), ``scales`` is [C] or, for a
    per-tensor weight, [1]; ``bias`` is the real bias [C] or None; ``activation_scale`` and ``zero_point`` are those
    of the int8 input. A channel passes when :func:`has_headroom` holds for its quantized weights and bias.

    Returns (new scales, of the shape given; bool [C], the channels that did not pass with the old scales). With one
    scale the worst channel raises it for all. The caller requantizes the weights with the new scales and may prefer
    to leave the layer in float. The raise exceeds the smallest sufficient one by no more than a factor of
    1 + 2**-21 plus twice the rounding of the weights (K / 2**23 for K weights per channel).

    Raises LimitError when a scale above 4.5e15 (N25) would be needed, InputError as the functions it uses.
    """
    rows = _channel_rows(weight, axis)
    given = np.atleast_1d(float32_array(scales))
    biases = np.zeros(len(rows)) if bias is None else np.asarray(bias, np.float64).reshape(-1)
    if given.size not in (1, len(rows)) or biases.size != len(rows):
        raise InputError(f"{given.size} scales and {biases.size} biases for {len(rows)} channels", rule="N9")
    shared = given.size == 1
    needed = _needed_scale(rows, biases, float(activation_scale), zero_point)
    current = np.broadcast_to(given, len(rows)).copy()
    failing = ~_passes(rows, biases, current, activation_scale, zero_point, bits)
    rescued = failing.copy()
    growth = 2.0**-22
    while failing.any():
        at = np.flatnonzero(failing)
        raised = np.maximum(needed, current)[at] * (1.0 + growth)
        if not (raised <= SCALE_LIMITS[1]).all():
            raise LimitError(
                f"no weight scale up to {SCALE_LIMITS[1]:g} keeps the int32 accumulator from overflowing",
                remedy="leave the layer in float, or calibrate its input again (its scale is very small)",
                rule="N9",
            )
        # Rounded up, so that a raise below half a float32 unit still makes progress.
        current[at] = np.nextafter(raised.astype(np.float32), np.float32(np.inf))
        if shared:
            current[:] = current.max()
            failing = ~_passes(rows, biases, current, activation_scale, zero_point, bits)
        else:
            failing[at] = ~_passes(rows[at], biases[at], current[at], activation_scale, zero_point, bits)
        growth *= 2.0
    return current[: given.size], rescued


def bias_scale_for_dead_channel(bias: npt.ArrayLike, activation_scale: float | np.float32) -> Float32Array:
    """Weight scales [C] for channels whose weights are (nearly) zero, chosen so that the bias stays fine (N10).

    The existing tool gives a dead channel scale 1.0, which makes the step of its bias as coarse as scale_d. Here the
    scale puts |bias_i32| at about 2**22 … 2**23, and the product scale_d · scale_w just at or above a power of two,
    which the truncation of the fixpipe multiplier (N12) leaves unchanged to 2**-22. A zero bias gets scale 1.0;
    results stay inside the limits of N25.

    The caller quantizes such weights to zero, or, to keep tiny weights, takes
    ``max(this scale, weight scale)``. Raises InputError for values that are not finite or scales not positive.
    """
    biases = np.asarray(bias, np.float64)
    require_finite(biases, "the bias", "N10")
    activation = np.float32(activation_scale)
    require_positive_scales(np.asarray(activation), "the activation scale", "N10")
    step = np.ldexp(1.0, np.frexp(biases)[1] - _DEAD_CHANNEL_EXPONENT)
    scale = _smallest_with_product(step, activation)
    scale = np.where(biases == 0.0, np.float32(1.0), scale)
    return np.asarray(np.clip(scale, *SCALE_LIMITS), dtype=np.float32)


def _smallest_with_product(target: Float64Array, factor: np.float32) -> Float32Array:
    """A float32 s, the smallest within one unit, whose float32 product with ``factor`` is at least ``target``."""
    with np.errstate(over="ignore", under="ignore"):
        s = np.asarray(target / np.float64(factor)).astype(np.float32)
        # s is within half a unit of the quotient, so one step up always reaches the target.
        return np.where(s * factor < target, np.nextafter(s, np.float32(np.inf)), s)


def _channel_rows(weight: npt.ArrayLike, axis: int) -> Float32Array:
    values = float32_array(weight)
    if not -values.ndim <= axis < values.ndim:
        raise InputError(f"channel axis {axis} is outside a weight of rank {values.ndim}")
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _needed_scale(rows: Float32Array, bias: Float64Array, activation_scale: float, zero_point: int) -> Float64Array:
    """The scale at which |bias'| + 128·Σ|w| is 2**31 in real arithmetic: all its terms are proportional to 1/scale."""
    with np.errstate(over="ignore"):
        bias_part = bias / activation_scale - zero_point * rows.sum(axis=1, dtype=np.float64)
        weight_part = ACTIVATION_MAGNITUDE * np.abs(rows).sum(axis=1, dtype=np.float64)
        return np.asarray((np.abs(bias_part) + weight_part) / _ACCUMULATOR_LIMIT)


def _passes(
    rows: Float32Array,
    bias: Float64Array,
    scales: Float32Array,
    activation_scale: float | np.float32,
    zero_point: int,
    bits: int,
) -> BoolArray:
    codes = quantize_weight(rows, scales, axis=0, bits=bits)
    weight_sum = codes.sum(axis=1, dtype=np.int64)
    weight_abs_sum = np.abs(codes.astype(np.int16)).sum(axis=1, dtype=np.int64)
    bias_i32 = quantize_bias(bias, accumulator_scale(scales, activation_scale))
    return has_headroom(bias_i32, weight_sum, weight_abs_sum, zero_point)

"""Array types and input checks shared by the modules of this package."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from amctc.errors import InputError

AnyArray: TypeAlias = npt.NDArray[Any]
Float16Array: TypeAlias = npt.NDArray[np.float16]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int8Array: TypeAlias = npt.NDArray[np.int8]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


def float32_array(x: npt.ArrayLike) -> Float32Array:
    """``x`` as float32; values beyond the float32 range become infinite without a warning."""
    if isinstance(x, np.ndarray) and x.dtype == np.float32:
        return x
    with np.errstate(over="ignore"):
        return np.asarray(x, dtype=np.float32)


def require_finite(x: AnyArray, what: str, rule: str | None = None) -> None:
    """Raise :class:`InputError` when ``x`` holds NaN or an infinity; ``what`` names the array."""
    finite = np.isfinite(x)
    if not finite.all():
        raise InputError(
            f"{what} holds {int(finite.size - np.count_nonzero(finite))} values that are NaN or infinite",
            remedy="check the model and the calibration data for overflow",
            rule=rule,
        )


def require_positive_scales(scale: AnyArray, what: str, rule: str | None = None) -> None:
    """Raise :class:`InputError` unless every element of ``scale`` is finite and greater than zero (N25)."""
    require_finite(scale, what, rule)
    if not (scale > 0).all():
        raise InputError(f"{what} must be greater than zero", rule=rule)


def per_block(values: AnyArray, shape: tuple[int, ...], axis: int, block: int) -> AnyArray:
    """``values``, one for each ``block`` elements along ``axis`` of an array of ``shape``, repeated to that shape.

    They come in row-major order of an array of ``shape`` whose ``axis`` counts the blocks.
    """
    blocks = (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
    if values.size != math.prod(blocks):
        raise InputError(f"{values.size} values for blocks of {block} along axis {axis} of {list(shape)}")
    kept = (slice(None),) * axis + (slice(shape[axis]),)
    return np.repeat(values.reshape(blocks), block, axis)[kept]


def along_axis(values: AnyArray, ndim: int, axis: int | None) -> AnyArray:
    """Per-channel ``values`` ([C], [1] or scalar) reshaped to broadcast over ``axis`` of an array of rank ``ndim``."""
    if values.size == 1:
        return values.reshape(())
    if axis is None or values.ndim != 1:
        raise InputError(f"values of shape {values.shape} need the channel axis they belong to")
    if not -ndim <= axis < ndim:
        raise InputError(f"axis {axis} is outside an array of rank {ndim}")
    shape = [1] * ndim
    shape[axis] = values.size
    return values.reshape(shape)

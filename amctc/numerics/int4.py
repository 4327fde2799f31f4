"""Four-bit integers, two to a byte: the low nibble is the even index along the packed axis (N4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from amctc.errors import InputError
from amctc.numerics._arrays import AnyArray


def pack_int4(values: AnyArray, axis: int) -> NDArray[np.int8]:
    """int8 bytes with ``axis`` halved, from integers in [-8, 7].

    Raises InputError for an odd length along ``axis`` and for values that four bits do not hold.
    """
    length = values.shape[axis]
    if length % 2:
        raise InputError(f"{length} int4 values along axis {axis} do not fill bytes", rule="N4")
    if values.size and not -8 <= int(values.min()) <= int(values.max()) <= 7:
        raise InputError(f"int4 values in [{values.min()}, {values.max()}]", rule="N4")
    nibbles = np.moveaxis(values.astype(np.uint8) & 15, axis, -1)
    packed = (nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)).view(np.int8)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis))


def unpack_int4(packed: AnyArray, axis: int) -> NDArray[np.int8]:
    """Integers in [-8, 7] with ``axis`` doubled; the inverse of :func:`pack_int4`."""
    bytes_ = np.moveaxis(packed.astype(np.int8, copy=False), axis, -1)
    # Shifting left first puts the low nibble's sign where the arithmetic shift right finds it.
    pairs = np.stack([np.left_shift(bytes_, 4) >> 4, bytes_ >> 4], axis=-1)
    values = pairs.reshape(*bytes_.shape[:-1], 2 * bytes_.shape[-1])
    return np.ascontiguousarray(np.moveaxis(values, -1, axis))

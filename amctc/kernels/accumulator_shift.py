"""The shift N of a parameter word, which the accumulator goes through before it meets the multiplier (N16)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amctc.kernels.tiles import map_tiles

Array = NDArray[Any]
Int32 = NDArray[np.int32]

INT32_SIGN = 31
"""From this shift on only the sign is left."""


def shifted(acc: Int32, shift: ArrayLike, channel_axis: int) -> Int32:
    """What the multiplier meets (N16): saturate16(acc >> shift), arithmetic; ``acc`` itself where no shift is set.

    ``shift`` has one element or one per channel. As soon as one channel has a shift, those of shift 0 saturate to
    int16 as well: the unit works on all of them in one mode [I].
    """
    shifts: Array = np.minimum(np.asarray(shift, np.int32), np.int32(INT32_SIGN))
    if not shifts.any():
        return acc

    def step(tile: Int32, out: Int32, shift: Int32) -> None:
        np.clip(tile >> shift, -32768, 32767, out=out)

    return map_tiles(step, acc, np.int32, shifts, channel_axis=channel_axis)


def shift_of_field(field: Array, *, plus_one: bool) -> Array:
    """The shift that the field N of a parameter word stands for (N16).

    The vendor's script shifts by the field itself; its text says that 0 to 15 mean 1 to 16 (``plus_one``). A field of
    0 is no shift in either reading, or every published example of this word would be wrong [I].
    """
    return np.where(field > 0, field + 1, 0) if plus_one else field

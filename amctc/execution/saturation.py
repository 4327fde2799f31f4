"""Which clips a quantizer makes superfluous, because it saturates no later than they clip."""

from __future__ import annotations

import math

import numpy as np

from amctc.ir import Op
from amctc.kernels.ascend_table import ascend_table
from amctc.ops import ascend, nn
from amctc.targets import Profile


def saturates_within(quant: Op, clip: Op, profile: Profile) -> bool:
    """Whether ``quant`` (int8, of float16) gives of any number what it gives of the number after ``clip``.

    Multiplying by a positive scale, adding, rounding and saturating are all monotone, so where the ends of the clip
    (a relu has the ends 0 and infinity) give the ends of int8, what lies beyond gives these too. NaNs have no order:
    it does not speak of them.
    """
    if not isinstance(clip.kind, nn.Clip | nn.Relu):
        return False
    ends = (clip.kind.low, clip.kind.high) if isinstance(clip.kind, nn.Clip) else (0.0, math.inf)
    with np.errstate(over="ignore"):
        halves = np.array(ends, np.float16)
    given = ascend_table(profile)[ascend.Quant](quant, [None])(halves)
    return bool(np.array_equal(given, [-128, 127]))

"""What the constant operand of a dequantizer or requantizer says to a profile's chip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from amctc.kernels.accumulator_shift import shift_of_field
from amctc.numerics.fixed_point import unpack_dequant, unpack_requant
from amctc.numerics.rounding import round_multiplier, truncate_multiplier
from amctc.ops import ascend
from amctc.targets import Profile
from amctc.types import Array


class DequantParameters(NamedTuple):
    """Float32 ``scale`` and ``shift`` (N16), one element or one per channel."""

    scale: Array
    shift: Array

    def multiplier(self, profile: Profile) -> Array:
        """The scale in the form in which the chip multiplies (N12, N13)."""
        forms = {"truncate": truncate_multiplier, "round": round_multiplier}
        form = forms.get(profile.dequant_multiplier)
        return self.scale if form is None else form(self.scale)


class RequantParameters(NamedTuple):
    """Multipliers of accumulators from 0 on and (``None``: the same) below, int9 ``offset``, and ``shift`` (N16)."""

    multiplier: Array
    negative: Array | None
    offset: Array
    unsigned: bool
    shift: Array


NO_SHIFT = np.zeros(1, np.int64)


def quant_factors(kind: ascend.Quant, profile: Profile) -> tuple[float, ...]:
    """What a quantizer in float32 multiplies by, one after the other (N2)."""
    if kind.sqrt_mode and profile.sqrt_mode_squares:  # the host multiplies, in float32
        return (float(np.float32(kind.scale) * np.float32(kind.scale)),)
    return (kind.scale,) * (1 + kind.sqrt_mode)


def dequant_parameters(kind: ascend.Dequant, parameter: Array, profile: Profile) -> DequantParameters:
    """Of a float32 scale, or of packed words (N11); divided by the positions of a pool's window in float32 (N26)."""
    scale, shift = parameter, NO_SHIFT
    if parameter.dtype == np.uint64:
        scale, field, _ = unpack_dequant(parameter)
        shift = _shift(field, profile)
    return DequantParameters(scale / np.float32(kind.divisor), shift)


def requant_parameters(kind: ascend.Requant, parameter: Array, profile: Profile) -> RequantParameters:
    """Of a float32 multiplier with the op's offset, or of packed words; truncated (N17, N18)."""
    multiplier, offset, unsigned, shift = parameter, np.asarray(kind.offset), False, NO_SHIFT
    if parameter.dtype == np.uint64:
        multiplier, offset, signed, field = unpack_requant(parameter)
        unsigned, shift = not bool(signed.all()), _shift(field, profile)
    multiplier = truncate_multiplier(multiplier)
    negative = None if kind.slope == 1.0 else truncate_multiplier(np.float32(kind.slope) * multiplier)
    return RequantParameters(multiplier, negative, offset, unsigned, shift)


def _shift(field: Array, profile: Profile) -> Array:
    return shift_of_field(field, plus_one=profile.shift_field == "n_plus_1")

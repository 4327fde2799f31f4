"""From what was observed to a quantized type: method, symmetry, and the relu6 rule of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from amctc.errors import UsageError
from amctc.intervals import Interval
from amctc.numerics import thresholds
from amctc.numerics.affine import affine_parameters
from amctc.ops import quant
from amctc.types import I4, I8, I16, QuantizedType

Method = Literal["mse", "percentile", "min-max", "entropy", "ifmr", "hfmg", "moving-average"]

STORAGE = {4: I4, 8: I8, 16: I16}


@dataclass(frozen=True)
class Scheme:
    """How an activation is quantized: bits of storage, symmetric around zero or not, and how its range is chosen."""

    bits: int
    symmetric: bool
    method: Method
    percentile: float

    def quantized_type(self, seen: quant.Observe, bounds: Interval) -> QuantizedType:
        """The per-tensor type for values that were observed so and are known to lie within ``bounds``.

        Raises :class:`UsageError` for a moving average that was not observed.
        """
        return type_of_range(*self._range(seen), bounds, bits=self.bits, symmetric=self.symmetric)

    def _range(self, seen: quant.Observe) -> tuple[float, float]:
        if self.method == "moving-average":
            if not seen.average:
                remedy = "write observe{moving-average}, or --set observe.moving-average=true"
                raise UsageError("no moving average was observed", remedy=remedy)
            return seen.average[0], seen.average[1]
        searched: dict[str, float] = {"bits": self.bits, "symmetric": self.symmetric}
        options = {"min-max": {}, "percentile": {"p": self.percentile}}.get(self.method, searched)
        return thresholds.METHODS[self.method](seen.histogram, **options)


RELU6 = 6.0


def type_of_range(low: float, high: float, bounds: Interval, *, bits: int, symmetric: bool) -> QuantizedType:
    """The per-tensor type whose integers span ``low`` to ``high``, for values known to lie within ``bounds``."""
    scale, zero_point = affine_parameters(low, high, bits=bits, symmetric=symmetric)
    if bounds.low >= 0 and bounds.high == RELU6:
        scale = below_relu6(scale, zero_point, bits)
    return QuantizedType.per_tensor(float(scale), zero_point, STORAGE[bits])


def relu6_is_relu(scale_attribute: float, offset: int, bits: int = 8) -> bool:
    """N19: the quantizer saturates below 6, so Relu6 before it may be a Relu: (127 - offset) / scale < 6 in float32.

    ``scale_attribute`` is AscendQuant's, the reciprocal of the step.
    """
    top = np.float32((1 << (bits - 1)) - 1 - offset)
    return bool(top / np.float32(scale_attribute) < np.float32(RELU6))


def below_relu6(scale: np.float32, zero_point: int, bits: int) -> np.float32:
    """The largest float32 step not above ``scale`` whose quantizer saturates strictly below 6 (N19).

    Only a step that reaches 6 by rounding is lowered, by a few units in the last place; one that reaches well past 6
    (a range wider than the activation, which no observation gives) is left alone.
    """
    candidate = scale
    for _ in range(64):
        with np.errstate(divide="ignore"):
            reciprocal = np.float32(1.0) / candidate
        if relu6_is_relu(float(reciprocal), zero_point, bits):
            return candidate
        candidate = np.nextafter(candidate, np.float32(0))
    return scale

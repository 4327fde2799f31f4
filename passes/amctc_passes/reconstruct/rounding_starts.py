"""Where the learning of a layer's rounding starts, and what of its result the layer can take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.ir import Op, constant_data
from amctc.numerics.bias import fits_int32, has_headroom, quantize_bias
from amctc.numerics.linear import spread
from amctc.ops import nn
from amctc.types import Array, QuantizedType
from amctc_passes.facts import is_quantized, quantized_type, stored_under
from amctc_passes.quantize.float_twins import FloatTwin, real_contents
from amctc_passes.quantize.layers import accumulator_scales
from amctc_passes.weights.layer_inputs import contraction_of

TOWARDS = 0.2
"""How far from its integer towards its float weight a weight starts; from farther off good roundings are lost."""


@dataclass(frozen=True)
class Learned:
    """Integers of a weight, in int8, and the bias that goes with them."""

    integers: Array
    bias: Array | None


@dataclass(frozen=True)
class Start:
    """A layer as it is, with integers on the scales of ``elem``, and where it starts.

    Its weights start ``fractions`` in [0, 1) of a step above the integers ``low``; those of 0 stay. The bias [O] is
    learned too if it ``learns_bias``.
    """

    given: Learned
    elem: QuantizedType
    low: Array
    fractions: Array
    learns_bias: bool

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return self.learns_bias or bool(self.fractions.any())


def rounding_start(op: Op, twin: FloatTwin) -> Start:
    """The start of a layer with a symmetric integer weight: each weight between its integer and the next one.

    That is the next towards its float weight; one that is there stays, and so does a weight of 0 with integer 0.
    """
    elem, data = quantized_type(op.operands[1]), constant_data(stored_under(op.operands[1]))
    assert data is not None
    integers, weight = data.read(), twin.weight.read().astype(np.float64)
    place = weight / spread(elem.scale_array.astype(np.float64), weight.shape, axis=elem.axis)
    way = np.clip(np.clip(place, elem.low, elem.high) - integers, -1.0, 1.0)
    place = integers + np.where(np.isfinite(way) & ((weight != 0.0) | (integers != 0)), TOWARDS * way, 0.0)
    low = np.floor(place)
    bias = real_contents(op.operand(2))
    outputs, learns_bias = contraction_of(op).outputs, _learns_bias(op)
    contents = np.zeros(outputs, np.float32) if learns_bias and bias is None else None if bias is None else bias.read()
    return Start(Learned(integers, contents), elem, low, (place - low).astype(np.float32), learns_bias)


def _learns_bias(op: Op) -> bool:
    """Whether a layer has a float bias with one element per output, or could have one."""
    bias, whole = op.operand(2), getattr(op.kind, "beta", 1.0) == 1.0
    if bias is None:
        return whole
    data = constant_data(bias)
    return whole and data is not None and data.shape == (contraction_of(op).outputs,)


def within_int32(op: Op, start: Start, learned: Learned) -> Learned:
    """``learned``, but what ``start`` has in the channels whose int32 bias or accumulator could overflow (N9)."""
    assert isinstance(op.kind, nn.Layer)
    if not is_quantized(op.operands[0]):
        return learned
    contraction, read = contraction_of(op), quantized_type(op.operands[0])
    rows, old = (contraction.matrix(w) for w in (learned.integers, start.given.integers))
    fits = _fits(rows.reshape(-1, rows.shape[2]), learned.bias, accumulator_scales(op.kind, read, start.elem),
                 read.zero_points[0])  # fmt: skip
    if fits.all():
        return learned
    integers = contraction.weight(np.where(fits.reshape(rows.shape[:2])[:, :, None], rows, old))
    bias = learned.bias
    if start.learns_bias and bias is not None and start.given.bias is not None:
        bias = np.where(fits, bias, start.given.bias)
    return Learned(np.ascontiguousarray(integers), bias)


def _fits(rows: Array, bias: Array | None, scales: Array, zero_point: int) -> npt.NDArray[np.bool_]:
    """Per row of integers [O, K], with its bias in steps of ``scales``."""
    wide = rows.astype(np.int64)
    if bias is None or bias.shape not in ((), (1,), (len(rows),)):
        bias = np.zeros(1, np.float32)
    steps = quantize_bias(bias, scales)
    return np.asarray(fits_int32(steps) & has_headroom(steps, wide.sum(axis=1), np.abs(wide).sum(axis=1), zero_point))

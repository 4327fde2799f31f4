"""The headroom of the int32 accumulator once weights are integers (N9)."""

from __future__ import annotations

import numpy as np

from amctc.errors import InputError
from amctc.ir import Op, constant_data
from amctc.numerics.bias import has_headroom, quantize_bias
from amctc.ops import nn
from amctc.types import QuantizedType
from amctc_passes.facts import quantized_type, stored_under
from amctc_passes.quantize.layers import accumulator_scales
from amctc_passes.weights.layer_inputs import contraction_of


def fits_accumulator(op: Op, data: QuantizedType) -> bool:
    """Whether int32 holds all sums of a layer with integer weights and a float bias on data of type ``data`` (N9).

    False where a scale would leave what a file can hold (N11).
    """
    weight, bias = op.operands[1], constant_data(op.operand(2))
    stored = constant_data(stored_under(weight))
    if stored is None:
        return True
    elem = quantized_type(weight)
    rows = contraction_of(op).matrix(stored.read()).astype(np.int64)
    sums, sizes = (a.sum(axis=2).reshape(-1) for a in (rows, np.abs(rows)))
    biases = np.zeros(1) if bias is None else bias.read().reshape(-1, bias.shape[-1] if bias.shape else 1)
    assert isinstance(op.kind, nn.Layer)
    try:
        steps = accumulator_scales(op.kind, data, elem)
        integers = quantize_bias(biases, steps)
    except InputError:
        return False
    return bool(has_headroom(integers, sums, sizes, data.zero_points[0]).all())

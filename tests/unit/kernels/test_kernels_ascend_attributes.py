"""Integer ops hand every attribute and constant to their kernels: results by hand, by both tables of a target."""

from __future__ import annotations

import numpy as np

from amctc.numerics.fixed_point import pack_dequant
from amctc.ops import ascend
from amctc.targets import load_profile
from amctc.types import F16, I8, I32
from tests.unit.kernels.both_tables import ran

A2, A310 = load_profile("ascend910b1"), load_profile("ascend310")


def test_offsets_biases_and_orders_of_integer_layers() -> None:
    """Σ w · q + b - o · Σ w, with o outside the input; the weight of a product in both orders."""
    x, bias, o = np.int8([[[3, -2, 7]]]), np.int32([100]), 5
    conv = ran(ascend.Conv((1,), (1, 1), (1,), 1, o), x, I8, np.int8([[[2, -1]]]), bias, profile=A2)
    assert conv.tolist() == [[[2 * o - 3 + 95, 6 + 2 + 95, -4 - 7 + 95, 14 - o + 95]]]
    kind = ascend.ConvTranspose((2,), (1, 0), (1,), 1, (), o)
    spread = ran(kind, x, I8, np.int8([[[2, -1, 1]]]), bias, profile=A2)
    # q - 5 is -2, -7, 2, each times (2, -1, 1) and two apart; the first position is cut off.
    assert spread.tolist() == [[[102, 98 - 14, 107, 97, 98, 102]]]
    row, weight = np.int8([[3, -2, 7]]), np.int8([[1], [2], [-4]])
    for kind, w in (ascend.MatMul(False, o), weight), (ascend.MatMul(True, o), weight.T.copy()):
        assert ran(kind, row, I8, w, bias, profile=A2).tolist() == [[3 - 4 - 28 + 100 + o]]
        assert ran(kind, row, I8, w, profile=A2).tolist() == [[3 - 4 - 28 + o]]


def test_groups_of_integer_layers() -> None:
    """The second group multiplies by 3, its sum of weights is folded with the offset of 1."""
    x = np.int8([[[1, 2], [10, 20]]])
    conv = ran(ascend.Conv((1,), (0, 0), (1,), 2, 1), x, I8, np.int8([[[2]], [[3]]]), profile=A2)
    assert conv.tolist() == [[[0, 2], [27, 57]]]
    kind = ascend.ConvTranspose((1,), (0, 0), (1,), 2, (), 1)
    assert ran(kind, x, I8, np.int8([[[2]], [[3]]]), profile=A2).tolist() == [[[0, 2], [27, 57]]]


def test_parameters_run_along_their_axis() -> None:
    """Scales of 1 and 1/2 along the channels, which are not the last axis, and along the last one."""
    acc, scales = np.int32([[[8, 6], [8, 6]]]), np.float32([1, 0.5])
    for axis, expected in (1, [[8, 6], [4, 3]]), (2, [[8, 3], [8, 3]]):
        for profile in (A2, A310):
            assert ran(ascend.Dequant(axis, F16), acc, I32, scales, profile=profile)[0].tolist() == expected
        shifted = ran(ascend.Dequant(axis, F16), acc, I32, pack_dequant(2 * scales, 1), profile=A2)
        assert shifted[0].tolist() == expected
        assert ran(ascend.Requant(axis), acc, I32, scales, profile=A2)[0].tolist() == expected


def test_a_slope_below_zero_and_offsets_of_a_requantizer() -> None:
    """-8 becomes -8 / 4 under a slope of 1/4, and 0 under relu; then the offset."""
    acc, one = np.int32([[-8, 8, -4000]]), np.float32([1])
    assert ran(ascend.Requant(1, 3, 0.25), acc, I32, one, profile=A2).tolist() == [[1, 11, -128]]
    assert ran(ascend.Requant(1, 3, 0.0), acc, I32, one, profile=A2).tolist() == [[3, 11, 3]]
    assert ran(ascend.Requant(1, 3), acc, I32, one, profile=A2).tolist() == [[-5, 11, -128]]


def test_integers_become_float_by_offset_and_scale() -> None:
    """(q + o) · s, float16 as it is or widened; beyond float16 as the target says."""
    q = np.int8([[-128, 0, 100]])
    half = ran(ascend.AntiQuant(0.5, 28, F16), q, I8, profile=A2)
    assert (half.dtype, half.tolist()) == (np.float16, [[-50, 14, 64]])
    wide = ran(ascend.AntiQuant(0.1, 0), q, I8, profile=A2)
    assert (wide.dtype, wide.tolist()) == (np.float32, [[float(np.float16(v)) for v in np.float32([-12.8, 0, 10])]])
    assert ran(ascend.AntiQuant(1000.0, 0), q, I8, profile=A2).tolist() == [[-65504, 0, 65504]]
    infinite = A2.replace_choice("dequant_overflow", "inf")
    assert ran(ascend.AntiQuant(1000.0, 0), q, I8, profile=infinite).tolist() == [[-np.inf, 0, np.inf]]

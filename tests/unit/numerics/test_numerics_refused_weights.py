"""What quantizers, packers and factorisations refuse, word for word: finding, rule, remedy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from amctc.errors import InputError, LimitError
from amctc.numerics import (
    _arrays,
    bias,
    channel_scores,
    exact_gemm,
    fixed_point,
    int4,
    linear,
    low_rank,
    magnitude_cut,
    rank_estimate,
    rounding,
    second_order,
    sparsity,
    weight_only,
)


def not_finite(what: str, count: int, rule: str = "") -> str:
    label = f" [{rule}]" if rule else ""
    remedy = "check the model and the calibration data for overflow"
    return f"{what} holds {count} values that are NaN or infinite{label}; {remedy}"


REFUSED: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: _arrays.along_axis(np.ones((2, 2)), 2, 0), "values of shape (2, 2) need the channel axis they belong to"),
    (lambda: _arrays.along_axis(np.ones(2), 2, None), "values of shape (2,) need the channel axis they belong to"),
    (lambda: _arrays.along_axis(np.ones(2), 2, 2), "axis 2 is outside an array of rank 2"),
    (lambda: _arrays.along_axis(np.ones(2), 2, -3), "axis -3 is outside an array of rank 2"),
    (lambda: bias.accumulator_scale([1.0, -1.0], 1.0),
     "the product of weight and activation scale must be greater than zero [N11]"),
    (lambda: bias.quantize_bias([np.nan], [1.0]), not_finite("the bias", 1, "N9")),
    (lambda: bias.quantize_bias([1.0], [0.0]), "the bias scale must be greater than zero [N9]"),
    (lambda: bias.rescue_weight_scales(np.ones((3, 2)), [1.0, 1.0], [0.0], activation_scale=1.0, zero_point=0, axis=0),
     "2 scales and 1 biases for 3 channels [N9]"),
    (lambda: bias.rescue_weight_scales(np.ones((3, 2)), [1.0], None, activation_scale=1.0, zero_point=0, axis=2),
     "channel axis 2 is outside a weight of rank 2"),
    (lambda: bias.bias_scale_for_dead_channel([np.inf], 1.0), not_finite("the bias", 1, "N10")),
    (lambda: bias.bias_scale_for_dead_channel([1.0], 0.0), "the activation scale must be greater than zero [N10]"),
    (lambda: channel_scores.balanced_l2_scores(np.float32([[np.nan, 1.0]]), 0), not_finite("the weight", 1)),
    (lambda: channel_scores.balanced_l2_scores(np.ones((2, 3)), 2),
     "axis 2 of a weight of shape (2, 3) has no channels"),
    (lambda: channel_scores.balanced_l2_scores(np.ones((0, 3)), 0),
     "axis 0 of a weight of shape (0, 3) has no channels"),
    (lambda: channel_scores.summed_scores([]), "producers of one tensor must have equally many channels"),
    (lambda: channel_scores.summed_scores([np.ones(2), np.ones(3)]),
     "producers of one tensor must have equally many channels"),
    (lambda: channel_scores.pruned_channels(8, 1.0), "no share 1.0 of 8 channels in 1 groups can be pruned"),
    (lambda: channel_scores.pruned_channels(8, 0.5, groups=0), "no share 0.5 of 8 channels in 0 groups can be pruned"),
    (lambda: channel_scores.channel_mask(np.ones(6), 6, groups=2), "6 of 6 channels in 2 groups cannot be pruned"),
    (lambda: exact_gemm.PackedWeight(np.ones((2, 2), np.uint8)),
     "a packed weight is an int8 matrix, not uint8 of shape (2, 2) [N7]"),
    (lambda: exact_gemm.PackedWeight(np.ones((2, 2, 1), np.int8)),
     "a packed weight is an int8 matrix, not int8 of shape (2, 2, 1) [N7]"),
    (lambda: exact_gemm.PackedWeight(np.ones((2, 3), np.int8), np.zeros(2, np.int32)),
     "bias of shape (2,) for 3 columns [N7]"),
    (lambda: exact_gemm.k_splits(np.ones((1, 1), np.int8), np.zeros(1, np.int64), 1 << 25),
     "one product alone exceeds the exact range of float32 [N7]"),
    (lambda: fixed_point.pack_requant([np.nan], 0), not_finite("the scale of a parameter word", 1, "N11")),
    (lambda: fixed_point.pack_requant([1.0], 256), "offset must be an integer in [-256, 255] [N11]"),
    (lambda: fixed_point.pack_requant([1.0], -257), "offset must be an integer in [-256, 255] [N11]"),
    (lambda: fixed_point.pack_requant([1.0], 0, shift=16), "shift must be an integer in [0, 15] [N11]"),
    (lambda: fixed_point.pack_requant([1.0], 0.5), "offset must be an integer in [-256, 255] [N11]"),
    (lambda: fixed_point.unpack_requant(np.zeros(1, np.int64)), "parameter words are uint64, not int64 [N11]"),
    (lambda: fixed_point.requant_scale([3e38], [3e38]), not_finite("the requantize scale", 1, "N18")),
    (lambda: int4.pack_int4(np.zeros((3, 2), np.int8), 0), "3 int4 values along axis 0 do not fill bytes [N4]"),
    (lambda: int4.pack_int4(np.int8([[8, 0]]), 1), "int4 values in [0, 8] [N4]"),
    (lambda: int4.pack_int4(np.int8([[-9, 0]]), 1), "int4 values in [-9, 0] [N4]"),
    (lambda: linear.storage_range(1), "1-bit storage is not supported; use 2 to 16 bits"),
    (lambda: linear.storage_range(17), "17-bit storage is not supported; use 2 to 16 bits"),
    (lambda: linear.quantize_linear([1.0], [0.0], 0, low=-128, high=127),
     "the quantization scale must be greater than zero"),
    (lambda: linear.dequantize_linear([1], [-1.0], 0), "the quantization scale must be greater than zero"),
    (lambda: linear.dequantize_linear([1, 2], [1.0, 1.0, 1.0], 0, axis=0, block=2),
     "3 values for blocks of 2 along axis 0 of [2]"),
    (lambda: linear.quantize_weight([1.0], [1.0], axis=None, bits=9), "9-bit weights do not fit int8 storage [N10]"),
    (lambda: linear.quantize_weight([np.inf], [1.0], axis=None), not_finite("the weight", 1, "N10")),
    (lambda: low_rank.split_matrix(np.ones((2, 3)), 3), "rank 3 is outside 1 … 2"),
    (lambda: low_rank.split_matrix(np.ones((2, 3)), 0), "rank 0 is outside 1 … 2"),
    (lambda: low_rank.split_matrix(np.ones((2, 3), np.int8), 1),
     "a weight of type int8 and shape (2, 3) has no such factors"),
    (lambda: low_rank.split_spatial(np.ones((2, 3)), 1),
     "a weight of type float64 and shape (2, 3) has no such factors"),
    (lambda: low_rank.split_matrix(np.full((2, 3), np.nan), 1), not_finite("the weight", 6)),
    (lambda: low_rank.joined((np.ones((2, 3)), np.ones((2, 3)))),
     "weights of shapes (2, 3) and (2, 3) are no factors of one"),
    (lambda: low_rank.rank_by_energy(np.ones(3), 0.0), "a share of the energy is in (0, 1], not 0.0"),
    (lambda: low_rank.rank_by_ratio(0.0, 1.0, 2.0, 3), "no rank follows from ratio 0.0, costs 1.0 and 2.0"),
    (lambda: magnitude_cut.magnitude_cut([], 1.5), "a sparsity is in [0, 1], not 1.5"),
    (lambda: magnitude_cut.magnitude_cut([lambda: np.float32([np.nan])], 0.5), not_finite("the weight", 1)),
    (lambda: rank_estimate.split_rank(np.ones(7), 16, 16, (7, 7)), "7 singular values where the tool expects 112"),
    (lambda: rank_estimate.multiple_of(-1), "rank -1 cannot be rounded to a multiple of 16"),
    (lambda: rank_estimate.evbmf_rank(np.ones(3), 2),
     "no rank follows from 3 singular values of a matrix with 2 columns"),
    (lambda: rounding.saturate([1], -129, 127, np.int8), "bounds [-129, 127] do not fit int8"),
    (lambda: rounding.saturate([1], 3, 2, np.int8), "bounds [3, 2] do not fit int8"),
    (lambda: rounding.saturate([True], 0, 1, np.int8), "cannot saturate bool values"),
    (lambda: rounding.saturate([1.0], 0, 2**63 - 1, np.int64),
     "bounds [0, 9223372036854775807] are not exact in float64"),
    (lambda: rounding.to_float16([1.0], "wrap"), "unknown float16 overflow mode 'wrap'; use 'saturate' or 'inf'"),
    (lambda: second_order.round_second_order(np.ones((2, 3)), np.eye(2), [1.0, 1.0]),
     "a Gram matrix [2, 2] and [2] scales for weights [2, 3]"),
    (lambda: second_order.round_second_order(np.ones((1, 1)), [[np.inf]], [1.0]),
     "the Gram matrix of a layer's input is not finite; check the calibration samples"),
    (lambda: sparsity.magnitude_mask([1.0], -0.1), "a sparsity is in [0, 1], not -0.1"),
    (lambda: sparsity.magnitude_mask([np.nan], 0.5), not_finite("the weight", 1)),
    (lambda: sparsity.n_of_m_mask([[1.0]], n=5), "5 of 4 weights cannot be kept"),
    (lambda: sparsity.n_of_m_mask([1.0]), "axis 1 is outside an array of rank 1"),
    (lambda: sparsity.encode_two_of_four([[1.0, 2.0, 3.0, 0.0]]),
     "a group of four weights has more than two that are not zero [N22]"),
    (lambda: sparsity.decode_two_of_four(sparsity.SparseWeight(np.ones((1, 2)), np.zeros((1, 2), np.uint8)), 5),
     "2 slots do not hold 5 weights [N22]"),
    (lambda: sparsity.decode_two_of_four(sparsity.SparseWeight(np.ones((1, 2)), np.uint8([[3, 0]])), 4),
     "a 2-of-4 index is beyond 2 [N22]"),
    (lambda: sparsity.unpack_mask([1, 2], (8, 8)), "2 words do not hold a mask of shape (8, 8)"),
    (lambda: weight_only.weight_only_parameters([[np.nan]], axis=1), not_finite("the weight", 1, "N21")),
    (lambda: weight_only.weight_only_parameters([[-3e38, 3e38]], axis=1, symmetric=False),
     "the range of a weight is beyond float32"),
    (lambda: weight_only.weight_only_parameters([[1.0]], axis=1, block=-1), "blocks of -1 weights"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals_say_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


def test_an_accumulator_beyond_rescue_names_the_limit() -> None:
    with pytest.raises(LimitError) as caught:
        bias.rescue_weight_scales(np.ones((1, 1)), [1.0], [1e30], activation_scale=1e-20, zero_point=0, axis=0)
    assert str(caught.value) == (
        "no weight scale up to 4.5e+15 keeps the int32 accumulator from overflowing [N9]; leave the layer in float, "
        "or calibrate its input again (its scale is very small)"
    )

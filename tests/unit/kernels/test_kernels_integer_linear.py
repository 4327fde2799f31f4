"""Integer accumulators: the fast paths equal the int64 definition, bit for bit; hand-computed N7 and N8."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError, LimitError
from amctc.kernels import integer_linear
from amctc.kernels.float_linear import conv as float_conv
from amctc.kernels.integer_depthwise import DepthwiseSums
from amctc.kernels.integer_linear import merge_groups, prepare_conv, prepare_gemm, prepare_matmul
from amctc.kernels.integer_reference import conv_sums, gemm_sums, saturate32
from amctc.kernels.windows import Window

ONE = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}


def drawn_int8(rng, shape, kind):
    """Random int8: uniform, the two extremes, all -128, all 127, or mostly zero."""
    if kind == "extremes":
        return rng.choice(np.int8([-128, 127]), shape)
    if kind in (-128, 127):
        return np.full(shape, kind, np.int8)
    values = rng.integers(-128, 128, shape).astype(np.int8)
    return values * (rng.random(shape) < 0.1) if kind == "sparse" else values


KINDS = st.sampled_from(["uniform", "uniform", "extremes", -128, 127, "sparse"])


@st.composite
def convolutions(draw, ranks=(1, 2, 3), batch=(0, 3)):
    """(x, weight, bias, attributes); dense, grouped and depthwise with a multiplier."""
    rank = draw(st.sampled_from(ranks))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * rank)]
    sizes = [
        max(1, d * (k - 1) + 1 - before - after) + draw(st.integers(0, 8 // rank))
        for k, d, before, after in zip(kernel, dilations, pads[:rank], pads[rank:], strict=True)
    ]
    group = draw(st.sampled_from([1, 1, 2, 3, 4, 12]))
    per_group = draw(st.sampled_from([1, 1, 2, 5, 17])) if group > 1 else draw(st.integers(1, 40))
    outputs = group * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = drawn_int8(rng, (outputs, per_group, *kernel), draw(KINDS))
    x = drawn_int8(rng, (draw(st.integers(*batch)), group * per_group, *sizes), draw(KINDS))
    bias = draw(
        st.sampled_from([None, np.zeros(outputs), rng.integers(-(2**30), 2**30, outputs), np.full(outputs, 2**24)])
    )
    attributes = {
        "strides": tuple(draw(st.integers(1, 4)) for _ in range(rank)),
        "pads": tuple(pads),
        "dilations": tuple(dilations),
        "group": group,
        "offset_x": draw(st.sampled_from([0, 0, -128, 127, 3, -77])),
    }
    return x, weight, None if bias is None else bias.astype(np.int32), attributes


@settings(max_examples=1500, deadline=None)
@given(case=convolutions())
def test_conv_is_the_definition(case):
    x, weight, bias, attributes = case
    kernel = prepare_conv(weight, bias, **attributes)
    acc = kernel(x)
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, saturate32(conv_sums(x, weight, bias, **attributes)))
    assert kernel.overflows == 0


@settings(max_examples=400, deadline=None)
@given(case=convolutions(batch=(1, 3)), data=st.data())
def test_conv_sees_neither_layout_nor_batch_nor_blocks(case, data):
    x, weight, bias, attributes = case
    kernel = prepare_conv(weight, bias, **attributes)
    acc = kernel(x)
    order = data.draw(st.permutations(range(x.ndim)))
    shuffled = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    np.testing.assert_array_equal(kernel(shuffled), acc)
    np.testing.assert_array_equal(kernel(x[::-1])[::-1], acc)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integer_linear, "PATCH_BYTES", data.draw(st.integers(1, 20000)))
        patch.setattr("amctc.kernels.integer_depthwise.ROW_BYTES", data.draw(st.integers(1, 500)))
        np.testing.assert_array_equal(np.concatenate([kernel(image[None]) for image in x]), acc)


@settings(max_examples=100, deadline=None)
@given(case=convolutions(ranks=(2,), batch=(1, 2)))
def test_conv_is_onnxruntimes_conv_integer(run_node, case):
    """ConvInteger subtracts the zero point and pads with it, which N8 folds; ORT takes 1-d and 2-d only."""
    x, weight, _, attributes = case
    offset = np.int8(attributes["offset_x"])
    given_to_ort = {k: v for k, v in attributes.items() if k != "offset_x"}
    expected = run_node("ConvInteger", x, weight, offset.reshape(()), kernel_shape=weight.shape[2:], **given_to_ort)
    np.testing.assert_array_equal(prepare_conv(weight, None, **attributes)(x), expected)


@given(case=convolutions(batch=(1, 2)))
def test_padding_with_the_offset_and_folding_it_is_zero_padding_of_real_values(case):
    """N8: Σ w · q with q = offset outside, plus bias − offset · Σ w, is the float convolution of q − offset."""
    x, weight, bias, attributes = case
    offset = attributes["offset_x"]
    real = {k: v for k, v in attributes.items() if k != "offset_x"}
    expected = float_conv(
        x.astype(np.float64) - offset, weight.astype(np.float64), None if bias is None else bias * 1.0, **real
    )
    np.testing.assert_array_equal(prepare_conv(weight, bias, **attributes)(x), expected)


def test_offset_fold_by_hand():
    """Pad 5, weights 2 and -3: 2·5 - 3·7 = -11 at the left border, bias' = 10 - 5·(2 - 3) = 15."""
    weight, x = np.int8([[[2, -3]]]), np.int8([[[7, -128, 127]]])
    kernel = prepare_conv(weight, np.int32([10]), strides=(1,), pads=(1, 1), dilations=(1,), offset_x=5)
    np.testing.assert_array_equal(
        kernel(x), [[[2 * 5 - 3 * 7 + 15, 2 * 7 + 3 * 128 + 15, -2 * 128 - 3 * 127 + 15, 2 * 127 - 3 * 5 + 15]]]
    )


@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("channels", [113, 115, 500])  # 9 · 113 < 1024 <= 9 · 114: one float32 product is exact or not
def test_conv_is_exact_past_the_float32_bound(channels, value):
    rng = np.random.default_rng(channels)
    x = np.full((2, channels, 4, 4), value, np.int8)
    x.flat[:: channels + 1] += np.int8(1 if value < 0 else -1)
    weight = np.full((3, channels, 3, 3), -128, np.int8)
    weight[1] = rng.integers(-128, 128, weight[1].shape)
    weight[2] = 127
    attributes = ONE | {"pads": (1, 1, 1, 1), "offset_x": -128}
    bias = np.int32([1, -3, 2**24 + 1])
    np.testing.assert_array_equal(
        prepare_conv(weight, bias, **attributes)(x), saturate32(conv_sums(x, weight, bias, **attributes))
    )


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=2), st.sampled_from([1, 2, 9, 1023, 1024, 1025, 1041, 2500, 4608]),
    st.integers(1, 5), KINDS, KINDS, st.sampled_from([None, 0, 1, 2**24, 2**30, -(2**30)]),
    st.sampled_from([0, -128, 127, 5]), st.integers(0, 2**32),
)  # fmt: skip
def test_gemm_is_the_definition(leading, k, n, kind_x, kind_w, bias, offset_x, seed):
    rng = np.random.default_rng(seed)
    x, weight = drawn_int8(rng, (*leading, k), kind_x), drawn_int8(rng, (k, n), kind_w)
    biases = None if bias is None else np.full(n, bias, np.int32) + rng.integers(-3, 4, n).astype(np.int32)
    kernel = prepare_gemm(weight, biases, offset_x=offset_x)
    expected = saturate32(gemm_sums(x, weight, biases, offset_x=offset_x))
    acc = kernel(x)
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, expected)
    np.testing.assert_array_equal(kernel(np.asfortranarray(x)), expected)
    if leading:
        np.testing.assert_array_equal(kernel(x[::-1])[::-1], expected)
    assert kernel.overflows == 0
    assert not kernel.overflow_possible


@pytest.mark.parametrize("offset", [0, -128, 127, 9])
@pytest.mark.parametrize("k", [5, 1500])
def test_matmul_is_onnxruntimes_matmul_integer(run_node, k, offset):
    rng = np.random.default_rng(k)
    x, weight = drawn_int8(rng, (2, 4, k), "extremes"), drawn_int8(rng, (k, 6), "uniform")
    expected = run_node("MatMulInteger", x, weight, np.int8(offset).reshape(()))
    np.testing.assert_array_equal(prepare_matmul(weight, offset_x=offset)(x), expected)


def test_accumulators_beyond_int32_are_saturated_and_counted():
    """N7. The bound |bias'| + 128 Σ|w| < 2^31 is met with equality excluded."""
    limit = 2**31 - 1
    weight = np.int8([[1], [1]])
    safe = prepare_gemm(weight, np.int32([limit - 256]))
    assert not safe.overflow_possible
    kernel = prepare_gemm(weight, np.int32([limit - 255]))
    assert kernel.overflow_possible
    np.testing.assert_array_equal(kernel(np.int8([[127, 127], [-128, -128]])), [[limit - 1], [limit - 511]])
    assert kernel.overflows == 0
    low = prepare_gemm(weight, np.int32([-limit]))
    x = np.int8([[-1, 0], [-1, -1], [127, 127]])
    np.testing.assert_array_equal(low(x), [[-limit - 1], [-limit - 1], [254 - limit]])
    assert low.overflows == 1
    low(x)
    assert low.overflows == 2


def test_a_sum_alone_can_leave_int32():
    """131 072 products of 128 · 128 are exactly 2^31."""
    weight = np.full((1 << 17, 1), -128, np.int8)
    kernel = prepare_gemm(weight)
    assert kernel.overflow_possible
    x = np.full((2, 1 << 17), -128, np.int8)
    x[1, 0] = -127
    np.testing.assert_array_equal(kernel(x), [[2**31 - 1], [2**31 - 128]])
    assert kernel.overflows == 1


@pytest.mark.parametrize("group", [1, 2])  # patches; depthwise
def test_convolutions_saturate_and_count(group):
    limit = 2**31 - 1
    weight, bias = np.full((2, 2 // group, 1, 1), 127, np.int8), np.int32([limit, -limit])
    x = np.int8([[[[127, 0]], [[127, -128]]]])
    kernel = prepare_conv(weight, bias, **ONE, group=group)
    assert kernel.overflow_possible
    acc = kernel(x)
    np.testing.assert_array_equal(acc, saturate32(conv_sums(x, weight, bias, **ONE, group=group)))
    assert kernel.overflows == 2
    assert acc.max() == limit
    assert acc.min() == -limit - 1


def test_a_folded_bias_outside_int32_is_refused_with_its_rules():
    with pytest.raises(LimitError, match="N8, N9") as caught:
        prepare_gemm(np.int8([[1, 127]]), np.int32([0, 2**31 - 1]), offset_x=-128)
    assert "channel 1" in str(caught.value)
    with pytest.raises(LimitError, match="N8, N9"):
        prepare_conv(np.full((1, 1, 1, 1), 1, np.int8), np.int32([-(2**31)]), **ONE, offset_x=1)
    assert prepare_gemm(np.int8([[1]]), np.int32([-(2**31)]), offset_x=0).overflow_possible
    with pytest.raises(LimitError, match="2147483648"):
        prepare_gemm(np.int8([[1]]), np.int32([2**31 - 1]), offset_x=-1)
    assert prepare_gemm(np.int8([[1]]), np.int32([2**31 - 2]), offset_x=-1).overflow_possible


@pytest.mark.parametrize(("bias", "possible"), [(2**31 - 1 - 256, False), (2**31 - 256, True), (-(2**31) + 256, True)])
def test_depthwise_overflow_is_decided_by_the_weights(bias, possible):
    """128 · (1 + 1) + |bias| against 2^31."""
    kernel = prepare_conv(np.int8([[[1, -1]]] * 2), np.int32([0, bias]), strides=(1,), pads=(0, 0), dilations=(1,),
                          group=2)  # fmt: skip
    assert kernel.overflow_possible == possible


def test_depthwise_is_exact_for_a_kernel_past_the_float32_bound():
    """1 089 taps of 128 · 128 exceed 2^24: the working type must be float64."""
    weight = np.full((2, 33, 33), -128, np.int8)
    weight[1, ::2] = 127
    x = np.full((1, 2, 35, 34), -128, np.int8)
    x[0, 0, 5, 5] = -127
    assert DepthwiseSums(weight, Window((33, 33), (1, 1), (0,) * 4, (1, 1))).dtype == np.float64
    np.testing.assert_array_equal(
        prepare_conv(weight[:, None], None, **ONE, group=2)(x),
        saturate32(conv_sums(x, weight[:, None], None, **ONE, group=2)),
    )


def test_merged_groups_are_block_diagonal():
    weight = np.arange(1, 17, dtype=np.int8).reshape(8, 2, 1)  # 4 groups of 2 in, 2 out
    merged = merge_groups(weight, 4)
    assert merged.shape == (1, 8, 8)
    np.testing.assert_array_equal(merged[0, :2, :2], weight[:2, :, 0].T)
    np.testing.assert_array_equal(merged[0, 6:, 6:], weight[6:, :, 0].T)
    assert np.count_nonzero(merged) == weight.size
    assert merge_groups(np.ones((8, 20, 1), np.int8), 4).shape == (4, 20, 2)
    assert merge_groups(np.ones((6, 12, 1), np.int8), 6).shape == (3, 24, 2)


def test_results_are_channels_last_in_memory():
    acc = prepare_conv(np.ones((4, 3, 1, 1), np.int8), None, **ONE)(np.ones((2, 3, 5, 5), np.int8))
    assert acc.transpose(0, 2, 3, 1).flags.c_contiguous
    acc = prepare_conv(np.ones((3, 1, 1, 1), np.int8), None, **ONE, group=3)(np.ones((2, 3, 5, 5), np.int8))
    assert acc.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("changes", [
    {"weight": np.zeros((2, 2, 1, 1), np.uint8)}, {"weight": np.zeros((2, 2), np.int8)}, {"group": 0}, {"group": 3},
    {"bias": np.zeros(2, np.int64)}, {"bias": np.zeros(3, np.int32)}, {"offset_x": 128}, {"strides": (1,)},
])  # fmt: skip
def test_malformed_operands_are_refused(changes):
    arguments = {"weight": np.zeros((2, 2, 1, 1), np.int8), "bias": None, **ONE, "group": 1} | changes
    with pytest.raises(InputError):
        prepare_conv(**arguments)


def test_malformed_activations_are_refused():
    for group in (1, 2):
        kernel = prepare_conv(np.zeros((2, 2 // group, 1, 1), np.int8), None, **ONE, group=group)
        for shape, dtype in [((1, 3, 2, 2), np.int8), ((1, 2, 2, 2), np.uint8), ((1, 2, 2), np.int8)]:
            with pytest.raises(InputError, match="activations"):
                kernel(np.zeros(shape, dtype))
    with pytest.raises(InputError, match="activations"):
        prepare_gemm(np.zeros((3, 2), np.int8))(np.zeros((1, 2), np.int8))
    with pytest.raises(InputError, match=r"\(K, N\)"):
        prepare_gemm(np.zeros(3, np.int8))


@pytest.mark.parametrize(
    ("depth", "told"), [(1040, "product"), (1041, "product, K in 2 chunks"), (2081, "product, K in 3 chunks")]
)
def test_products_say_in_how_many_chunks_they_stay_exact(depth: int, told: str) -> None:
    """2^24 / (128 · 126) = 1040.2 products of the largest magnitudes are exact in float32."""
    assert str(prepare_gemm(np.full((depth, 2), 126, np.int8), None)) == told

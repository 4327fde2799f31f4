"""Transposed int8 convolution: equal to the int64 definition, to ONNX Runtime on small integers, to numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError, LimitError
from amctc.kernels.integer_reference import conv_transpose_sums, saturate32
from amctc.kernels.integer_transposed import prepare_conv_transpose


@st.composite
def transposed(draw, ranks=(1, 2, 3), reach=128):
    """(x, weight, bias, attributes): strides above and below the kernel, pads, output padding, groups, depthwise."""
    rank = draw(st.sampled_from(ranks))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    strides = [draw(st.integers(1, 4)) for _ in range(rank)]
    sizes = [draw(st.integers(1, 5)) for _ in range(rank)]
    extra = [draw(st.integers(0, s - 1)) for s in strides]
    pads = []
    for k, s, n, e in zip(kernel, strides, sizes, extra, strict=True):
        room = s * (n - 1) + k + e - 1  # one output position stays
        begin = draw(st.integers(0, min(room, 5)))
        pads.append((begin, draw(st.integers(0, min(room - begin, 5)))))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    per_group = draw(st.sampled_from([1, 1, 2, 5]))
    inputs = group * draw(st.sampled_from([1, 1, 2, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.integers(-reach, reach, (draw(st.integers(0, 2)), inputs, *sizes)).astype(np.int8)
    weight = rng.integers(-reach, reach, (inputs, per_group, *kernel)).astype(np.int8)
    bias = draw(st.sampled_from([None, 1000, 2**30]))
    attributes = {
        "strides": tuple(strides), "pads": (*(b for b, _ in pads), *(e for _, e in pads)),
        "output_padding": draw(st.sampled_from([tuple(extra), ()])) if not any(extra) else tuple(extra),
        "group": group, "offset_x": draw(st.sampled_from([0, 3, -128, 127])),
    }  # fmt: skip
    biases = None if bias is None else rng.integers(-bias, bias, group * per_group).astype(np.int32)
    return x, weight, biases, attributes


@settings(max_examples=400, deadline=None)
@given(case=transposed())
def test_is_the_definition(case):
    x, weight, bias, attributes = case
    kernel = prepare_conv_transpose(weight, bias, **attributes)
    acc = kernel(x)
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, saturate32(conv_transpose_sums(x, weight, bias, **attributes)))
    assert kernel.overflows == 0


@settings(max_examples=60, deadline=None)
@given(case=transposed(ranks=(1, 2), reach=8))
def test_is_onnxruntimes_float_transposed_convolution_of_the_differences(run_node, case):
    """Sums of products below 2^24 are exact in float32, whatever the order: padding and gaps are real zeros (N8)."""
    x, weight, bias, attributes = case
    if not len(x):
        x = np.zeros((1, *x.shape[1:]), np.int8)
    bias = None if bias is None else bias % 1000
    offset = attributes["offset_x"]
    given_to_ort = {k: v for k, v in attributes.items() if k != "offset_x" and v != ()}
    difference = x.astype(np.float32) - offset
    operands = [a.astype(np.float32) for a in (weight, bias) if a is not None]
    wanted = run_node("ConvTranspose", difference, *operands, kernel_shape=weight.shape[2:], **given_to_ort)
    np.testing.assert_array_equal(prepare_conv_transpose(weight, bias, **attributes)(x), wanted)


def test_offset_and_gaps_by_hand():
    """Weights 2, -3, 5 at stride 2, offset 1: inputs 4 and -1 are 3 and -2; what lies between adds nothing."""
    kernel = prepare_conv_transpose(np.int8([[[2, -3, 5]]]), np.int32([100]), strides=(2,), pads=(0, 0), offset_x=1)
    wanted = [100 + v for v in (2 * 3, -3 * 3, 5 * 3 + 2 * -2, -3 * -2, 5 * -2)]
    np.testing.assert_array_equal(kernel(np.int8([[[4, -1]]])), [[wanted]])


def test_a_stride_above_the_kernel_leaves_the_bias_in_the_gaps():
    kernel = prepare_conv_transpose(
        np.int8([[[7]]]), np.int32([-5]), strides=(3,), pads=(0, 0), output_padding=(2,), offset_x=-128
    )
    np.testing.assert_array_equal(kernel(np.int8([[[-127, -128]]])), [[[2, -5, -5, -5, -5, -5]]])


@pytest.mark.parametrize("wrap", [False, True])
def test_overflow_saturates_or_wraps_and_is_counted_once_per_element(wrap):
    """Four outputs, two of them 2^31 − 1 + 127 · 127."""
    kernel = prepare_conv_transpose(np.int8([[[127, 0]]]), np.int32([2**31 - 1]), strides=(2,), pads=(0, 0), wrap=wrap)
    beyond = 2**31 - 1 if not wrap else 127 * 127 - 1 - 2**31
    np.testing.assert_array_equal(kernel(np.int8([[[127, 127]]])), [[[beyond, 2**31 - 1] * 2]])
    assert (kernel.overflow_possible, kernel.overflows) == (True, 2)


def test_exact_past_the_float32_bound():
    rng = np.random.default_rng(5)
    weight = rng.choice(np.int8([-128, 127]), (1100, 2, 2, 2))
    x = np.full((1, 1100, 2, 2), -128, np.int8)
    attributes = {"strides": (1, 1), "pads": (0, 0, 1, 1), "offset_x": 127}
    bias = np.int32([2**24 + 1, -3])
    np.testing.assert_array_equal(
        prepare_conv_transpose(weight, bias, **attributes)(x),
        saturate32(conv_transpose_sums(x, weight, bias, **attributes)),
    )


def test_overflows_saturate_unless_they_shall_wrap():
    """2^31 - 1 + 127 · 127."""
    weight, bias, x = np.int8([[[127]]]), np.int32([2**31 - 1]), np.int8([[[127]]])
    attributes = {"strides": (1,), "pads": (0, 0)}
    assert prepare_conv_transpose(weight, bias, **attributes)(x).tolist() == [[[2**31 - 1]]]
    assert prepare_conv_transpose(weight, bias, **attributes, wrap=True)(x).tolist() == [[[16129 - 1 - 2**31]]]


def test_what_does_not_fit_is_refused():
    weight, plain = np.ones((2, 1, 1), np.int8), {"strides": (1,), "pads": (0, 0)}
    with pytest.raises(InputError, match="3 groups"):
        prepare_conv_transpose(weight, None, **plain, group=3)
    with pytest.raises(InputError, match="spatial axes"):
        prepare_conv_transpose(weight, None, strides=(1, 1), pads=(0, 0))
    with pytest.raises(InputError, match="2 channels"):
        prepare_conv_transpose(weight, None, **plain)(np.zeros((1, 3, 4), np.int8))
    with pytest.raises(InputError, match="output shape"):
        prepare_conv_transpose(weight, None, strides=(1,), pads=(2, 2))(np.zeros((1, 2, 3), np.int8))
    with pytest.raises(LimitError, match="N9"):
        prepare_conv_transpose(weight, np.int32([2**31 - 1]), **plain, offset_x=-128)


GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not here")
@pytest.mark.parametrize("offset", [0, -37])
@pytest.mark.parametrize("name", ["convt", "convtg"])
def test_accumulators_of_the_existing_tool(name, offset):
    """Its fake-quantized layer multiplies x_q − offset by the integer weight and starts from the int32 bias."""
    with np.load(GOLDEN / f"fakequant_{name}_off{offset}.npz") as file:
        data = dict(file)
    parameters = json.loads(str(data["params_json"]))
    kernel = prepare_conv_transpose(
        data["out_int_weight"].astype(np.int8), data["out_bias_i32"].astype(np.int32),
        strides=tuple(parameters["stride"]), pads=tuple(parameters["padding"] * 2), group=parameters["groups"],
        offset_x=offset,
    )  # fmt: skip
    acc = kernel((data["out_x_q_minus_offset"] + offset).astype(np.int8))
    np.testing.assert_array_equal(acc, data["out_acc"])

"""What kernels refuse, word for word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from amctc.errors import InputError, LimitError
from amctc.kernels import float_linear, selection
from amctc.kernels.integer_batch import BatchProduct
from amctc.kernels.integer_epilogue import quantize_fp32
from amctc.kernels.integer_linear import check_operands, fold_offset, prepare_conv, prepare_gemm
from amctc.kernels.integer_transposed import prepare_conv_transpose
from amctc.kernels.vector_epilogue import dequantize_f16
from amctc.kernels.windows import Window

I8_WEIGHT, BIAS = np.ones((2, 3), np.int8), np.ones(2, np.int32)
KERNEL, IMAGE = np.ones((2, 3, 1, 1), np.int8), np.ones((1, 3, 2, 2), np.int8)
ONES: dict[str, Any] = {"strides": (1, 1), "pads": (0,) * 4}
DISAGREE = "window attributes disagree on the number of spatial axes:"
BELOW = "window with a kernel, stride or dilation below 1 or a negative pad:"

REFUSED: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: check_operands(np.ones((2, 3), np.uint8), None, 2, 0),
     "an integer kernel takes int8 weights, not uint8 [N7]"),
    (lambda: check_operands(I8_WEIGHT, np.ones(2, np.int64), 2, 0),
     "the bias of an integer kernel is int32 of shape (2,), not int64 (2,)"),
    (lambda: check_operands(I8_WEIGHT, BIAS, 3, 0),
     "the bias of an integer kernel is int32 of shape (3,), not int32 (2,)"),
    (lambda: check_operands(I8_WEIGHT, BIAS, 2, 128), "the activation offset 128 is outside int8 [N8]"),
    (lambda: check_operands(I8_WEIGHT, BIAS, 2, -129), "the activation offset -129 is outside int8 [N8]"),
    (lambda: prepare_gemm(np.ones((2, 3, 1), np.int8), None),
     "the weight of a matrix product has shape (2, 3, 1), not (K, N)"),
    (lambda: prepare_gemm(I8_WEIGHT, None)(np.ones((1, 3), np.int8)),
     "activations int8 (1, 3) for an int8 matrix product with K = 2"),
    (lambda: prepare_gemm(I8_WEIGHT, None)(np.ones((1, 2), np.uint8)),
     "activations uint8 (1, 2) for an int8 matrix product with K = 2"),
    (lambda: prepare_conv(KERNEL, None, **ONES, dilations=(1, 1), group=3),
     "a weight of shape (2, 3, 1, 1) cannot have 3 groups"),
    (lambda: prepare_conv(KERNEL, None, **ONES, dilations=(1, 1))(IMAGE[:, :2]),
     "activations int8 (1, 2, 2, 2) for an int8 convolution of 3 channels"),
    (lambda: prepare_conv(KERNEL, None, **ONES, dilations=(1, 1))(IMAGE.astype(np.uint8)),
     "activations uint8 (1, 3, 2, 2) for an int8 convolution of 3 channels"),
    (lambda: prepare_conv_transpose(KERNEL, None, **ONES, group=4),
     "a transposed weight of shape (2, 3, 1, 1) cannot have 4 groups"),
    (lambda: prepare_conv_transpose(KERNEL, None, strides=(1,), pads=(0,) * 4),
     "window attributes disagree on the number of spatial axes: (1,), (0, 0, 0, 0), (0, 0)"),
    (lambda: prepare_conv_transpose(KERNEL, None, **ONES)(IMAGE),
     "activations int8 (1, 3, 2, 2) for a transposed convolution of 2 channels"),
    (lambda: prepare_conv_transpose(KERNEL, None, strides=(1, 1), pads=(1,) * 4)(IMAGE[:, :2, :1]),
     "a transposed convolution of (1, 2) has the output shape [-1, 0]"),
    (lambda: BatchProduct(None, False)(np.ones((2, 3), np.int8), np.ones((2, 3), np.int8)),
     "operands int8 (2, 3) and int8 (2, 3) of an int8 matrix product"),
    (lambda: BatchProduct(None, False)(np.ones((2, 3), np.uint8), np.ones((3, 2), np.int8)),
     "operands uint8 (2, 3) and int8 (3, 2) of an int8 matrix product"),
    (lambda: quantize_fp32(np.ones(1, np.float32), 1.0, 0, bits=5), "5-bit quantization [N1]; use 4, 8 or 16 bits"),
    (lambda: dequantize_f16(np.ones((1, 2), np.int32), np.float32([1e5]), channel_axis=1),
     "a dequantization scale beyond 65504 is none of float16 [N15]; use sqrt_mode"),
    (lambda: selection.split(np.ones((2, 3)), axis=1, sizes=(1, 1)), "parts of [1, 1] of an axis of 3 elements"),
    (lambda: selection.gather(np.ones((2, 3)), np.array([-4, 3]), axis=1),
     "an index in [-4, 3] of an axis of 3 elements"),
    (lambda: selection.squeeze(np.ones((2, 1)), axes=(0,)), "axes [0] of an array of shape [2, 1] are not all 1"),
    (lambda: Window((2,), (1, 1), (0,) * 2, (1,)), f"{DISAGREE} Window(kernel=(2,), strides=(1, 1), pads=(0, 0), "
     "dilations=(1,), ceil_mode=False)"),
    (lambda: Window((2,), (1,), (0,) * 3, (1,)), f"{DISAGREE} Window(kernel=(2,), strides=(1,), pads=(0, 0, 0), "
     "dilations=(1,), ceil_mode=False)"),
    (lambda: Window((0,), (1,), (0, 0), (1,)), f"{BELOW} Window(kernel=(0,), strides=(1,), pads=(0, 0), "
     "dilations=(1,), ceil_mode=False)"),
    (lambda: Window((2,), (0,), (0, 0), (1,)), f"{BELOW} Window(kernel=(2,), strides=(0,), pads=(0, 0), "
     "dilations=(1,), ceil_mode=False)"),
    (lambda: Window((2,), (1,), (0, -1), (1,)), f"{BELOW} Window(kernel=(2,), strides=(1,), pads=(0, -1), "
     "dilations=(1,), ceil_mode=False)"),
    (lambda: Window((2,), (1,), (0, 0), (0,)), f"{BELOW} Window(kernel=(2,), strides=(1,), pads=(0, 0), "
     "dilations=(0,), ceil_mode=False)"),
    (lambda: float_linear.conv_transpose(np.float32(IMAGE), np.ones((3, 2, 1), np.float32), None, **ONES,
                                         dilations=(1, 1)),
     "a weight of shape (3, 2, 1) on an input of shape (1, 3, 2, 2)"),
    (lambda: float_linear.conv(np.float32(IMAGE), np.ones((2, 2, 1, 1), np.float32), None, **ONES, dilations=(1, 1)),
     "3 input and 2 output channels do not fit a weight for 2 in 1 groups"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals_say_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("offset", [-128, 0, 127])
def test_all_of_int8_is_an_offset(offset: int) -> None:
    check_operands(I8_WEIGHT, BIAS, 2, offset)
    check_operands(I8_WEIGHT, None, 7, offset)


def test_a_folded_bias_outside_int32_names_its_first_channel() -> None:
    bias, sums = np.int32([0, 2**31 - 1, -(2**31)]), np.int64([0, -1, 2])
    with pytest.raises(LimitError) as caught:
        fold_offset(sums, bias, 1)
    assert str(caught.value) == (
        "the bias with the activation offset folded in leaves int32 in 2 channels, first in channel 1 (2147483648) "
        "[N8, N9]; raise the weight scale of these channels or leave the layer in float"
    )


def test_a_folded_bias_reaches_both_ends_of_int32() -> None:
    ends = np.int32([2**31 - 2, -(2**31) + 2])
    assert fold_offset(np.int64([-1, 2]), ends, 1).tolist() == [2**31 - 1, -(2**31)]
    assert fold_offset(np.int64([-1, 2]), None, 3).tolist() == [3, -6]

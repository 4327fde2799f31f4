"""Why a layer cannot run in integers, be stored in int4, or take integer weights under float data: word for word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import GraphInput, Op, Value, apply, const
from amctc.ops import nn, quant
from amctc.targets import load_profile
from amctc.types import F16, F32, I4, I8, I16, I32, QuantizedType, ScalarType, TensorType
from amctc_passes.compress.selection import weight_obstacle as masking_obstacle
from amctc_passes.facts import sparse_obstacle
from amctc_passes.quantize.layers import int4_obstacle, integer_obstacle, matching, weight_only_obstacle
from amctc_passes.quantize.stored_forms import activation_obstacle, bias_obstacle, weight_obstacle

CHIP = load_profile("ascend310")
NARROW = replace(CHIP, name="narrow", storage=frozenset({"f16"}), batch_matmul_int8=False, weight_only=False)
WIDE = replace(CHIP, name="wide", storage=frozenset({"i4", "i8"}), batch_matmul_int8=True, weight_only=True)
ROWS, IMAGE, VOLUME = (1, 6), (1, 4, 6, 6), (1, 4, 6, 6, 6)
CONV, POOLED = nn.Conv((1, 1), (0,) * 4, (1, 1)), nn.AveragePool((1, 1), (1,) * 4, (1, 1), (3, 3))
TRANSPOSED = nn.ConvTranspose((2, 2), (0,) * 4, (1, 1))


def data(shape: tuple[int, ...], elem: ScalarType = F32, name: str = "x") -> Value:
    return GraphInput(name, TensorType(shape, elem))


def fixed(*shape: int, elem: QuantizedType | None = None) -> Value:
    if elem is None:
        return const(np.ones(shape, np.float32))
    return apply(quant.Dequantize(), const(np.ones(shape, elem.dtype), elem))


def layer(kind: nn.Layer | nn.AveragePool, *operands: Value) -> Op:
    op = apply(kind, *operands).producer
    assert op is not None
    return op


def gemm(bias: Value | None = None, **options: float) -> Op:
    operands = (data((6, 6)), fixed(6, 6)) + (() if bias is None else (bias,))
    return layer(nn.Gemm(**options), *operands)


INTEGER = (
    (layer(CONV, data(IMAGE), fixed(2, 4, 1, 1)), None),
    (layer(CONV, data(IMAGE, F16), const(np.ones((2, 4, 1, 1), np.float16))), "activations are f16"),
    (layer(CONV, fixed(*IMAGE), fixed(2, 4, 1, 1)), "its input is constant"),
    (layer(nn.MatMul(), fixed(*ROWS), data((6, 2))), "the constant stands on the left, where the target takes data"),
    (layer(nn.MatMul(), fixed(*ROWS), fixed(6, 2)), "its input is constant"),
    (layer(POOLED, fixed(*IMAGE)), "its input is constant"),
    (layer(POOLED, data(IMAGE)), "its windows average different numbers of inputs"),
    (layer(replace(POOLED, count_include_pad=True), data(IMAGE)), None),
    (gemm(data((6,), name="b")), "the bias is computed, not constant"),
    (layer(CONV, data(IMAGE), data((2, 4, 1, 1), name="w")), "the weight is computed, not constant"),
    (layer(nn.MatMul(), data((2, 6)), data((6, 2), name="w")), None),
    (layer(nn.MatMul(), data((6,)), data((6, 2), name="w")), "both sides are computed, one of them a vector"),
    (layer(nn.MatMul(), data((2, 6)), data((6,), name="w")), "both sides are computed, one of them a vector"),
    (layer(nn.Conv((1,) * 3, (0,) * 6, (2, 1, 1)), data(VOLUME), fixed(2, 4, 2, 1, 1)),
     "a 3-d convolution dilated in depth"),
    (layer(nn.Conv((1,) * 3, (0,) * 6, (1, 2, 2)), data(VOLUME), fixed(2, 4, 1, 2, 2)), None),
    (layer(replace(TRANSPOSED, dilations=(2, 1)), data(IMAGE), fixed(4, 2, 2, 2)), "a dilated transposed convolution"),
    (layer(replace(TRANSPOSED, output_padding=(1, 1)), data(IMAGE), fixed(4, 2, 2, 2)), None),
    (layer(nn.ConvTranspose((1, 2), (0,) * 4, (1, 1), output_padding=(1, 1)), data(IMAGE), fixed(4, 2, 2, 2)),
     "output padding as large as the stride"),
    (layer(nn.MatMul(), data((2, 3, 6)), fixed(2, 6, 2)), "the constant side is no matrix"),
    (layer(nn.MatMul(), data((2, 6)), fixed(6)), "the constant side is no matrix"),
    (gemm(), None),
    (gemm(trans_a=True), "Gemm with a transposed first operand"),
    (gemm(alpha=2.0), "Gemm with factors alpha or beta (run fold-gemm-factors)"),
    (gemm(fixed(6), beta=0.5), "Gemm with factors alpha or beta (run fold-gemm-factors)"),
    (gemm(fixed(6)), None),
    (gemm(fixed(1, 6)), "a bias of shape [1, 6] is not one per output"),
    (layer(nn.Gemm(trans_b=True), data((2, 6)), fixed(3, 6), fixed(3)), None),
    (layer(nn.Gemm(trans_b=True), data((2, 6)), fixed(3, 6), fixed(1)), "a bias of shape [1] is not one per output"),
)  # fmt: skip


@pytest.mark.parametrize(("op", "reason"), INTEGER)
def test_integer_layers(op: Op, reason: str | None) -> None:
    assert integer_obstacle(op, WIDE) == reason


def test_integer_layers_of_other_targets() -> None:
    product = layer(nn.MatMul(), data((2, 6)), data((6, 2), name="w"))
    assert integer_obstacle(product, NARROW) == "narrow does not compute in int8"
    without = replace(WIDE, batch_matmul_int8=False)
    assert integer_obstacle(product, without) == "both sides are computed, which does not pay on wide"


INT4 = (
    (layer(CONV, data(IMAGE), fixed(3, 4, 1, 1)), None),
    (layer(CONV, data((1, 3, 6, 6)), fixed(4, 3, 1, 1)), "an odd number of input channels, 3"),
    (layer(replace(CONV, group=2), data(IMAGE), fixed(4, 2, 1, 1)), "a grouped convolution"),
    (layer(TRANSPOSED, data((1, 3, 6, 6)), fixed(3, 4, 2, 2)), "an odd number of input channels, 3"),
    (layer(TRANSPOSED, data(IMAGE), fixed(4, 3, 2, 2)), None),
    (layer(nn.MatMul(), data((2, 5)), fixed(5, 2)), "an odd number of input channels, 5"),
    (layer(nn.MatMul(), data((2, 6)), fixed(6, 3)), None),
    (layer(nn.MatMul(), data((2, 5)), fixed(5)), "an odd number of input channels, 5"),
    (layer(nn.Gemm(), data((2, 5)), fixed(5, 2)), "an odd number of input channels, 5"),
    (layer(nn.Gemm(trans_b=True), data((2, 6)), fixed(3, 6)), None),
)


@pytest.mark.parametrize(("op", "reason"), INT4)
def test_four_bit_weights(op: Op, reason: str | None) -> None:
    assert int4_obstacle(op, WIDE) == reason
    assert int4_obstacle(op, NARROW) == "narrow stores no int4"


I8_WEIGHT, I4_WEIGHT = QuantizedType.per_tensor(0.5), QuantizedType(I4, F32, (0.5,), (0,), None, -8, 7)


def product(elem: QuantizedType, *bias: Value, rows: int = 6) -> Op:
    return layer(nn.Gemm(), data((2, rows)), fixed(rows, 2, elem=elem), *bias)


WEIGHT_ONLY = (
    (product(I8_WEIGHT), None),
    (product(I4_WEIGHT), None),
    (product(I4_WEIGHT, rows=5), "an int4 weight of an odd number of input channels, 5 (N4)"),
    (product(I8_WEIGHT, fixed(2)), None),
    (product(I8_WEIGHT, data((2,), name="b")), "the bias is computed or quantized"),
    (product(replace(I8_WEIGHT, low=-127)), "only its weight is quantized, stored as i8"),
    (product(QuantizedType(I16, F32, (0.5,), (0,), None, *I16.integer_range)),
     "only its weight is quantized, stored as i16"),
    (product(QuantizedType.per_axis((0.5, 1.0), 1)), None),
    (product(QuantizedType.per_axis((0.5,) * 6, 0)), "weight scales run over another axis"),
    (product(QuantizedType.per_tensor(2.0**-24)), None),
    (product(QuantizedType.per_tensor(2.0**-25)), "a weight scale is beyond float16"),
    (product(QuantizedType.per_tensor(65504.0)), None),
    (product(QuantizedType.per_tensor(65505.0)), "a weight scale is beyond float16"),
    (layer(CONV, data(IMAGE), fixed(2, 4, 1, 1, elem=I8_WEIGHT)),
     "only its weight is quantized, and the target has no such convolution"),
    (layer(nn.Gemm(alpha=2.0), data((2, 6)), fixed(6, 2, elem=I8_WEIGHT)),
     "Gemm with factors alpha or beta (run fold-gemm-factors)"),
)  # fmt: skip


@pytest.mark.parametrize(("op", "reason"), WEIGHT_ONLY)
def test_integer_weights_under_float_data(op: Op, reason: str | None) -> None:
    assert weight_only_obstacle(op, WIDE) == reason


def test_integer_weights_of_other_targets() -> None:
    assert weight_only_obstacle(product(I8_WEIGHT), NARROW) == "narrow computes no integer weights under float data"
    assert weight_only_obstacle(product(I8_WEIGHT)) is None
    assert weight_only_obstacle(product(I4_WEIGHT, rows=5)) is None, "whether it exists at all"


def test_sparse_weights() -> None:
    assert sparse_obstacle(layer(CONV, data((1, 3, 6, 6)), fixed(2, 3, 1, 1))) is None
    assert sparse_obstacle(layer(CONV, data((1, 2, 6, 6)), fixed(2, 2, 1, 1))) == "only 2 input channels"
    assert sparse_obstacle(layer(replace(CONV, group=2), data(IMAGE), fixed(4, 2, 1, 1))) == "a grouped convolution"
    assert sparse_obstacle(layer(nn.MatMul(), data((2, 6)), fixed(6))) == "the constant side is no matrix"


def test_masked_weights() -> None:
    assert masking_obstacle(layer(nn.MatMul(), data((2, 6)), fixed(6, 2))) is None
    assert masking_obstacle(layer(nn.MatMul(), data((2, 6)), data((6, 2), name="w"))) == "both sides are computed"
    computed = layer(CONV, data(IMAGE), data((2, 4, 1, 1), name="w"))
    assert masking_obstacle(computed) == "the weight is computed, not constant"


DATA = QuantizedType.per_tensor(0.5)


def test_stored_activations() -> None:
    assert activation_obstacle(DATA, CHIP) is None
    assert activation_obstacle(QuantizedType.per_axis((0.5, 1.0), 1), CHIP) == "activations quantized per channel"
    wide = QuantizedType(I16, F32, (0.5,), (0,), None, *I16.integer_range)
    assert activation_obstacle(wide, CHIP) == "no rule says how ascend310 multiplies activations stored as i16"


def test_stored_weights() -> None:
    symmetric = "weights must be symmetric int8 (N10)"
    for elem, reason in (
        (I8_WEIGHT, None),
        (I4_WEIGHT, None),
        (QuantizedType.per_tensor(0.5, 1), symmetric),
        (QuantizedType(I16, F32, (0.5,), (0,), None, *I16.integer_range), symmetric),
        (QuantizedType.per_axis((0.5, 1.0), 1), None),
        (QuantizedType.per_axis((0.5,) * 6, 0), "weight scales do not run over output channels"),
    ):
        assert weight_obstacle(product(elem), DATA, WIDE) == reason
    odd = product(I4_WEIGHT, rows=5)
    assert weight_obstacle(odd, DATA, WIDE) == "an int4 weight of an odd number of input channels, 5 (N4)"


def test_stored_biases() -> None:
    def with_bias(bias: Value) -> str | None:
        return bias_obstacle(product(I8_WEIGHT, bias), DATA, I8_WEIGHT)

    def stored(scale: float, storage: ScalarType = I32) -> Value:
        return fixed(2, elem=QuantizedType(storage, F32, (scale,), (0,), None, *storage.integer_range))

    assert bias_obstacle(product(I8_WEIGHT), DATA, I8_WEIGHT) is None
    assert with_bias(stored(0.25)) is None
    assert with_bias(fixed(2)) == "its bias is not quantized"
    assert with_bias(stored(0.25, I8)) == "its bias is stored as i8"
    steps = "its bias has other steps than weight scale times activation scale (N9)"
    assert with_bias(stored(0.25 * (1 + 2.0**-20))) == steps


def test_a_pattern_that_matches_nothing_is_answered_with_names() -> None:
    known = ["conv1", "conv2", "fc"]
    assert matching(known, ["conv?", "fc"], "skip") == set(known)
    assert matching(["a[0]"], ["a[0]"], "skip") == {"a[0]"}, "a name is no pattern where it is one"
    for names, pattern, message in (
        (known, "conf1", "skip 'conf1' matches no layer; there are, for example, conv1"),
        (known, "xyz", "skip 'xyz' matches no layer; there are, for example, conv1, conv2, fc"),
        ([], "conv", "skip 'conv' matches no layer; the model has none"),
    ):
        with pytest.raises(UsageError) as caught:
            matching(names, [pattern], "skip")
        assert str(caught.value).startswith(message)
    with pytest.raises(UsageError, match="tensor 'x' matches no addition; the model has none"):
        matching([], ["x"], "tensor", noun="addition")

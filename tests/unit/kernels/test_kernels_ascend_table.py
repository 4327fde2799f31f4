"""Which kernel a profile's choices select: every choice that arises at run time, made both ways, on numbers by hand.

The table of the definitions and that of the fast kernels are held against the same numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, apply, const
from amctc.numerics.fixed_point import pack_dequant, pack_requant
from amctc.ops import ascend, nn
from amctc.targets import Profile, load_profile, profile_names
from amctc.types import F16, F32, I8, I32, Array, TensorType
from tests.unit.kernels.both_tables import evaluated, ran

A2, A310, A310P = (load_profile(n) for n in ("ascend910b1", "ascend310", "ascend310p3"))
INF = np.inf


def dequantized(acc: list[int], scale: float, profile: Profile, shift: int = 0, **fields: Any) -> list[float]:
    words = pack_dequant(np.float32([scale]), shift)
    kind = ascend.Dequant(1, fields.pop("to", F16), **fields)
    return list(ran(kind, np.int32([acc]), I32, words, profile=profile)[0])


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_kernels(name: str) -> None:
    assert dequantized([2, -4], 0.5, load_profile(name)) == [1, -2]
    x = np.float32([[1.25, -200]])
    assert list(ran(ascend.Quant(2.0, 3), x, F32, profile=load_profile(name))[0]) == [6, -128]


def test_dequantization_by_each_epilogue() -> None:
    """scale 1 + 2^-11: truncated to 1, as float16 a tie that rounds to 1; kept whole 2049/2048."""
    scale, acc = 1 + 2.0**-11, [2048 * 8, 2049]
    assert dequantized(acc, scale, A2) == [16384, 2048]  # 2049 is a tie of float16
    assert dequantized(acc, scale, A2.replace_choice("dequant_multiplier", "full")) == [16392 - 8, 2050]
    assert dequantized(acc, scale, A310) == [16384, 2048]
    rounded = A310P.replace_choice("dequant_multiplier", "round")
    assert dequantized([1024], 1 + 2**-10 + 2**-11, A310P) == [1025]
    assert dequantized([1024], 1 + 2**-10 + 2**-11, rounded) == [1026]


@pytest.mark.parametrize("profile", [A2, A310, A2.replace_choice("dequant_multiplier", "full")])
def test_dequantization_overflow_relu_and_type(profile: Profile) -> None:
    assert dequantized([70_000, -70_000], 1.0, profile) == [65504, -65504]
    infinite = profile.replace_choice("dequant_overflow", "inf")
    assert dequantized([70_000, -70_000], 1.0, infinite) == [INF, -INF]
    assert dequantized([-5, 5], 1.0, profile, relu=True) == [0, 5]
    wide = ran(ascend.Dequant(1, F32), np.int32([[2049]]), I32, np.float32([1.0]), profile=profile)
    assert (wide.dtype, wide[0, 0]) == (np.float32, 2048)


def test_guard_of_the_vector_epilogue() -> None:
    direct = A310.replace_choice("dequant_guard", "direct")
    assert dequantized([2**17], 2.0**-7, A310) == [1024]
    assert dequantized([2**17], 2.0**-7, direct) == [511.75]  # 65504 · 2^-7


def test_scales_too_small_for_float16_are_split_by_the_vector_epilogue() -> None:
    """2^-16 as 2^-8 twice: 2^20 + 2^8 is a tie of float16's 11 bits at 2^20, whose spacing is 2^10."""
    assert dequantized([2**20, 2**20 + 2**8], 2.0**-16, A310) == [16, 16]
    assert dequantized([3], 2.0**-20, A310) == [3 * 2.0**-20]


@pytest.mark.parametrize("profile", [A2, A310, A2.replace_choice("dequant_multiplier", "full")])
def test_field_n_of_the_parameter_word(profile: Profile) -> None:
    assert dequantized([-3, 1 << 20, 9], 1.0, profile, shift=1) == [-2, 32768, 4]
    plus = profile.replace_choice("shift_field", "n_plus_1")
    assert dequantized([-3, 1 << 20, 9], 1.0, plus, shift=1) == [-1, 32768, 2]
    assert dequantized([-3, 9], 1.0, plus) == [-3, 9]  # a field of 0 is no shift


def test_requantization_reads_offset_sign_and_shift_from_its_word() -> None:
    acc = np.int32([[-300, 6, 300]])
    words = pack_requant(np.float32([1.0]), 3, shift=1)
    assert list(ran(ascend.Requant(1, 3), acc, I32, words, profile=A2)[0]) == [-128, 6, 127]
    plus = A2.replace_choice("shift_field", "n_plus_1")
    assert list(ran(ascend.Requant(1, 3), acc, I32, words, profile=plus)[0]) == [-72, 4, 78]
    unsigned = pack_requant(np.float32([1.0]), 3, signed=False)
    assert list(ran(ascend.Requant(1, 3), acc, I32, unsigned, profile=A310)[0]) == [0, 9, 255]


def test_quantization_in_float32_and_float16() -> None:
    x = np.float32([[2051.0, 2053.5]])
    kind = ascend.Quant(0.25, -512)
    assert list(ran(kind, x, F32, profile=A2)[0]) == [1, 1]
    assert list(ran(kind, x, F32, profile=A310)[0]) == [1, 2]


def test_sqrt_mode_is_chosen_where_float16_holds_no_normal_scale() -> None:
    """2^-16 · 60000 = 0.916 by 2^-8 twice; in one step the scale itself would be subnormal. A split scale stays so."""
    x = np.float32([[60000.0, 32768.0]])
    assert list(ran(ascend.Quant(2.0**-16, 0), x, F32, profile=A310)[0]) == [1, 0]
    assert list(ran(ascend.Quant(2.0**-8, 0, I8, True), x, F32, profile=A310)[0]) == [1, 0]
    small = np.float32([[2.0**-16]])
    assert list(ran(ascend.Quant(2.0**18, 0), small, F32, profile=A310)[0]) == [4]


def test_sqrt_mode_in_float32_multiplies_twice_or_by_the_square() -> None:
    """s = 1.1 in float32: x·s·s and x·f32(s·s) round to both sides of a tie for some x."""
    rng = np.random.default_rng(0)
    root = float(np.float32(1.1))
    x = ((rng.integers(-100, 100, (1, 4096)) + 0.5) / root / root).astype(np.float32)
    kind = ascend.Quant(root, 0, I8, True)
    twice, square = (ran(kind, x, F32, profile=load_profile(n)) for n in ("ascend910b1", "ascend950"))
    f32 = np.float32
    np.testing.assert_array_equal(twice, np.rint((x * f32(root)) * f32(root)))
    np.testing.assert_array_equal(square, np.rint(x * (f32(root) * f32(root))))
    assert (twice != square).any()


def test_a_float16_overflow_in_the_quantizer_follows_the_islands() -> None:
    x = np.float32([[1e6]])
    kind = ascend.Quant(0.001, 0)
    assert list(ran(kind, x, F32, profile=A310)[0]) == [127]
    saturating = A310.replace_choice("island_overflow", "saturate")
    assert list(ran(kind, x, F32, profile=saturating)[0]) == [66]  # 65504 · f16(0.001) = 65.53


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (4, 2, 1, 1)])
def test_accumulators_outside_int32_saturate_or_wrap(shape: tuple[int, ...]) -> None:
    """2^31 - 1 + 127 · 127 · n leaves int32 by 16129·n - 1."""
    out, channels = shape[0], shape[1]
    weight, bias = np.full(shape, 127, np.int8), np.full(out, 2**31 - 1, np.int32)
    x = np.full((1, channels, 3, 3), 127, np.int8)
    added = 16129 * int(np.prod(shape[1:]))
    kind = ascend.Conv((1, 1), (0,) * 4, (1, 1))
    told: list[Any] = []
    kept = ran(kind, x, I8, weight, bias, profile=A2, told=told)
    assert set(kept.reshape(-1)) == {2**31 - 1}
    wrapped = ran(kind, x, I8, weight, bias, profile=A2.replace_choice("accumulate_overflow", "wrap"), told=told)
    assert set(wrapped.reshape(-1)) == {-(2**31) - 1 + added}
    assert told == 2 * [("ascend.conv", kept.size)]


def test_products_and_depthwise_sums_wrap_too() -> None:
    wrap = A2.replace_choice("accumulate_overflow", "wrap")
    x, w, bias = np.int8([[127, 127]]), np.full((2, 3), 127, np.int8), np.full(3, 2**31 - 1, np.int32)
    assert set(ran(ascend.MatMul(), x, I8, w, bias, profile=A2)[0]) == {2**31 - 1}
    assert set(ran(ascend.MatMul(), x, I8, w, bias, profile=wrap)[0]) == {-(2**31) - 1 + 2 * 16129}
    image, taps = np.full((1, 2, 1, 1), -128, np.int8), np.full((2, 1, 1, 1), 127, np.int8)
    least = np.full(2, -(2**31), np.int32)
    kind = ascend.Conv((1, 1), (0,) * 4, (1, 1), 2)
    assert set(ran(kind, image, I8, taps, least, profile=A2).reshape(-1)) == {-(2**31)}
    assert set(ran(kind, image, I8, taps, least, profile=wrap).reshape(-1)) == {2**31 - 128 * 127}


def test_float_islands_overflow_to_infinity_or_saturate() -> None:
    saturating = A2.replace_choice("island_overflow", "saturate")
    x = np.float16([[60000, -60000, 1, INF]])
    factor = np.float16([[2, 2, 2, 2]])
    assert list(ran(nn.Mul(), x, F16, factor, profile=A2)[0]) == [INF, -INF, 2, INF]
    finite = x[:, :3]
    assert list(ran(nn.Mul(), finite, F16, factor[:, :3], profile=saturating)[0]) == [65504, -65504, 2]
    assert list(ran(nn.Mul(), x, F16, factor, profile=saturating)[0]) == [INF, -INF, 2, INF]  # an infinity came in
    assert list(ran(nn.Add(), finite, F16, finite.copy(), profile=saturating)[0]) == [65504, -65504, 2]
    assert list(ran(nn.Cast(F16), np.float32([[1e6]]), F32, profile=saturating)[0]) == [65504]
    assert list(ran(nn.Relu(), x, F16, profile=saturating)[0]) == [60000, 0, 1, INF]
    narrow = ran(nn.Mul(), np.float32([[1e6, 3e38]]), F32, np.float32([[2]]), profile=saturating)
    assert narrow.tolist() == [[2e6, INF]]


@pytest.mark.parametrize(("choice", "beyond"), [("saturate", 2**31 - 1), ("wrap", 2**31 - 1 + 127 * 127 - 2**32)])
def test_overflows_of_a_transposed_convolution_are_told(choice: str, beyond: int) -> None:
    told: list[Any] = []
    profile = A2.replace_choice("accumulate_overflow", choice)
    kind = ascend.ConvTranspose((2,), (0, 0), (1,))
    x, weight, bias = np.int8([[[127, 127]]]), np.int8([[[127, 0]]]), np.int32([2**31 - 1])
    acc = ran(kind, x, I8, weight, bias, profile=profile, told=told)
    assert acc.tolist() == [[[beyond, 2**31 - 1, beyond, 2**31 - 1]]]
    assert told == [("ascend.conv_transpose", 2)]


def test_overflows_of_two_computed_sides_are_told() -> None:
    told: list[Any] = []
    shape = (1, 2**17)
    x, w = (GraphInput(n, TensorType(s, I8)) for n, s in (("x", shape), ("w", shape[::-1])))
    graph = Graph((x, w), (apply(ascend.BatchMatMul(), x, w),), ("y",))
    feeds = {"x": np.full(shape, -128, np.int8), "w": np.full(shape[::-1], -128, np.int8)}
    for choice, expected in (("saturate", 2**31 - 1), ("wrap", -(2**31))):
        profile = A2.replace_choice("accumulate_overflow", choice)
        assert evaluated(graph, feeds, profile, told).tolist() == [[expected]]
    assert told == 2 * [("ascend.batch_matmul", 1)]


@pytest.mark.parametrize(("choice", "wanted"), [("input", 1025.0), ("f32", 1024.0)])
def test_type_of_the_weights_of_a_weight_only_product(choice: str, wanted: float) -> None:
    """1 + 2^-10 + 2^-11 is a tie of float16, up to 1 + 2^-9: 341 · 3 times that is 1024.998, unrounded 1024.4985."""
    profile = A2.replace_choice("weight_only_type", choice)
    x, weight, scale = np.float16([[341]]), np.int8([[3]]), np.float32([1 + 2.0**-10 + 2.0**-11])
    y = ran(ascend.WeightQuantMatMul(), x, F16, weight, scale, profile=profile)
    assert (y.dtype, float(y[0, 0])) == (np.float16, wanted)


def test_float32_data_meets_unrounded_weights() -> None:
    scale = np.float32([0.3002])
    y = ran(ascend.WeightQuantMatMul(), np.float32([[1]]), F32, np.int8([[100]]), scale, profile=A2)
    assert y[0, 0] == np.float32(100) * scale[0]


GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden" / "fakequant_avgpool.npz"


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the golden vectors are not here")
def test_average_of_the_existing_tool() -> None:
    """It counts padding as zeros, averages what the quantizer gives, multiplies by scale_d and a weight scale of 1/9.

    Its float sums of nine terms are off by some units of 2^-24 of at most 9 · 255.
    """
    with np.load(GOLDEN) as file:
        x, wanted, p = file["in_x"], file["out_y"], json.loads(str(file["params_json"]))
    kernel = (p["kernel"],) * 2
    given = GraphInput("x", TensorType(x.shape, F32))
    reciprocal = float(np.float32(1) / np.float32(p["scale_d"]))
    q = apply(ascend.Quant(reciprocal, p["offset_d"]), given)
    pool = ascend.SumPool((p["stride"],) * 2, (p["padding"],) * 4, (1, 1), kernel, p["offset_d"])
    scale = np.float32([p["scale_d"] * p["weight_scale"]])
    y = apply(ascend.Dequant(1, F32, divisor=pool.area), apply(pool, q), const(scale))
    full = A2.replace_choice("dequant_multiplier", "full")
    found = evaluated(Graph((given,), (y,), ("y",)), {"x": x}, full)
    np.testing.assert_allclose(found, wanted, rtol=2.0**-11, atol=9 * 255 * 2.0**-23 * scale[0])


def image_pool(kind: Any, x: Array, profile: Profile = A2) -> Array:
    return ran(kind, x, I8, profile=profile)[0, 0]


def test_a_pool_of_integers_takes_every_attribute_of_its_window() -> None:
    """A ramp 0 … 63 through windows whose first row is 3r - 1 and first column 2c - 2.

    Outside counts as nothing in a maximum and as ``offset_x`` in a sum, which has no dilations.
    """
    x = np.arange(64, dtype=np.int8).reshape(1, 1, 8, 8)
    window = {"kernel": (2, 3), "pads": (1, 2, 0, 1), "strides": (3, 2)}

    def windows(outside: int, dilation: int) -> list[list[Array]]:
        padded = np.pad(x[0, 0].astype(int), ((1, 0), (2, 1)), constant_values=outside)
        rows = [slice(3 * r, 3 * r + dilation + 1, dilation) for r in range(3)]
        return [[padded[row, 2 * c : 2 * c + 3] for c in range(5)] for row in rows]

    largest = [[w.max() for w in row] for row in windows(-128, 2)]
    np.testing.assert_array_equal(image_pool(nn.MaxPool(**window, dilations=(2, 1)), x), largest)
    sums = [[(w - 7).sum() for w in row] for row in windows(7, 1)]
    np.testing.assert_array_equal(image_pool(ascend.SumPool(**window, dilations=(1, 1), offset_x=7), x), sums)


def test_a_pool_of_integers_rounds_its_extent_up_in_ceil_mode() -> None:
    x = np.arange(16, dtype=np.int8).reshape(1, 1, 4, 4)
    window = {"kernel": (2, 2), "pads": (0,) * 4, "dilations": (1, 1), "strides": (3, 3)}
    np.testing.assert_array_equal(image_pool(nn.MaxPool(**window, ceil_mode=True), x), [[5, 7], [13, 15]])
    np.testing.assert_array_equal(image_pool(nn.MaxPool(**window), x), [[5]])

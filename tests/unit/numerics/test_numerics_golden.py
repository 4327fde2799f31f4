"""Against vectors of the existing tool (AMCT): weights, biases, parameter words, fake-quantized layers.

The vectors lie beside the checkout, in ``../shared/golden``; without them these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amctc.numerics.affine import (
    accumulator_scale,
    affine_parameters,
    dequantize_linear,
    fits_int32,
    quantize_bias,
    quantize_linear,
    quantize_weight,
    weight_scales,
)
from amctc.numerics.exact_gemm import PackedWeight
from amctc.numerics.fixed_point import pack_dequant, unpack_dequant
from amctc.numerics.rounding import truncate_multiplier

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden vectors are not beside this checkout")


def cases(pattern: str) -> list[str]:
    return sorted(p.stem for p in GOLDEN.glob(f"{pattern}.npz"))


def load(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = {key: data[key] for key in data.files}
    return json.loads(str(arrays["params_json"])), arrays


def channel_rows(w: np.ndarray, name: str, groups: int) -> np.ndarray:
    """The weight as (Cout, K); a ConvTranspose weight is (Cin, Cout/groups, kh, kw) and goes group by group."""
    if "convt" in name:
        per_group = w.shape[0] // groups
        w = w.reshape(groups, per_group, *w.shape[1:]).swapaxes(1, 2)
        return w.reshape(groups * w.shape[1], -1)
    return w.reshape(w.shape[0], -1)


@pytest.mark.parametrize("name", cases("arq_*sym*"))
def test_weights(name: str) -> None:
    parameters, data = load(name)
    if parameters["with_offset"]:
        check_asymmetric(parameters, data, name)
        return
    bits, groups = parameters["num_bits"], parameters.get("groups", 1)
    rows = channel_rows(data["in_weight"], name, groups)
    scales = weight_scales(rows, axis=0 if parameters["channel_wise"] else None, bits=bits)
    np.testing.assert_array_equal(scales, data["out_scale"])
    codes = quantize_weight(rows, scales, axis=0, bits=bits)
    np.testing.assert_array_equal(codes, channel_rows(data["out_int_weight"], name, groups))


def check_asymmetric(parameters: dict[str, Any], data: dict[str, np.ndarray], name: str) -> None:
    """The tool rounds max - min to float32 before it divides, we round once: the scales differ by one ulp at most."""
    rows = channel_rows(data["in_weight"], name, parameters.get("groups", 1)).astype(np.float64)
    rows = rows if parameters["channel_wise"] else rows.reshape(1, -1)
    pairs = [affine_parameters(r.min(), r.max(), bits=parameters["num_bits"]) for r in rows]
    np.testing.assert_array_max_ulp(np.array([s for s, _ in pairs], np.float32), data["out_scale"], maxulp=1)
    np.testing.assert_array_equal([z for _, z in pairs], data["out_offset"])


def test_weights_around_the_dead_channel_rule() -> None:
    _, data = load("arq_edge_eps")
    scales = weight_scales(data["in_weight"], axis=0)
    np.testing.assert_array_equal(scales, data["out_sym_scale"])
    np.testing.assert_array_equal(quantize_weight(data["in_weight"], scales, axis=0), data["out_sym_int8"])
    for row, offset in zip(data["in_weight"].astype(np.float64), data["out_asym_offset"], strict=True):
        assert affine_parameters(row.min(), row.max())[1] == offset


def test_bias() -> None:
    _, data = load("bias_quant")
    for scales, expected in (
        (data["in_scale_w"], data["out_bias_i32"]),
        (data["in_scale_w"][:1], data["out_bias_i32_per_tensor"]),
    ):
        got = quantize_bias(data["in_bias"], accumulator_scale(scales, data["in_scale_d"]))
        np.testing.assert_array_equal(got, expected)


def test_bias_range_where_the_tool_wraps() -> None:
    """The tool lets 2**31 through its float32 check and wraps to -2**31; we call it out of range."""
    _, data = load("bias_quant_range")
    assert data["out_over_hi"][0] == -(2**31)
    codes = quantize_bias([2.0**31, -(2.0**31), 2147483520.0], 1.0)
    assert fits_int32(codes).tolist() == [False, True, True]
    assert codes[2] == data["out_below_hi"][0]


def test_dequant_words() -> None:
    _, data = load("deq_fuse_param")
    np.testing.assert_array_equal(pack_dequant(data["in_deq_scale"], 0, data["in_offset_w"]), data["out_param_u64"])
    scale, shift, offset = unpack_dequant(data["out_param_u64"])
    np.testing.assert_array_equal(scale, data["out_split_scale"])
    np.testing.assert_array_equal(offset, data["out_split_offset"])
    assert not shift.any()
    # The tool writes a non-zero weight offset into the shift field (a defect); readers use bits 40–47, as we do (N11).
    np.testing.assert_array_equal(unpack_dequant(data["out_param_u64_nz"])[2], data["out_split_offset_nz"])
    words = pack_dequant(data["in_deq_scale"], 0, data["in_offset_w_nz"])
    np.testing.assert_array_equal(unpack_dequant(words)[2], data["in_offset_w_nz"])


def test_truncated_dequant_words() -> None:
    _, data = load("deq_s19_params")
    truncated = truncate_multiplier(data["in_deq_scale"])
    np.testing.assert_array_equal(truncated, data["out_s19"])
    np.testing.assert_array_equal(pack_dequant(truncated), data["out_param_u64"])


def test_multiplier_truncation_to_the_bit() -> None:
    _, data = load("util_cast_to_s19")
    got = truncate_multiplier(data["in_x"])
    np.testing.assert_array_equal(got.view(np.uint32), data["out_y"].view(np.uint32))


@pytest.mark.parametrize("offset", [0, -5, 100])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_dequantize_tensor(bits: int, offset: int) -> None:
    """The tool multiplies by 1/scale, we divide (N5): equal but for a step where the quotient is next to a tie."""
    _, data = load("util_quant_dequant_tensor")
    x, scale = data["in_x"], np.float32(0.031)
    q = quantize_linear(x, scale, offset, low=-(2 ** (bits - 1)), high=2 ** (bits - 1) - 1)
    steps = np.rint((dequantize_linear(q, scale, offset) - data[f"out_b{bits}_off{offset}"]) / scale)
    check_only_ties_differ(x, scale, steps)


@pytest.mark.parametrize("offset", [0, -128, 127, -37])
def test_activation_edges(offset: int) -> None:
    parameters, data = load("fakequant_quant_edges")
    scale = np.float32(parameters["scale_d"])
    q = quantize_linear(data["in_x"], scale, offset, low=-128, high=127)
    difference = q.astype(np.int64) - offset - data[f"out_off{offset}"]
    check_only_ties_differ(data["in_x"], scale, difference)


def check_only_ties_differ(x: np.ndarray, scale: np.float32, steps: np.ndarray) -> None:
    """Differences are single steps, where x / scale is a tie up to the two roundings of the reciprocal form."""
    assert set(np.unique(steps)) <= {-1.0, 0.0, 1.0}
    quotient = x.astype(np.float64) / np.float64(scale)
    from_tie = np.abs(quotient - np.floor(quotient) - 0.5)
    # two float32 roundings, each half an ulp: 2**-24 relative; plus ours
    assert (from_tie <= 3 * 2.0**-24 * np.abs(quotient))[steps != 0].all()


@pytest.mark.parametrize("name", cases("fakequant_conv_off*") + cases("fakequant_linear_off*"))
def test_fake_quantized_layers(name: str) -> None:
    """Weights, bias, activations and the folded integer accumulator (N8) of whole layers."""
    parameters, data = load(name)
    scale_d, offset = data["in_scale_d"], parameters["offset_d"]
    w, scales = data["in_weight"], data["out_scale_w"]
    np.testing.assert_array_equal(weight_scales(w, axis=0 if scales.size > 1 else None), scales)
    codes = quantize_weight(w, scales, axis=0)
    np.testing.assert_array_equal(codes, data["out_int_weight"])
    bias = quantize_bias(data["in_bias"], accumulator_scale(scales, scale_d))
    np.testing.assert_array_equal(bias, data["out_bias_i32"])
    x = quantize_linear(data["in_x"], scale_d, offset, low=-128, high=127)
    np.testing.assert_array_equal(x.astype(np.int64) - offset, data["out_x_q_minus_offset"])

    matrix = codes.reshape(codes.shape[0], -1).T
    rows = x if x.ndim == 2 else image_to_rows(x, codes.shape[2:], parameters, padding=offset)
    folded = bias - offset * matrix.sum(axis=0, dtype=np.int64)
    got, outside = PackedWeight(matrix, folded).matmul(rows)
    acc = data["out_acc"]
    expected = acc if acc.ndim == 2 else acc.transpose(0, 2, 3, 1).reshape(-1, acc.shape[1])
    assert outside == 0
    np.testing.assert_array_equal(got, expected)


def image_to_rows(x: np.ndarray, kernel: tuple[int, ...], parameters: dict[str, Any], padding: int) -> np.ndarray:
    """One row of Cin·kh·kw codes per output pixel; the border holds the code of real zero (N8)."""
    pad, stride = parameters["padding"], parameters["stride"]
    widths = ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1]))
    padded = np.pad(x, widths, constant_values=np.int8(padding))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * kernel[0] * kernel[1])

"""Resampling against positions worked out by hand from the formulas of ONNX Resize."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.kernels.resize import nearest_positions, resize_linear, resize_nearest, source_positions


@pytest.mark.parametrize(
    ("coordinates", "size", "count", "positions"),
    [
        ("asymmetric", 2, 4, [0, 0.5, 1, 1.5]),
        ("half_pixel", 2, 4, [-0.25, 0.25, 0.75, 1.25]),
        ("pytorch_half_pixel", 2, 4, [-0.25, 0.25, 0.75, 1.25]),
        ("half_pixel", 4, 1, [1.5]),
        ("pytorch_half_pixel", 4, 1, [0]),
        ("align_corners", 3, 5, [0, 0.5, 1, 1.5, 2]),
        ("align_corners", 3, 1, [0]),
    ],
)
def test_positions(coordinates: str, size: int, count: int, positions: list[float]) -> None:
    scale = np.float32(count) / np.float32(size)
    np.testing.assert_array_equal(source_positions(size, count, scale, coordinates), np.float32(positions))


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("floor", [-1, 0, 0, 1, 2, 3]),
        ("ceil", [0, 1, 1, 2, 3, 4]),
        ("round_prefer_floor", [-1, 0, 0, 1, 2, 3]),
        ("round_prefer_ceil", [0, 0, 1, 2, 3, 4]),
    ],
)
def test_roundings(rounding: str, expected: list[float]) -> None:
    """The last one is 3.5 as the float32 quotient 2 / (4/7) gives it."""
    positions = np.float32([-0.5, 0.25, 0.5, 1.5, 2.5, np.float32(2) / (np.float32(4) / np.float32(7))])
    np.testing.assert_array_equal(nearest_positions(positions, rounding), np.float32(expected))


def test_nearest_keeps_integers_and_repeats_the_border() -> None:
    x = np.int8([[10, 20], [30, 40]])
    grown = resize_nearest(x, axes=(0, 1), scales=(1.5, 2.0), coordinates="asymmetric", rounding="ceil")
    assert grown.dtype == np.int8
    np.testing.assert_array_equal(grown, [[10, 20, 20, 20], [30, 40, 40, 40], [30, 40, 40, 40]])
    assert resize_nearest(x, axes=(-1,), sizes=(1,)).tolist() == [[10], [30]]  # 0.5 is nearer to the floor


def test_linear() -> None:
    x = np.float32([[0, 4]])
    np.testing.assert_array_equal(resize_linear(x, axes=(1,), sizes=(4,)), [[0, 1, 3, 4]])  # -0.25, 0.25, 0.75, 1.25
    np.testing.assert_array_equal(resize_linear(x, axes=(1,), sizes=(3,), coordinates="align_corners"), [[0, 2, 4]])
    both = resize_linear(np.float32([[0, 4], [8, 12]]), axes=(0, 1), scales=(2.0, 2.0), coordinates="asymmetric")
    np.testing.assert_array_equal(both, [[0, 2, 4, 4], [4, 6, 8, 8], [8, 10, 12, 12], [8, 10, 12, 12]])


def test_linear_in_other_precisions_and_beside_infinity() -> None:
    assert resize_linear(np.float16([0, 1]), axes=(0,), sizes=(4,)).tolist() == [0, 0.25, 0.75, 1]
    assert resize_linear(np.float64([0, 1]), axes=(0,), sizes=(3,)).dtype == np.float64
    infinite = np.float32([1, np.inf])
    assert resize_linear(infinite, axes=(0,), scales=(2.0,), coordinates="asymmetric").tolist() == [1, *[np.inf] * 3]


def test_the_number_of_elements_is_a_float32_product() -> None:
    assert resize_nearest(np.zeros(10), axes=(0,), scales=(2.1,)).shape == (21,)  # 20.999999 in float64
    assert resize_nearest(np.zeros(3), axes=(0,), scales=(0.6,)).shape == (1,)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("floor", [0, 0, 0, 0, 1]),
        ("ceil", [0, 1, 1, 1, 2]),
        ("round_prefer_floor", [0, 0, 0, 1, 1]),
        ("round_prefer_ceil", [0, 0, 1, 1, 2]),
    ],
)
def test_nearest_positions_by_hand(rounding: str, expected: list[int]) -> None:
    assert nearest_positions(np.float32([0, 0.25, 0.5, 0.75, 1.5]), rounding).tolist() == expected

"""Window geometry: the output size formula, padding, blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.kernels.tiles import TILE, map_tiles
from amctc.kernels.windows import (
    Window,
    blocks,
    channels_last,
    pad_axes,
    pad_for,
    patch_view,
    tap_views,
)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "dilation", "ceil_mode", "count"),
    [
        (5, 3, 1, (0, 0), 1, False, 3),
        (5, 3, 2, (1, 1), 1, False, 3),
        (5, 2, 2, (0, 0), 1, False, 2),
        (5, 2, 2, (0, 0), 1, True, 3),  # the last window sticks out
        (5, 3, 1, (0, 0), 2, False, 1),  # the window spans 5
        (4, 1, 3, (0, 2), 1, True, 2),  # a third window would start at 6, past 4 inputs: in the end padding, dropped
        (4, 1, 3, (0, 2), 1, False, 2),
        (2, 2, 3, (0, 3), 1, False, 2),  # floor mode keeps a window that starts in the end padding
        (2, 2, 3, (0, 3), 1, True, 1),
        (2, 2, 3, (1, 3), 1, True, 2),  # windows at 0, 3, 6: the rule drops only the last
    ],
)
def test_output_size(size, kernel, stride, pads, dilation, ceil_mode, count):
    window = Window((kernel,), (stride,), pads, (dilation,), ceil_mode)
    assert window.output_shape((size,)) == (count,)


def test_a_window_larger_than_its_input_is_refused():
    with pytest.raises(InputError, match="does not fit"):
        Window((4,), (1,), (0, 0), (1,)).output_shape((3,))
    with pytest.raises(InputError, match="does not fit"):
        Window((1,), (1,), (1, 1), (1,)).output_shape((0,))


@pytest.mark.parametrize("changes", [{"kernel": (0,)}, {"strides": (0,)}, {"pads": (-1, 0)}, {"pads": (0,)}])
def test_a_malformed_window_is_refused(changes):
    with pytest.raises(InputError, match="window"):
        Window(**({"kernel": (2,), "strides": (1,), "pads": (0, 0), "dilations": (1,)} | changes))


def test_a_window_of_another_rank_is_refused():
    with pytest.raises(InputError, match="2 axes"):
        Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)).output_shape((3,))


def test_pad_axes_extends_and_crops_and_keeps_the_memory_order():
    x = np.arange(24, dtype=np.int8).reshape(1, 3, 4, 2).transpose(0, 3, 1, 2)  # channels last in memory
    padded = pad_axes(x, (1, -1), (0, 2), 7)
    expected = np.pad(x[:, :, :, 1:], ((0, 0), (0, 0), (1, 0), (0, 2)), constant_values=7)
    np.testing.assert_array_equal(padded, expected)
    assert np.moveaxis(padded, 1, -1).flags.c_contiguous
    assert pad_axes(x, (0, 0), (0, 0), 7) is x


@given(
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    capacity=st.integers(0, 40),
)
def test_blocks_cover_every_position_once(shape, capacity):
    seen = np.zeros(shape, int)
    for box in blocks(shape, capacity):
        seen[box] += 1
        assert seen[box].size <= max(capacity, 1)
    assert (seen == 1).all()


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.tuples(*[st.integers(0, 3)] * 2))
def test_patches_and_taps_hold_the_same_elements(size, kernel, stride, dilation, pads):
    window = Window((kernel, kernel), (stride, 1), (*pads, *pads), (dilation, 1))
    x = np.random.default_rng(0).integers(-9, 9, (2, 3, size + 4, size + 2)).astype(np.int8)
    out = window.output_shape(x.shape[2:])
    padded = pad_for(x, window, 5)
    patches = patch_view(channels_last(padded), window, out)
    full = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[0]), (pads[1], pads[1])), constant_values=5)
    for tap, view in tap_views(padded, window, out):
        np.testing.assert_array_equal(view, np.moveaxis(patches[:, :, :, tap[0], tap[1]], -1, 1))
        np.testing.assert_array_equal(view[:, :, -1, 0], full[:, :, (out[0] - 1) * stride + tap[0] * dilation, tap[1]])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4, 5), (1, 2, TILE // 2 + 3)])
@pytest.mark.parametrize("channelled", [False, True])
def test_map_tiles_equals_the_whole_array_operation_in_any_layout(shape, channelled):
    x = np.random.default_rng(1).integers(-99, 99, shape).astype(np.int32)
    axis = min(1, len(shape) - 1)
    if channelled and not shape:
        pytest.skip("a scalar has no channels")
    factor = np.arange(1, shape[axis] + 1, dtype=np.float32) if channelled else np.float32([3])
    where = factor.reshape(-1, *(1,) * (len(shape) - 1 - axis)) if channelled else 3

    def step(tile, out, factor):
        np.multiply(tile, factor, out=out, casting="unsafe")

    for view in (x, x.T.copy().T, np.repeat(x[..., None], 2, axis=-1)[..., 1]):
        y = map_tiles(step, view, np.float32, factor, channel_axis=axis if channelled else None)
        np.testing.assert_array_equal(y, (x * where).astype(np.float32))
        assert y.shape == shape
        assert y.size == math.prod(shape)


def test_map_tiles_refuses_a_parameter_of_the_wrong_length():
    with pytest.raises(InputError, match="do not fit axis"):
        map_tiles(lambda *_: None, np.zeros((2, 3)), np.float32, np.ones(2, np.float32), channel_axis=1)


def test_a_window_over_no_axes_fits_once() -> None:
    window = Window((), (), (), ())
    assert window.output_shape(()) == ()
    assert window.fitted_ends((), ()) == ()

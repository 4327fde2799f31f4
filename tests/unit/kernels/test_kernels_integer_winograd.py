"""Winograd's convolution has the sums of the direct one, at the limits of its proof too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.kernels import integer_winograd as winograd
from amctc.kernels.integer_epilogue import fixpipe_requantizer, requantize_fixpipe
from amctc.kernels.integer_linear import PatchConv, prepare_conv
from amctc.kernels.integer_reference import conv_sums
from amctc.kernels.integer_winograd import WinogradConv, is_exact
from amctc.kernels.windows import Window
from amctc.numerics.exact_gemm import EXACT_FLOAT32
from amctc.types import Array


def convs(weight: Array, pads: tuple[int, ...] = (1, 1, 1, 1), offset: int = 0) -> tuple[WinogradConv, PatchConv]:
    """Both ways to one layer, with a bias that differs by channel."""
    window = Window((3, 3), (1, 1), pads, (1, 1))
    folded = np.arange(len(weight), dtype=np.int64) * 77 - 5 - offset * weight.reshape(len(weight), -1).sum(axis=1)
    direct = PatchConv(weight, folded, window, 1, offset, False)
    return WinogradConv(weight, folded, window, offset, direct), direct


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)), batch=st.integers(1, 3), inputs=st.integers(1, 5),
    outputs=st.integers(1, 4), pads=st.tuples(*[st.integers(0, 2)] * 4), offset=st.sampled_from([0, -128, 7]),
    tiles=st.sampled_from([1, 7, 999]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(
    size: tuple[int, int], batch: int, inputs: int, outputs: int, pads: tuple[int, ...], offset: int, tiles: int,
    seed: int,
) -> None:  # fmt: skip
    """Odd sizes, images and rows in any number of blocks."""
    rng = np.random.default_rng(seed)
    fast, direct = convs(rng.integers(-128, 128, (outputs, inputs, 3, 3)).astype(np.int8), pads, offset)
    x = rng.integers(-128, 128, (batch, inputs, *size)).astype(np.int8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "LEAST_ROWS", 0)
        patch.setattr(winograd, "MOST_WORK", 99)
        patch.setattr(winograd, "BLOCK_TILES", tiles)
        acc = fast(x)
        np.testing.assert_array_equal(acc, direct(x))
        scale = np.float32(2.0**-9) * (1 + np.arange(outputs, dtype=np.float32) / 1024)
        (given,) = fast.finished(x, fixpipe_requantizer(scale, -3))
        np.testing.assert_array_equal(given, requantize_fixpipe(acc, scale, -3))


def extreme_data(weight: Array) -> Array:
    """Tiles for which some number on the way is as large as it can be: each form's, of the first output channel."""
    along = np.einsum("fb,bj,bk->fjk", winograd.FORMS, winograd.DATA, winograd.WEIGHT)
    forms = np.einsum("aik,bjl,ckl->abcij", along, along, weight[0].astype(np.float32))
    largest = np.where(forms < 0, -128, 127).reshape(-1, *forms.shape[2:])
    return np.concatenate([largest, -1 - largest]).astype(np.int8)


@pytest.mark.parametrize(("inputs", "exact"), [(28, True), (29, False)])
def test_the_limit_of_the_proof(inputs: int, exact: bool) -> None:
    """Of weights 127 the innermost product is the largest: 512 · 9/4 · 127 · 28 ≤ 2^24 / 4, not with 29 channels."""
    assert (512 * 9 * 127 * inputs <= EXACT_FLOAT32) == exact
    for signs in (1, -1):
        weight = np.full((2, inputs, 3, 3), 127 * signs, np.int8)
        assert is_exact(weight) == exact
        if exact:
            fast, _ = convs(weight, (0,) * 4)
            x = extreme_data(weight)
            wanted = conv_sums(x, weight, np.arange(2, dtype=np.int32) * 77 - 5, strides=(1, 1), pads=(0,) * 4,
                               dilations=(1, 1), group=1, offset_x=0)  # fmt: skip
            np.testing.assert_array_equal(fast(x), wanted)


def test_every_form_is_bounded_at_its_largest() -> None:
    """``is_exact`` scaled up until it fails: the numbers that it bounds are computed here in integers, times 16."""
    rng = np.random.default_rng(2)
    for _ in range(12):
        weight = rng.integers(-128, 128, (1, 4, 3, 3)).astype(np.int8)
        weight[:, :, rng.integers(3)] = rng.choice([0, 127])
        along = np.einsum("fb,bj,bk->fjk", winograd.FORMS, winograd.DATA, winograd.WEIGHT)
        needed = []
        for a, b in itertools.product(range(8), range(8)):
            if a < 4 or b in winograd.RESULTS:
                form = np.einsum("ik,jl,ckl->cij", along[a], along[b], weight[0].astype(np.float64))
                needed.append(128 * np.abs(form).sum() / (winograd.UNITS[a] * winograd.UNITS[b]))
        copies = int(EXACT_FLOAT32 // max(needed))
        assert is_exact(np.tile(weight, (1, copies, 1, 1)))
        assert not is_exact(np.tile(weight, (1, copies + 1, 1, 1)))


def test_units() -> None:
    """What a form is a multiple of, for integers drawn: and not of twice that."""
    rng = np.random.default_rng(1)
    along = np.einsum("fb,bj,bk->fjk", winograd.FORMS, winograd.DATA, winograd.WEIGHT)
    values = np.einsum("fjk,nj,nk->fn", along, rng.integers(-9, 9, (200, 4)), rng.integers(-9, 9, (200, 3)))
    for row, unit in zip(values, winograd.UNITS, strict=True):
        assert (row % unit == 0).all()
        assert (row % (2 * unit) != 0).any()


def test_which_layers_and_data_it_is_for() -> None:
    rng = np.random.default_rng(0)
    channels = winograd.LEAST_CHANNELS
    weight = rng.integers(-30, 31, (channels, channels, 3, 3)).astype(np.int8)

    def prepared(weight: Array, stride: int = 1, group: int = 1) -> object:
        return prepare_conv(weight, None, strides=(stride, 1), pads=(1,) * 4, dilations=(1, 1), group=group)

    fast = prepared(weight)
    assert isinstance(fast, WinogradConv)
    assert str(fast) == "Winograd's tiles of 4 by 4, of small data product of patches"
    others = (prepared(weight, 2), prepared(weight[:-1]), prepared(weight[:, :, :1]), prepared(weight, group=2),
              prepared(np.full_like(weight, 127)))  # fmt: skip
    assert not any(isinstance(other, WinogradConv) for other in others)
    for batch, size, used in (
        (1, 12, True),
        (1, 11, True),
        (1, 10, False),
        (2, 10, True),
        (99, 3, False),
        (0, 12, False),
    ):
        assert fast._worthwhile(np.zeros((batch, channels, size, size), np.int8)) == used

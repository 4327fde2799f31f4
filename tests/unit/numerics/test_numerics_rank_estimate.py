"""Which layers the existing tool splits and to which rank: its vectors, planted ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from amctc.errors import InputError
from amctc.numerics.low_rank import singular_values, split_spatial
from amctc.numerics.rank_estimate import SplitMode, evbmf_rank, multiple_of, split_mode, split_rank

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden vectors are not beside this checkout")


def convolved(x: np.ndarray, w: np.ndarray, stride: tuple[int, int], pad: tuple[int, int]) -> np.ndarray:
    """Convolution of [N, I, H, W] in float64, the plain definition."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    return np.einsum("nihwyx,oiyx->nohw", windows, w.astype(np.float64), optimize=True)


@needs_golden
def test_decisions() -> None:
    table = np.load(GOLDEN / "decomp_decision_table.npz")["out_table"].tolist()
    assert len(table) == 3240
    for inputs, outputs, height, width, stride, group, dilation, mode in table:
        pairs = {"strides": (stride, stride), "dilations": (dilation, dilation)}
        assert split_mode(inputs, outputs, (height, width), group=group, **pairs) == mode


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "mode"),
    [
        (64, 64, (3, 3), SplitMode.SECOND_CHANNEL_FIRST_KERNEL),
        (64, 65, (5, 3), SplitMode.SECOND_CHANNEL_SECOND_KERNEL),
        (65, 64, (3, 5), SplitMode.FIRST_CHANNEL_FIRST_KERNEL),
        (65, 64, (5, 3), SplitMode.FIRST_CHANNEL_SECOND_KERNEL),
        (63, 64, (3, 3), SplitMode.UNCHANGED),  # a small kernel needs 64 channels
        (63, 64, (6, 9), SplitMode.UNCHANGED),
        (3, 64, (7, 7), SplitMode.SECOND_CHANNEL_FIRST_KERNEL),
        (2, 64, (8, 8), SplitMode.SECOND_CHANNEL_FIRST_KERNEL),  # 16 rows
        (2, 64, (7, 7), SplitMode.UNCHANGED),  # 14 rows
        (64, 64, (2, 9), SplitMode.UNCHANGED),
    ],
)
def test_decisions_by_hand(inputs: int, outputs: int, kernel: tuple[int, int], mode: SplitMode) -> None:
    assert split_mode(inputs, outputs, kernel) == mode
    assert split_mode(inputs, outputs, kernel, strides=(2, 2)) == mode
    for decided in ({"strides": (1, 3)}, {"strides": (3, 1)}, {"group": 2}, {"dilations": (2, 1)}):
        assert split_mode(inputs, outputs, kernel, **decided) is SplitMode.UNCHANGED


def test_which_convolution_comes_first() -> None:
    assert [mode.vertical_first for mode in SplitMode] == [False, False, True, True, False]


def test_ranks_by_hand() -> None:
    # Noise alone has rank 0, so the lower bound holds: 3·64 = 192 values, 192 // 7 = 27 -> 32; 3·256 // 5 = 153 -> 160.
    assert split_rank(np.ones(192), 64, 64, (3, 3)) == 32
    assert split_rank(np.ones(768), 256, 256, (3, 3)) == 160
    # More signal than that: the upper bounds 192 // 6 = 32 and 768 // 4 = 192 hold.
    assert split_rank(np.append(np.full(40, 1e3), np.full(152, 1e-3)), 64, 64, (3, 3)) == 32
    assert split_rank(np.append(np.full(200, 1e3), np.full(568, 1e-3)), 256, 256, (3, 3)) == 192
    # Rounding to a multiple of 16 stops at the number of values: 7·2 = 14.
    assert split_rank(np.ones(14), 2, 64, (7, 7)) == 14


def test_multiples_by_hand() -> None:
    assert [multiple_of(r) for r in (0, 16, 23, 24, 27, 40, 41)] == [16, 16, 32, 32, 32, 48, 48]
    assert [multiple_of(r, 10, 0) for r in (0, 4, 5, 14, 15, 54)] == [0, 10, 10, 20, 20, 50]


@needs_golden
def test_multiples() -> None:
    for rank, step, least, expected in np.load(GOLDEN / "decomp_makedivisible_table.npz")["out_table"].tolist():
        assert multiple_of(rank, step, least) == expected


@needs_golden
@pytest.mark.parametrize("name", ["scfk", "fcfk", "scsk", "fcsk", "k7", "unch"])
def test_golden_convolutions(name: str) -> None:
    """Mode, shapes and the function computed; the tool puts all of S into one factor, so factors differ."""
    with np.load(GOLDEN / f"decomp_conv_{name}.npz") as data:
        w, p = data["in_weight"], json.loads(str(data["params_json"]))
        stride = (p["stride"], p["stride"])
        mode = split_mode(w.shape[1], w.shape[0], w.shape[2:], strides=stride)
        assert mode == data["out_mode"]
        if mode is SplitMode.UNCHANGED:
            return
        vertical = mode.vertical_first
        s = singular_values(w, "spatial", vertical_first=vertical)
        rank = split_rank(s, w.shape[1], w.shape[0], w.shape[2:])
        first, last = split_spatial(w, rank, vertical_first=vertical)
        assert first.shape == tuple(data["out_first_shape"])
        assert last.shape == tuple(data["out_last_shape"])
        sh, sw, ph, pw = data["out_first_attrs"].tolist()
        middle = convolved(data["in_x"], first, (sh, sw), (ph, pw))
        sh, sw, ph, pw = data["out_last_attrs"].tolist()
        y = convolved(middle, last, (sh, sw), (ph, pw)) + data["in_bias"][:, None, None]
        np.testing.assert_allclose(y, data["out_y_decomposed"], atol=2e-4)


@needs_golden
@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("evbmf_*.npz")))
def test_golden_ranks(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as data:
        p, s = json.loads(str(data["params_json"])), data["in_singular_values"]
        assert evbmf_rank(s, p["M"]) == data["out_raw_evbmf_rank"]
        assert split_rank(s, p["cin"], p["cout"], tuple(p["kernel"])) == data["out_rank"]


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e8])
@pytest.mark.parametrize("rank", [0, 3, 12])
def test_planted_ranks_are_found_in_any_unit(rank: int, unit: float) -> None:
    rng = np.random.default_rng(rank)
    signal = rng.standard_normal((60, rank)) @ rng.standard_normal((rank, 90))
    s = np.linalg.svd(unit * (signal + 0.3 * rng.standard_normal((60, 90))), compute_uv=False)
    assert evbmf_rank(s, 90) == rank


@pytest.mark.parametrize("singular", [[0.0], [1.0], [1.0, 1.0], [5.0, 0.0, 0.0], [1e-300, 0.0], [1e200, 1.0, 1.0]])
def test_degenerate_spectra(singular: list[float]) -> None:
    assert 0 <= evbmf_rank(np.array(singular), len(singular) + 2) <= len(singular)


def test_bad_input() -> None:
    for singular, columns in (([], 3), ([1.0, 2.0], 1), ([-1.0], 3), ([np.nan], 3)):
        with pytest.raises(InputError):
            evbmf_rank(np.array(singular), columns)
    with pytest.raises(InputError):
        split_rank(np.ones(7), 16, 16, (7, 7))
    with pytest.raises(InputError):
        multiple_of(-1)

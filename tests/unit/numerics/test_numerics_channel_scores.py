"""Scores and masks of channels: by hand, and the existing tool's vectors with its defects."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from amctc.errors import InputError
from amctc.numerics.channel_scores import balanced_l2_scores, channel_mask, pruned_channels, summed_scores

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden vectors are not beside this checkout")


def test_scores_by_hand() -> None:
    scores = balanced_l2_scores([[3.0, 4.0], [0.0, 1.0], [0.0, 3.0]])
    np.testing.assert_allclose(scores, [1.0, 0.0, 0.5])
    np.testing.assert_allclose(balanced_l2_scores(np.array([[3.0, 0.0, 0.0], [4.0, 1.0, 3.0]]), axis=1), [1, 0, 0.5])
    assert summed_scores([scores, scores[::-1]]).tolist() == [1.5, 0.0, 1.5]
    assert channel_mask(scores, 1).tolist() == [True, False, True]
    assert channel_mask(np.array([4.0, 1.0, 2.0, 3.0]), 2, groups=2).tolist() == [True, False, False, True]


@needs_golden
@pytest.mark.parametrize("name", ["bcp_conv", "bcp_convg4", "bcp_lin", "bcp_small", "bcp_convt"])
def test_golden_channels(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as data:
        p, w = json.loads(str(data["params_json"])), data["in_weight"]
        scores = balanced_l2_scores(w, p["prune_axis"])
        # the tool's float32: a norm of up to numel/C squares, and min-max brings cancellation
        np.testing.assert_allclose(scores, data["out_scores"], atol=1e-6)
        for ratio, (kind, multiple) in itertools.product(p["ratios"], (("plain", 1), ("asc", 16))):
            groups = p["prune_group"]
            pruned = pruned_channels(scores.size, ratio, multiple=multiple, groups=groups)
            expected = data[f"out_mask_{kind}_{round(100 * ratio):02d}"] == 1
            np.testing.assert_array_equal(channel_mask(scores, pruned, groups=groups), expected)


@needs_golden
def test_golden_numbers_of_channels() -> None:
    """The tool's number is negative where the block is wider than the layer; ours is 0."""
    for channels, ratio, optimized, groups, expected in np.load(GOLDEN / "bcp_prune_num_table.npz")["out_table"]:
        multiple = 16 if optimized else 1
        assert pruned_channels(int(channels), ratio, multiple=multiple, groups=int(groups)) == max(expected, 0)


@needs_golden
def test_golden_defects_of_the_tool() -> None:
    """Equal norms: no NaN, same mask. Two producers: the tool looks at the first only, we add the scores."""
    with np.load(GOLDEN / "bcp_equal_norm.npz") as data:
        scores = balanced_l2_scores(data["in_weight"])
        assert scores.tolist() == [0.0] * 6
        np.testing.assert_array_equal(channel_mask(scores, 3), data["out_mask"] == 1)
    with np.load(GOLDEN / "bcp_two_producers.npz") as data:
        a, b = balanced_l2_scores(data["in_a"]), balanced_l2_scores(data["in_b"])
        np.testing.assert_array_equal(channel_mask(a, 16), data["out_mask_ab"] == 1)
        assert (channel_mask(summed_scores([a, b]), 16) == channel_mask(summed_scores([b, a]), 16)).all()


def test_bad_channels() -> None:
    for ratio in (0.0, 1.0):
        with pytest.raises(InputError):
            pruned_channels(8, ratio)
    with pytest.raises(InputError):
        channel_mask(np.ones(4), 4)
    with pytest.raises(InputError):
        channel_mask(np.ones(5), 2, groups=2)
    with pytest.raises(InputError):
        balanced_l2_scores([[np.nan]])
    with pytest.raises(InputError):
        balanced_l2_scores([1.0], axis=1)
    with pytest.raises(InputError):
        summed_scores([np.ones(2), np.ones(3)])

"""Which samples choose and which judge."""

from __future__ import annotations

import numpy as np

from amctc_passes.quantize.held_back import EVERY, SplitGram

RNG = np.random.default_rng(111)


def test_every_fourth_sample_judges() -> None:
    """Small integers, so that sums are exact; rows come in two batches."""
    rows, samples = RNG.integers(-5, 6, (24, 3)).astype(np.float32), np.arange(12).repeat(2)
    split = SplitGram(3)
    split.add(rows[:10], samples[:10])
    split.add(rows[10:], samples[10:])
    back = samples % EVERY == EVERY - 1
    assert split.held_rows == back.sum() == 6
    ((_, judged),), ((_, chosen),) = split.to_judge().parts, split.to_choose().parts
    held, other = (a.T.astype(np.float64) @ a / len(a) for a in (rows[back], rows[~back]))
    np.testing.assert_allclose(judged, held, rtol=1e-12)
    np.testing.assert_allclose(np.diag(chosen), np.diag(other), rtol=1e-12)
    np.testing.assert_allclose(chosen[0, 1], other[0, 1] * 18 / 21, rtol=1e-12)


def test_nothing_held_back() -> None:
    split = SplitGram(2)
    split.add(np.ones((3, 2), np.float32), np.arange(3))
    assert split.held_rows == 0
    assert not split.to_judge().loss(np.ones((1, 2))).any()

"""Running covariances."""

from __future__ import annotations

import numpy as np

from amctc.numerics.gram import Covariance

RNG = np.random.default_rng(3)


def test_the_covariance_of_all_columns() -> None:
    columns = RNG.normal(size=(2, 3, 50)).astype(np.float32) + 1000.0
    covariance = Covariance(np.full((2, 3), 1000.2))
    for part in np.split(columns, [7, 8, 30], axis=2):
        covariance.add(part)
    expected = np.stack([np.cov(g.astype(np.float64), bias=True) for g in columns])
    expected *= np.where(np.eye(3), 1.0, 50 / (50 + 3))  # shrunk towards the diagonal by K / (K + n)
    # columns near 1000 have steps of 2^-14; squares of numbers of size 4 carry a few of them
    np.testing.assert_allclose(covariance.matrix(2, 3), expected, atol=16 * 2.0**-14 * 50**-0.5)


def test_around_zero() -> None:
    covariance = Covariance()
    covariance.add(np.float32([[[1.0, 3.0]]]))
    assert covariance.matrix(1, 1).tolist() == [[[5.0]]]
    assert Covariance().matrix(1, 2).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    assert Covariance(np.ones((1, 2))).matrix(1, 2).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]

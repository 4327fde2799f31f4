"""Candidates for weights under float data: types, ranges, what they gain; scales of salient inputs."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.numerics.parted_gram import PartedGram
from amctc.numerics.weight_only_search import (
    BlockScheme,
    channel_magnitudes,
    rounded_to_nearest,
    salience_factors,
    scaled_loss,
    weight_candidates,
)

RNG = np.random.default_rng(91)


def gram_of(length: int, sizes: np.ndarray | float = 1.0) -> PartedGram:
    x = (RNG.normal(size=(length, 400)) + RNG.normal(size=(1, 400))) * np.reshape(sizes, (-1, 1))
    return PartedGram(((slice(0, length), x @ x.T / 400),))


SCHEMES = [BlockScheme(bits, block, symmetric) for bits in (4, 8) for block in (0, 32) for symmetric in (True, False)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_candidates_are_storable_and_better(scheme: BlockScheme) -> None:
    """A clipped range never disturbs the output more block by block; second-order rounding not in all."""
    weight, gram = RNG.normal(size=(12, 80)), gram_of(80)
    plain, clip, gptq, both = weight_candidates(weight, gram, scheme, clip=True, second_order=True)
    assert [c.method for c in (plain, clip, gptq, both)] == ["nearest", "clip", "gptq", "clip and gptq"]
    first, last = (-8, 7) if scheme.bits == 4 else (-128, 127)
    losses = []
    for found in (plain, clip, gptq, both):
        assert found.codes.dtype == np.int8
        assert first <= found.codes.min() <= found.codes.max() <= last
        assert found.scales.shape == (12, 3 if scheme.block else 1)
        assert (found.zeros == 0).all() == scheme.symmetric
        losses.append(float(gram.loss(weight - found.real(scheme)).sum()))
    assert losses[2] < losses[0]
    assert losses[3] < losses[1]
    assert (clip.scales <= plain.scales).all()
    for terms in scheme.blocks(80):
        inner = gram.within(terms)
        before, after = (inner.loss((weight - f.real(scheme))[:, terms]) for f in (plain, clip))
        assert (after <= before * (1 + 1e-9)).all()


def test_an_outlier_is_clipped_by_hand() -> None:
    """Seven steps to 7.9, seldom read, against 0.5s often read: the range that keeps the halves wins."""
    weight = np.array([[7.7, 0.5, 0.5, 0.5]])
    gram = PartedGram(((slice(0, 4), np.diag([1e-4, 1.0, 1.0, 1.0])),))
    _, found = weight_candidates(weight, gram, BlockScheme(4, 0, symmetric=True), clip=True, second_order=False)
    assert found.scales[0, 0] < 1.0
    assert found.codes[0, 1:].tolist() == [1, 1, 1]


def test_nothing_asked_for() -> None:
    (only,) = weight_candidates(np.ones((2, 32)), gram_of(32), BlockScheme(8, 0, symmetric=True), clip=False,
                                second_order=False)  # fmt: skip
    assert only.method == "nearest"


def test_nearest_by_hand() -> None:
    found = rounded_to_nearest(np.array([[0.7, -0.3, 1.4, 0.2]]), BlockScheme(4, 2, symmetric=True))
    np.testing.assert_allclose(found.scales, [[0.1, 0.2]], rtol=1e-6)
    assert found.codes.tolist() == [[7, -3, 7, 1]]


def test_salience_factors_by_hand() -> None:
    assert salience_factors(np.array([1.0, 4.0, 16.0]), 0.5).tolist() == [0.5, 1.0, 2.0]
    assert salience_factors(np.array([3.0, 5.0]), 0.0).tolist() == [1.0, 1.0]
    assert salience_factors(np.zeros(0), 0.5).shape == (0,)


def test_magnitudes() -> None:
    gram = PartedGram(((slice(0, 2), np.diag([4.0, 0.0])), (slice(2, 3), np.array([[9.0]]))))
    assert channel_magnitudes(gram).tolist() == [2.0, 3.0 / 1024, 3.0]
    assert channel_magnitudes(PartedGram(((slice(0, 2), np.zeros((2, 2))),))).tolist() == [1.0, 1.0]


def test_scaling_salient_inputs_gains() -> None:
    """Two of 64 inputs are 50 times larger: their weights take more of the range, and the output less harm."""
    sizes = np.where(np.arange(64) < 2, 50.0, 1.0)
    weight, gram = RNG.normal(size=(16, 64)), gram_of(64, sizes)
    scheme = BlockScheme(4, 0, symmetric=True)
    factors = salience_factors(channel_magnitudes(gram), 0.5)
    assert scaled_loss(weight, gram, scheme, factors) < scaled_loss(weight, gram, scheme, np.ones(64)) / 2

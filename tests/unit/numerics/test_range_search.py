"""Pattern search over both ends of a range: losses whose minimum is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.numerics.range_search import search_range


def bowl(low: float, high: float) -> object:
    """Least at [low, high], in squares of powers of two."""

    def loss(a: float, b: float) -> float:
        return sum(math.log2(x / y) ** 2 for x, y in ((a, low), (b, high)) if x or y)

    return loss


@pytest.mark.parametrize("powers", [(0.0, 0.0), (-1.0, -1.0), (-2.25, 0.5), (0.125, -0.375), (-4.5, -4.5), (1.0, 1.0)])
def test_grid_points_are_found(powers: tuple[float, float]) -> None:
    best = -3.0 * 2 ** powers[0], 5.0 * 2 ** powers[1]
    assert search_range(-3.0, 5.0, bowl(*best)) == pytest.approx(best)
    assert search_range(0.0, 5.0, bowl(0.0, best[1])) == pytest.approx((0.0, best[1]))
    assert search_range(-3.0, 0.0, bowl(best[0], 0.0)) == pytest.approx((best[0], 0.0))


def test_limits_hold() -> None:
    assert search_range(-1.0, 1.0, lambda a, b: b - a) == pytest.approx((-(2.0**-5), 2.0**-5))
    assert search_range(-1.0, 1.0, lambda a, b: a - b) == pytest.approx((-2.0, 2.0))


@given(st.floats(-8, -1e-3), st.floats(1e-3, 8), st.floats(-8, -1e-3), st.floats(1e-3, 8))
def test_never_worse_and_asked_once(low: float, high: float, best_low: float, best_high: float) -> None:
    asked: list[tuple[float, float]] = []
    loss = bowl(best_low, best_high)

    def counted(a: float, b: float) -> float:
        asked.append((a, b))
        return loss(a, b)  # type: ignore[operator]

    found = search_range(low, high, counted)
    assert loss(*found) <= loss(low, high)  # type: ignore[operator]
    assert len(set(asked)) == len(asked)


def test_nothing_to_gain_costs_little() -> None:
    asked: list[tuple[float, float]] = []

    def flat(a: float, b: float) -> float:
        asked.append((a, b))
        return 1.0

    assert search_range(-1.0, 2.0, flat) == (-1.0, 2.0)
    assert len(asked) == 1 + 2 + 2 + 4 + 4  # both ends in two steps, each alone in two
    asked.clear()
    assert search_range(0.0, 2.0, flat) == (0.0, 2.0)
    assert len(asked) == 1 + 2 * 3
    assert search_range(0.0, 0.0, flat) == (0.0, 0.0)


def test_nan_is_never_better() -> None:
    assert search_range(-1.0, 1.0, lambda a, b: 1.0 if (a, b) == (-1.0, 1.0) else math.nan) == (-1.0, 1.0)

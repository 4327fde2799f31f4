"""The knapsack against enumeration of everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.mixed_precision.knapsack import Items, Option, Selection, choose, front, hull, selection

# Quarters are exact in binary, so sums do not depend on their order.
OPTIONS = st.builds(Option, st.integers(0, 12).map(float), st.integers(0, 60).map(lambda n: n / 4))
ITEMS = st.lists(st.lists(OPTIONS, min_size=1, max_size=3), max_size=6)


def everything(items: Items) -> list[Selection]:
    return [selection(items, choice) for choice in itertools.product(*(range(len(o)) for o in items))]


@given(ITEMS, st.integers(0, 60))
def test_no_choice_within_the_budget_loses_less(items: Items, budget: int) -> None:
    found, fitting = choose(items, budget), [s for s in everything(items) if s.cost <= budget]
    assert found.optimal
    if fitting:
        assert found.cost <= budget
        assert found.loss == min(s.loss for s in fitting)
    else:
        assert found.cost == min(s.cost for s in everything(items))


@given(ITEMS)
def test_nothing_costs_no_more_than_the_front_and_loses_less(items: Items) -> None:
    whole, points = everything(items), front(items)
    for point in points:
        assert not any(s.cost <= point.cost and s.loss < point.loss for s in whole)
    assert points[0].cost == min(s.cost for s in whole)
    assert points[-1].loss == min(s.loss for s in whole)
    assert [p.cost for p in points] == sorted(p.cost for p in points)


def test_by_hand() -> None:
    """Three layers in 16, 8 and 4 bits; with 24 the second, the least sensitive, gives most."""
    items = [[Option(16, 0), Option(8, 3), Option(4, 40)], [Option(16, 0), Option(8, 1), Option(4, 2)],
             [Option(16, 0), Option(8, 10), Option(4, 90)]]  # fmt: skip
    assert choose(items, 48) == Selection((0, 0, 0), 48, 0, True)
    assert choose(items, 40) == Selection((0, 1, 0), 40, 1, True)
    assert choose(items, 28) == Selection((1, 2, 0), 28, 5, True)
    assert choose(items, 24) == Selection((1, 1, 1), 24, 14, True)
    assert choose(items, 11) == Selection((2, 2, 2), 12, 132, True)


def test_greed_alone_is_not_enough() -> None:
    """The best move per cost leaves no room for the best choice."""
    items = [[Option(0, 10), Option(6, 3)], [Option(0, 10), Option(5, 5)], [Option(0, 10), Option(5, 5)]]
    assert choose(items, 10).choice == (0, 1, 1)


def test_what_is_above_the_hull_is_left_out() -> None:
    options = [Option(0, 10), Option(2, 9), Option(4, 2), Option(5, 3), Option(6, 1)]
    assert hull(options) == [0, 2, 4]


def test_options_of_one_cost() -> None:
    assert choose([[Option(1, 5), Option(1, 2), Option(1, 3)]], 1).choice == (1,)


def test_nodes_run_out() -> None:
    items = [[Option(0, 10), Option(6, 3)], [Option(0, 10), Option(5, 5)], [Option(0, 10), Option(5, 5)]]
    found = choose(items, 10, nodes=1)
    assert not found.optimal
    assert found.cost <= 10


@pytest.mark.parametrize("budget", [0.0, 5.0])
def test_no_items(budget: float) -> None:
    assert choose([], budget) == Selection((), 0, 0, True)

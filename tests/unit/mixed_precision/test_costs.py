"""Budgets, and what assignments cost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from amctc.errors import UnsupportedError, UsageError
from amctc.mixed_precision.costs import Budget, Cost, Resource, cost_of, layer_costs
from amctc.mixed_precision.space import Space, space_of
from amctc.pipeline import Context
from amctc.preset import load_preset
from amctc.targets import load_profile
from tests.unit.mixed_precision.networks import LAYERS, OF_CONVOLUTIONS, chain, samples


@pytest.fixture(scope="module")
def space() -> Space:
    return space_of(chain(), load_preset("fast"), OF_CONVOLUTIONS, Context(samples=samples(chain())))


@pytest.mark.parametrize(
    ("resource", "text", "amount", "relative"),
    [("bytes", "40000", 40000, False), ("bytes", " 1.5 KiB", 1536, False), ("bytes", "2MB", 2e6, False),
     ("bytes", "0.6x", 0.6, True), ("time", "12us", 12, False), ("time", "12µs", 12, False),
     ("time", "0.3ms", 300, False), ("time", "1e-3s", 1000, False), ("time", "0.5X", 0.5, True)],
)  # fmt: skip
def test_budgets(resource: Resource, text: str, amount: float, relative: bool) -> None:
    budget = Budget.parse(resource, text)
    assert budget == Budget(resource, pytest.approx(amount), relative)
    whole = Cost(1000, 50.0)
    assert budget.limit(whole) == pytest.approx(amount * (whole.of(resource) if relative else 1))


@pytest.mark.parametrize(("resource", "text"), [
    ("bytes", "12us"), ("time", "40KiB"), ("time", "12"), ("bytes", "0"), ("bytes", "-5"), ("bytes", "x"), ("time", ""),
    ("bytes", "nan"), ("bytes", "inf"), ("time", "0x"), ("bytes", "1.2.3"),
])  # fmt: skip
def test_what_is_no_budget(resource: Resource, text: str) -> None:
    with pytest.raises(UsageError, match=f"--budget-{resource} .* is no budget; write it as 0.6x"):
        Budget.parse(resource, text)


def test_bytes_of_layers_add_up(space: Space) -> None:
    """Exactly, for each of the 27 choices."""
    costs, whole = layer_costs(space, "bytes"), cost_of(space.compiled({}), space.target).bytes
    rest = whole - sum(own["f16"] for own in costs.values())
    for chosen in itertools.product(OF_CONVOLUTIONS, repeat=3):
        assignment = dict(zip(LAYERS, chosen, strict=True))
        exact = cost_of(space.compiled(assignment), space.target).bytes
        assert exact == rest + sum(costs[n][c] for n, c in assignment.items())


def test_bytes_by_hand(space: Space) -> None:
    """32 × 32 weights and 32 biases in float16; in int8 biases take 4 bytes, parameters 8 (N11); int4 takes half."""
    for own in layer_costs(space, "bytes").values():
        assert own == {"f16": 2 * 1024 + 2 * 32, "w8a8": 1024 + 32 * 12, "w4a8": 512 + 32 * 12}


def test_times_of_whole_graphs_add_up(space: Space) -> None:
    for candidate in OF_CONVOLUTIONS:
        assignment = space.assembly.uniform(candidate)
        exact, costs = cost_of(space.compiled(assignment), space.target), layer_costs(space, "time")
        assert exact.time_us is not None
        assert sum(costs[n][c] for n, c in assignment.items()) <= exact.time_us


def test_times_that_nobody_can_estimate(space: Space) -> None:
    chip = replace(load_profile("ascend910b1"), cube_cores=None)
    cost = cost_of(space.compiled({}), chip)
    assert cost.time_us is None
    with pytest.raises(UnsupportedError, match="cannot be estimated"):
        Budget.parse("time", "0.5x").limit(cost)

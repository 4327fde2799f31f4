"""Constants times channel factors: rounded once, computed some rows at a time."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.ir import const, constant_data
from amctc_passes.balance import rescaled

RNG = np.random.default_rng(0)
SHAPES = [
    ((5,), [(5,)]), ((4, 6), [(4, 1), (1, 6)]), ((4, 6), [(1, 6)]), ((3, 2, 5, 5), [(3, 1, 1, 1), (1, 2, 1, 1)]),
    ((), [(7,)]), ((), [()]), ((0, 3), [(1, 3)]), ((3, 0), [(3, 1)]),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@given(st.sampled_from(SHAPES), st.integers(1, 40))
def test_the_product_is_rounded_once(dtype: type, shapes: tuple, block: int) -> None:
    array, factors = np.asarray(RNG.normal(size=shapes[0])).astype(dtype), [RNG.uniform(0.1, 9.0, s) for s in shapes[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rescaled, "_BLOCK", block)
        data = constant_data(rescaled.times(const(array), *factors))
        assert data is not None
        found = data.read()
    product = factors[0] if len(factors) == 1 else factors[0] * factors[1]
    np.testing.assert_array_equal(found, (array.astype(np.float64) * product).astype(dtype))
    assert found.dtype == dtype


def test_what_waits_to_be_read_holds_no_product() -> None:
    weight = const(RNG.normal(size=(512, 512)).astype(np.float32))
    factors = RNG.uniform(1, 2, (512, 1)), RNG.uniform(1, 2, (1, 512))
    tracemalloc.start()
    try:
        product = rescaled.times(weight, *factors)
        held, _ = tracemalloc.get_traced_memory()
        data = constant_data(product)
        assert data is not None
        data.read()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
    assert most < 2 * data.nbytes + 8 * rescaled._BLOCK

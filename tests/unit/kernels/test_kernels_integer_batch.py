"""Products of two computed int8 operands: equal to int64, to ONNX Runtime's MatMulInteger, whatever the depth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.kernels.integer_batch import EXACT_DEPTH, BatchProduct

LEADS = st.sampled_from([((), ()), ((2,), (2,)), ((2, 3), (3,)), ((3,), (2, 1)), ((0,), ()), ((1, 2), (4, 1))])
DEPTHS = st.sampled_from([0, 1, 2, 7, 1023, 1024, 1025, 3000])


@settings(max_examples=150, deadline=None)
@given(LEADS, DEPTHS, st.integers(1, 4), st.integers(1, 4), st.sampled_from(["uniform", -128, 127]),
       st.sampled_from([None, 5, 2**30]), st.integers(0, 2**32))  # fmt: skip
def test_is_the_definition(leads, depth, rows, columns, kind, bias, seed):
    rng = np.random.default_rng(seed)
    shapes = (*leads[0], rows, depth), (*leads[1], depth, columns)
    x, w = (
        rng.integers(-128, 128, s).astype(np.int8) if kind == "uniform" else np.full(s, kind, np.int8) for s in shapes
    )
    biases = None if bias is None else rng.integers(-bias, bias, columns).astype(np.int32)
    product = BatchProduct(biases)
    acc = product(x, w)
    wide = x.astype(np.int64) @ w.astype(np.int64) + (0 if biases is None else biases)
    assert acc.dtype == np.int32
    np.testing.assert_array_equal(acc, np.clip(wide, -(2**31), 2**31 - 1))
    assert product.overflows == np.count_nonzero(wide != acc)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_is_onnxruntimes_matmul_integer(run_node, depth, seed):
    rng = np.random.default_rng(seed)
    x, w = (rng.integers(-128, 128, s).astype(np.int8) for s in ((2, 3, depth), (2, depth, 4)))
    np.testing.assert_array_equal(BatchProduct()(x, w), run_node("MatMulInteger", x, w))


@pytest.mark.parametrize(("wrap", "beyond"), [(False, 2**31 - 1), (True, 2**31 - 2**32)])
def test_sums_outside_int32(wrap, beyond):
    """2^17 products of 128 · 128 = 2^14 make 2^31; with the other sign -2^31, which fits."""
    x = np.full((2, 2**17), -128, np.int8)
    w = np.full((2**17, 1), -128, np.int8)
    x[1, 0] = 127
    product = BatchProduct(wrap=wrap)
    np.testing.assert_array_equal(product(x, w), [[beyond], [2**31 - 255 * 128]])
    assert product.overflows == 1


def test_the_exact_depth_is_that_of_float32():
    assert EXACT_DEPTH * 128 * 128 == 2**24


@pytest.mark.parametrize(("x", "w"), [((2, 3), (4, 2)), ((3,), (3, 2)), ((2, 3), (3,))])
def test_operands_that_do_not_fit(x, w):
    with pytest.raises(InputError, match="matrix product"):
        BatchProduct()(np.zeros(x, np.int8), np.zeros(w, np.int8))

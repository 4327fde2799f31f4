"""Weight-only quantization: by hand, against the existing tool's vectors, and what must hold of any weight."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError
from amctc.numerics.weight_only import quantize_weight_only, weight_only_parameters

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
RNG = np.random.default_rng(21)


@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("mod_weightonly_*.npz")))
def test_vectors_of_the_existing_tool(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = {key: data[key] for key in data.files}
    config = json.loads(str(arrays["params_json"]))["weights_cfg"]
    w, bits, block = arrays["in_weight"], int(config["quant_type"][3:]), config.get("group_size", 0)
    scales, zeros = weight_only_parameters(w, axis=1, block=block, bits=bits, symmetric=config["symmetric"])
    np.testing.assert_array_equal(scales, arrays["out_scale"].reshape(scales.shape))
    expected = arrays["out_offset"] if arrays["out_offset"].size else np.zeros(zeros.shape)
    np.testing.assert_array_equal(zeros, expected.reshape(zeros.shape))
    q = quantize_weight_only(w, scales, zeros, axis=1, block=block, bits=bits)
    np.testing.assert_array_equal(q, arrays["out_q"])
    transposed = quantize_weight_only(w.T, scales.T, zeros.T, axis=0, block=block, bits=bits)
    np.testing.assert_array_equal(transposed, q.T)


def test_by_hand() -> None:
    w = np.float32([[-1.0, 0.5, 0.25, 2.54], [0.0, 0.0, -1.28, 1.0]])
    scales, zeros = weight_only_parameters(w, axis=1, block=2)
    expected = [[1 / 128, np.float32(2.54) / 127], [1.0, np.float32(1.28) / 128]]
    np.testing.assert_array_equal(scales, np.float32(expected))
    assert not zeros.any()
    q = quantize_weight_only(w, scales, zeros, axis=1, block=2)
    assert q.tolist() == [[-128, 64, 12, 127], [0, 0, -128, 100]]  # 0.25/0.02 = 12.5 rounds to even

    scales, zeros = weight_only_parameters(np.float32([[-1.0, 0.5]]), axis=1, bits=4, symmetric=False)
    assert (scales.tolist(), zeros.tolist()) == ([[np.float32(0.1)]], [[2]])  # -RNE(-10) - 8
    assert quantize_weight_only([[-1.0, 0.5]], scales, zeros, axis=1, bits=4).tolist() == [[-8, 7]]


def test_the_last_block_may_be_short() -> None:
    w = RNG.standard_normal((5, 3)).astype(np.float32)
    scales, _ = weight_only_parameters(w, axis=0, block=2)
    assert scales.shape == (3, 3)
    alone, _ = weight_only_parameters(w[4:], axis=0)
    np.testing.assert_array_equal(scales[2:], alone)


@given(st.integers(0, 3), st.integers(1, 70), st.sampled_from((0, 1, 32, 64)), st.sampled_from((4, 8)), st.booleans())
def test_error_is_at_most_a_step(seed: int, size: int, block: int, bits: int, symmetric: bool) -> None:
    w = np.random.default_rng(seed).standard_normal((3, size)).astype(np.float32) * np.float32(10.0**seed)
    scales, zeros = weight_only_parameters(w, axis=1, block=block, bits=bits, symmetric=symmetric)
    q = quantize_weight_only(w, scales, zeros, axis=1, block=block, bits=bits)
    each = np.arange(size) // (block or size)
    step, zero = scales[:, each].astype(np.float64), zeros[:, each]
    # Half a step of rounding, or up to one where the range is cut: the largest code stands for half a step less
    # than the largest weight where the zero point is rounded, and up to one less where -2**(bits - 1) set the scale.
    # A quotient rounded in float32 adds 2**-24 of at most 2**bits steps.
    most = 1.0 + 2.0 ** (bits - 24)
    assert (np.abs((q - zero) * step - w) <= most * step).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(InputError, match="the weight"):
        weight_only_parameters(np.float32([[bad, 1.0]]), axis=1)


def test_limits() -> None:
    with pytest.raises(InputError, match="beyond float32"):
        weight_only_parameters(np.float32([[-3e38, 3e38]]), axis=1, symmetric=False)
    with pytest.raises(InputError, match="-1"):
        weight_only_parameters(np.ones((2, 2)), axis=1, block=-1)
    empty = np.zeros((3, 0), np.float32)
    scales, zeros = weight_only_parameters(empty, axis=1)
    assert quantize_weight_only(empty, scales, zeros, axis=1).shape == (3, 0)


@pytest.mark.parametrize(("axis", "block"), [(0, 0), (0, 32), (1, 32), (2, 0)])
def test_a_weight_of_several_slabs_is_quantized_by_the_same_formula(axis: int, block: int) -> None:
    w = RNG.standard_normal((70, 96, 81)).astype(np.float32)  # 544320 elements, two slabs and a bit
    scales, zeros = weight_only_parameters(w, axis=axis, block=block, symmetric=False)
    entry = np.arange(w.shape[axis]) // (block or w.shape[axis])
    expected = np.clip(np.rint(w / scales.take(entry, axis)) + zeros.take(entry, axis), -128, 127)
    np.testing.assert_array_equal(quantize_weight_only(w, scales, zeros, axis=axis, block=block), expected)

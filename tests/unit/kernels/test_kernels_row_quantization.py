"""Rows quantized as they come (N6) and their epilogue (N13): numbers by hand, both tables, float rounding in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, apply, build, const
from amctc.kernels.ascend_table import ascend_table
from amctc.kernels.reference_table import reference_table
from amctc.kernels.row_quantization import quantize_rows
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge import export_model
from amctc.onnx_bridge.sessions import open_session
from amctc.ops import ascend, quant
from amctc.targets import Profile, load_profile
from amctc.types import F16, F32, I32, Array, TensorType

A2 = load_profile("ascend910b1")
FORMS = ("reciprocal", "threshold", "threshold_f16")
RNG = np.random.default_rng(6)


def rows(x: Any, form: str, dtype: type = np.float32) -> tuple[list[Any], list[Any]]:
    """Integers and steps, the same from both tables."""
    x = np.asarray(x, dtype)
    given = GraphInput("x", TensorType(x.shape, F16 if dtype is np.float16 else F32))
    graph = Graph((given,), build(ascend.DynamicQuant(), given).results, ("q", "steps"))
    profile = A2.replace_choice("dynamic_quant", form)
    fast, defined = (evaluate(graph, {"x": x}, table(profile)) for table in (ascend_table, reference_table))
    for name in ("q", "steps"):
        assert (fast[name].dtype, fast[name].tobytes()) == (defined[name].dtype, defined[name].tobytes())
    assert (fast["q"].dtype, fast["steps"].dtype) == (np.int8, np.float32)
    return fast["q"].tolist(), fast["steps"].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("form", FORMS)
def test_each_row_has_its_own_step(form: str, dtype: type) -> None:
    """127/64 in steps of 1/64, -254 in steps of 2."""
    q, steps = rows([[1.984375, -1, 0.015625], [-254, 100, 3]], form, dtype)
    assert (q, steps) == ([[127, -64, 1], [-127, 50, 2]], [1 / 64, 2.0])


def test_halves_are_rounded_to_even_on_a2_and_away_from_zero_on_310p() -> None:
    """The largest element is 127 steps of 1, so the others are themselves."""
    x = [[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]]
    assert rows(x, "reciprocal")[0] == [[127, 0, 2, 2, 0, -2, -2]]
    for form in ("threshold", "threshold_f16"):
        assert rows(x, form)[0] == [[127, 1, 2, 3, -1, -2, -3]]


def test_the_step_is_a_reciprocal_on_a2_and_a_product_on_310p() -> None:
    """m = 3: f32(1 / f32(127 / 3)) and f32(3 · f32(1 / 127)) differ in their last bits from each other."""
    s = np.float32(127) / np.float32(3)
    assert rows([[3.0, 1]], "reciprocal")[1] == [float(np.float32(1) / s)]
    assert rows([[3.0, 1]], "threshold")[1] == [float(np.float32(3) * np.float32(1 / 127))]


def test_310p_rounds_to_float16_before_the_integer() -> None:
    """100.875 · 127 / 127.5 = 100.479, to the nearest sixteenth 100.5, which goes away from zero."""
    x = [[127.5, 100.875]]
    assert rows(x, "reciprocal", np.float16)[0] == [[127, 100]]
    assert rows(x, "threshold", np.float16)[0] == rows(x, "threshold_f16", np.float16)[0] == [[127, 101]]


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_zeros_and_of_almost_nothing(form: str) -> None:
    """N6: a row of zeros has step 0 and, by our choice, integers 0, where A2 computes 0 · inf."""
    q, steps = rows([[0.0, -0.0, 0.0], [1, 0, -1]], form)
    assert (q, steps[0]) == ([[0, 0, 0], [127, 0, -127]], 0.0)
    assert not np.signbit(steps[0])
    q, (step,) = rows([[1e-12, 0.0]], form)
    assert q == ([[127, 0]] if form == "reciprocal" else [[0, 0]])
    assert step == pytest.approx(1e-12 / 127, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_infinities_and_nan(form: str) -> None:
    q, steps = rows([[np.inf, 1, 2], [np.nan, 1, 2]], form)
    assert q == [[0, 0, 0], [0, 0, 0]]
    assert (steps[0], np.isnan(steps[1])) == (np.inf, True)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1), (3, 2, 5), (2, 70_000)])
def test_shapes(shape: tuple[int, ...]) -> None:
    """No rows, rows without elements, and rows longer than a tile."""
    x = RNG.normal(size=shape).astype(np.float32)
    q, steps = quantize_rows(x, "reciprocal")
    assert (q.shape, steps.shape) == (shape, shape[:-1])
    transposed = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    assert quantize_rows(transposed, "reciprocal")[0].tobytes() == q.tobytes()
    if x.size:
        assert np.abs(q).max(axis=-1).min() == 127


def dequantized(acc: Any, scale: Any, steps: Any, *bias: Any, profile: Profile = A2, half: bool = True) -> Array:
    """DequantRows by both tables."""
    acc = np.int32(acc)
    x = GraphInput("x", TensorType(acc.shape, I32))
    step = GraphInput("s", TensorType(acc.shape[:-1], F32))
    constants = [const(np.float32(scale)), step, *(const(np.float32(b)) for b in bias)]
    graph = Graph((x, step), (apply(ascend.DequantRows(F16 if half else F32), x, *constants),), ("y",))
    feeds = {"x": acc, "s": np.float32(steps)}
    fast, defined = (evaluate(graph, feeds, table(profile))["y"] for table in (ascend_table, reference_table))
    assert (fast.dtype, fast.tobytes()) == (defined.dtype, defined.tobytes())
    return fast


def test_dequantization_of_rows() -> None:
    """acc · scale · step + bias; the scale keeps its 24 bits, 1 + 2^-11 is not truncated as N12 would."""
    assert dequantized([[2, 3], [4, 5]], [0.5, 2], [1, 10]).tolist() == [[1, 6], [20, 100]]
    assert dequantized([[2, 3]], [0.5], [10], [1, -1]).tolist() == [[11, 14]]
    assert dequantized([[4096]], [1 + 2.0**-11], [1]).tolist() == [[4098 - 2]]  # a tie of float16, to even
    assert dequantized([[4098]], [1 + 2.0**-11], [1]).tolist() == [[4100]]
    assert dequantized([[70_000, -70_000]], [1], [1]).tolist() == [[65504, -65504]]
    infinite = A2.replace_choice("dequant_overflow", "inf")
    assert dequantized([[70_000, -70_000]], [1], [1], profile=infinite).tolist() == [[np.inf, -np.inf]]
    wide = dequantized([[2049]], [1], [1], half=False)
    assert (wide.dtype, wide.tolist()) == (np.float32, [[2048]])


def test_a_row_of_zeros_gives_the_bias_whatever_its_integers() -> None:
    """Its step is 0: what the chip makes of 0 · inf cannot show."""
    assert dequantized([[12345, -99]], [0.5], [0], [1, -2]).tolist() == [[1, -2]]


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_rows_rounded_in_float_are_the_same_in_a_file(opset: int) -> None:
    """The formula in ONNX operators, each of which rounds once, gives the bits of the kernel.

    Optimised, ONNX Runtime divides by s in place of multiplying by 1 / s, which is another number in the last bit.
    """
    x = GraphInput("x", TensorType(("N", 3, 5), F32))
    graph = Graph((x,), (apply(quant.FakeQuantizeRows(), x),), ("y",))
    data = (RNG.normal(size=(6, 3, 5)) * np.exp2(RNG.uniform(-40, 40, (6, 3, 1)))).astype(np.float32)
    data[0, 0], data[1, 1], data[2, 2, 0] = 0, np.ldexp(data[1, 1], -140), np.nan
    session = open_session(export_model(graph, opset=opset).SerializeToString(), optimise=False)
    found = session.run(None, {"x": data})[0]
    expected = evaluate(graph, {"x": data}, ORACLE)["y"]
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(expected[0, 0], data[0, 0])


def test_rows_rounded_in_float_are_what_the_integers_stand_for() -> None:
    data = (RNG.normal(size=(50, 7)) * np.exp2(RNG.uniform(-20, 20, (50, 1)))).astype(np.float32)
    x = GraphInput("x", TensorType(data.shape, F32))
    graph = Graph((x,), (apply(quant.FakeQuantizeRows(), x),), ("y",))
    q, steps = quantize_rows(data, "reciprocal")
    np.testing.assert_array_equal(evaluate(graph, {"x": data}, ORACLE)["y"], q * steps[:, None])

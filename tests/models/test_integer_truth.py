"""A sample of ``python -m tools.integer_truth``: integer kernels against ONNX Runtime and against exact formulas."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from amctc.errors import LimitError
from amctc.execution import EXECUTORS
from amctc.ops import ascend
from tools import integer_truth
from tools.integer_oracles import cases, compiled, epilogue, fusions, layers, numbers, parameters, rows
from tools.integer_oracles import formulas as rules
from tools.integer_oracles.cases import Comparison, Given, Row, Tally, run_op, run_row
from tools.integer_oracles.numbers import F16, F32, MULTIPLIER, rounded, square_root, truncated

RNG = np.random.default_rng(0)
ROWS = {row.name: row for row in integer_truth.ROWS}


@pytest.mark.parametrize("row", integer_truth.ROWS, ids=lambda row: row.name)
def test_no_element_differs(row: Row) -> None:
    tally = run_row(row, 12, seed=0)
    assert tally.wrong == ""
    assert tally.elements > 0
    assert row.steps or tally.different == 0


RUN_AS_GRAPHS = (*layers.ROWS, *epilogue.ROWS, *rows.ROWS, *fusions.ROWS, *compiled.ROWS)


@pytest.mark.parametrize("executor", ["reference", "onnxruntime"])
@pytest.mark.parametrize("row", RUN_AS_GRAPHS, ids=lambda row: row.name)
def test_no_element_differs_with_other_executors(row: Row, executor: str) -> None:
    """Refusals too: a bias that leaves int32 once the offset is folded in stops each of them (N8)."""
    assert run_row(row, 8, seed=1, executor=executor).wrong == ""


WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
LAYERS = {
    "conv": (ascend.Conv(**WINDOW, offset_x=-1), (1, 2, 3, 3), (2, 2, 1, 1)),
    "conv_transpose": (ascend.ConvTranspose(**WINDOW, offset_x=-1), (1, 2, 3, 3), (2, 2, 1, 1)),
    "matmul": (ascend.MatMul(offset_x=-1), (3, 2), (2, 2)),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_bias_that_leaves_int32_with_its_offset_is_refused(layer: str, executor: str) -> None:
    """bias′ = bias + Σw of all executors: 2^31 - 1 + 2 has no int32, 2^31 - 3 + 2 has one (N8, N9)."""
    kind, shape, weight = LAYERS[layer]
    cases.EXECUTOR.set(executor)
    for bias, fits in ((2**31 - 3, True), (2**31 - 1, False)):
        given = [Given(np.full(shape, -1, np.int8)), Given(np.ones(weight, np.int8), True)]
        given.append(Given(np.full(2, bias, np.int32), True))
        profile = cases.profile_of("ascend910b1")
        if fits:
            assert (run_op(kind, given, profile) == bias).all()  # the data is the offset, so nothing is added
        else:
            with pytest.raises(LimitError, match="N8, N9"):
                run_op(kind, given, profile)


def test_every_rule_has_a_row_or_a_reason() -> None:
    assert integer_truth.uncovered() == []
    stated = {rule for row in integer_truth.ROWS for rule in integer_truth.rules_of(row)}
    assert stated.isdisjoint(integer_truth.NOT_COMPARED)
    assert stated | set(integer_truth.NOT_COMPARED) == {f"N{i}" for i in range(1, 27)}


# ------------------------------------------------------------------------------------- a wrong rule would be noticed


def away_from_zero(value: Any) -> int:
    """Rounding half away from zero, which no rule of these asks for."""
    return int(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def int9_after_offset(acc: int, scale: float, offset: int, slope: float, unsigned: bool) -> int:
    """N17 with the clip after the offset."""
    value = numbers.product(Fraction(acc), truncated(numbers.number(scale), MULTIPLIER), F32)
    clipped = min(max(round(value) + offset, -256), 255)
    return min(max(clipped, 0 if unsigned else -128), 255 if unsigned else 127)


def saturated(sums: Any, profile: Any) -> Any:
    """N7 without the choice to wrap."""
    return np.clip(sums, layers.LEAST, layers.MOST).astype(np.int32)


WRONG: dict[str, tuple[str, Any, str, Callable[..., Any]]] = {
    "ties of a quantizer": ("AscendQuant", numbers, "round", away_from_zero),
    "steps of m / 127": ("DynamicQuant", rules, "_quotient", lambda a, b: rounded(a / b, F16) if b else 0),
    "halves to even of 310P": ("DynamicQuant", rules, "_half_away", lambda value: numbers.to_integer(value, -128, 127)),
    "offset in the int9 clip": ("AscendRequant", rules, "requantized", int9_after_offset),
    "multiplier not truncated": ("AscendDequant", rules, "multiplier", lambda scale, choice: numbers.number(scale)),
    "shift ignored": ("AscendDequant", rules, "shifted", lambda acc, *_: acc),
    "root never taken": ("AscendDequant", rules, "splits", lambda *_: False),
    "infinity for saturation": ("AscendAntiQuant", rules, "to_float16", lambda value, _: rounded(value, F16)),
    "accumulators that wrap": ("integer convolution", layers, "settled", saturated),
    "always fused": ("fused and unfused requantization", fusions, "is_fused", lambda *_: True),
    "never fused": ("concatenation before a quantizer", rules, "requantized", lambda *_: 0),
    "19 bits of a product": ("requantization multiplier", parameters, "truncated", lambda value, to: value),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, module, attribute, other = WRONG[wrong]
    monkeypatch.setattr(module, attribute, other, raising=attribute != "round")
    tally = run_row(ROWS[name], 25, seed=0)
    assert tally.different > 0
    assert tally.wrong.startswith("case ")


def test_rows_that_may_differ_do_so_by_their_steps_only() -> None:
    row = Row("N5", "a row", lambda rng: Comparison(np.int8([1, 2, 3]), np.int8([1, 3, 3]), "drawn"), steps=1)
    assert (run_row(row, 1, 0).wrong, run_row(row, 1, 0).different) == ("", 1)
    exact = Row("N5", "a row", row.draw)
    assert run_row(exact, 1, 0).wrong == "case 0: element [1] is 2 instead of 3: drawn"


@pytest.mark.parametrize(
    ("actual", "expected", "different"),
    [
        (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]), 0),
        (np.float32([np.nan, np.inf]), np.float32([0.0, -np.inf]), 2),
        (np.int8([1, 2]), np.int16([1, 2]), 2),
        (np.int8([[1, 2]]), np.int8([1, 2]), 2),
    ],
)
def test_differences_are_counted(actual: np.ndarray, expected: np.ndarray, different: int) -> None:
    tally = Tally(Row("N1", "a row", lambda rng: Comparison(actual, expected, "drawn")))
    tally.add(tally.row.draw(RNG), 0)
    assert tally.different == different
    assert bool(tally.wrong) == bool(different)


# ------------------------------------------------------------------------------------------------------ exact numbers


@pytest.mark.parametrize(("form", "dtype"), [(F16, np.float16), (F32, np.float32)])
def test_rounding_is_that_of_ieee(form: numbers.Format, dtype: type) -> None:
    """NumPy's casts from float64 round once, half to even."""
    bits = RNG.integers(0, 1 << 64, 4000, dtype=np.uint64).view(np.float64)
    near = RNG.normal(size=4000) * np.exp2(RNG.integers(-30, 13, 4000).astype(np.float64))
    halves = near.astype(dtype).astype(np.float64) * (1 + 2.0**-form.digits)
    values = np.concatenate([bits[np.isfinite(bits)], near, halves, [65519.99, 65520.0, 2.0**-25, 3 * 2.0**-25, 0.0]])
    with np.errstate(all="ignore"):
        expected = values.astype(dtype).astype(np.float64)
    assert [float(rounded(Fraction(v), form)) for v in values] == expected.tolist()


def test_truncation_drops_thirteen_bits() -> None:
    values = RNG.integers(0, 0x7F80_0000, 4000).astype(np.uint32)
    dropped = (values & np.uint32(0xFFFFE000)).view(np.float32)
    assert [float(truncated(numbers.number(v), MULTIPLIER)) for v in values.view(np.float32)] == dropped.tolist()


def test_roots_round_once() -> None:
    values = np.exp2(RNG.uniform(-140, 120, 500)).astype(np.float32)
    expected = np.sqrt(values.astype(np.float64)).astype(np.float32)  # 53 bits are more than 2 · 24 + 2
    assert [float(square_root(Fraction(float(v)), F32)) for v in values] == expected.tolist()


def test_profiles_are_those_of_the_rules() -> None:
    """The table of docs/numerics, which the formulas take from the profiles."""
    found = {name: cases.profile_of(name) for name in cases.profile_names()}
    fp16 = {"ascend310", "ascend310b1", "ascend310p1", "ascend310p3", "ascend910a"}
    assert {n for n, p in found.items() if p.quant_mode == "fp16"} == fp16
    assert {n for n, p in found.items() if p.epilogue == "f16_vector"} == {"ascend310", "ascend910a"}
    assert {n for n, p in found.items() if p.epilogue == "vdeq_cast"} == {"ascend310p1", "ascend310p3"}
    assert {n for n, p in found.items() if p.requant == "unfused"} == {"ascend310", "ascend910a"}
    assert {n for n, p in found.items() if p.sqrt_mode_squares} == {"ascend950"}
    assert {n for n, p in found.items() if p.sparsity_4_2} == {"ascend310b1", "ascend910b1"}

"""Measurements by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amctc.calibrate.samples import InputSpec, Samples, from_iterable
from amctc.errors import InputError, UsageError
from amctc.ir import Graph, GraphInput, apply, const
from amctc.measurement import Measurement, Reference, decibels, held_back
from amctc.ops import nn
from amctc.session import input_specs
from amctc.targets import load_profile
from amctc.types import F32, I64, TensorType

X = GraphInput("x", TensorType(("n", 3), F32))
ROWS = np.float32([[3, 1, 0], [0, 2, 1], [1, 0, 2], [2, 1, 0]])
TARGET = load_profile("ascend910b1")


def plus(*row: float, final: object = None) -> Graph:
    y = apply(nn.Add(), X, const(np.float32([row])))
    return Graph((X,), (y if final is None else apply(final, y),), ("y",))


def given(labels: object = None) -> Samples:
    return from_iterable({"x": ROWS}, input_specs(plus(0, 0, 0)), labels=labels, batch_size=3)


def test_numbers_by_hand() -> None:
    """0.5 more for the second of three scores: no row changes its class."""
    found = Reference(plus(0, 0, 0), given(), TARGET).measure(plus(0, 0.5, 0))
    assert found.noise == pytest.approx(4 * 0.25 / 25)
    assert found.mse == pytest.approx(4 * 0.25 / 12)
    assert found.sqnr_db == pytest.approx(10 * math.log10(25))
    assert found.agreement == 1.0
    assert found.top1 is None
    p = np.exp(ROWS) / np.exp(ROWS).sum(1, keepdims=True)
    shifted = ROWS + np.float32([0, 0.5, 0])
    q = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    assert found.kl == pytest.approx(float((p * np.log(p / q)).sum()) / 4, rel=1e-5)
    cosine = (ROWS * shifted).sum() / math.sqrt((ROWS**2).sum() * (shifted**2).sum())
    assert found.cosine == pytest.approx(float(cosine), rel=1e-6)


def test_classes_that_change() -> None:
    """1.5 more for the second score: the fourth row changes its class, and with it what is right."""
    found = Reference(plus(0, 0, 0), given([0, 1, 2, 1]), TARGET).measure(plus(0, 1.5, 0))
    assert (found.agreement, found.top1) == (0.75, 1.0)
    assert Reference(plus(0, 0, 0), given([0, 1, 2, 1]), TARGET).clean.top1 == 0.75


def test_a_softmax_is_looked_through() -> None:
    plain = Reference(plus(0, 0, 0), given(), TARGET).measure(plus(0, 0.5, 0))
    behind = Reference(plus(0, 0, 0, final=nn.Softmax(1)), given(), TARGET).measure(
        plus(0, 0.5, 0, final=nn.Softmax(1))
    )
    assert behind == plain


def test_the_evaluator_sees_the_whole_model() -> None:
    def total(session: object, samples: Samples) -> float:
        return float(sum(session.run(feeds)["y"].sum() for feeds in samples))

    reference = Reference(plus(0, 0, 0, final=nn.Softmax(1)), given(), TARGET, evaluator=total)
    assert reference.clean.score == pytest.approx(4.0, rel=1e-6)
    found = reference.measure(plus(0, 0.5, 0))
    assert found.score == pytest.approx(float(ROWS.sum()) + 2.0)
    assert found.loss("score", reference.clean) == pytest.approx(4.0 - float(ROWS.sum()) - 2.0)


def test_results_that_are_no_numbers() -> None:
    """Infinite outputs are infinite noise, not an error."""
    found = Reference(plus(0, 0, 0), given(), TARGET).measure(plus(math.inf, 0, 0))
    assert (found.noise, found.sqnr_db, found.kl) == (math.inf, -math.inf, math.inf)


def test_nothing_to_compare() -> None:
    graph = Graph((X,), (apply(nn.Cast(I64), X),), ("y",))
    with pytest.raises(UsageError, match="no output holds floating-point numbers"):
        Reference(graph, given(), TARGET)


@pytest.mark.parametrize(("noise", "db"), [(0.0, math.inf), (1.0, 0.0), (0.001, 30.0), (math.inf, -math.inf)])
def test_decibels(noise: float, db: float) -> None:
    assert decibels(noise) == pytest.approx(db)


def test_losses() -> None:
    found = Measurement(noise=0.25, mse=2.0, cosine=0.9, kl=0.5, agreement=1.0)
    assert [found.loss(m, found) for m in ("sqnr", "mse", "kl")] == [0.25, 2.0, 0.5]
    assert found.loss("cosine", found) == pytest.approx(0.1)
    with pytest.raises(UsageError, match="no score"):
        found.loss("score", found)


@pytest.mark.parametrize(("total", "behind", "parts"), [(16, None, (12, 4)), (17, None, (12, 5)), (2, None, (1, 1)),
                                                        (16, 10, (6, 10))])  # fmt: skip
def test_parts_of_samples(total: int, behind: int | None, parts: tuple[int, int]) -> None:
    array = np.arange(3 * total, dtype=np.float32).reshape(total, 3)
    first, last = held_back(from_iterable({"x": array}, input_specs(plus(0, 0, 0))), behind)
    assert (len(first), len(last)) == parts
    assert np.array_equal(next(iter(last))["x"][0], array[parts[0]])


def test_parts_fill_the_batch_of_a_model() -> None:
    spec = (InputSpec("x", (4, 3), np.dtype(np.float32)),)
    first, last = held_back(from_iterable({"x": np.zeros((12, 3), np.float32)}, spec))
    assert (len(first), len(last)) == (8, 4)


@pytest.mark.parametrize(("total", "behind"), [(1, None), (4, 4), (4, 5)])
def test_too_few_samples(total: int, behind: int | None) -> None:
    few = from_iterable({"x": np.zeros((total, 3), np.float32)}, input_specs(plus(0, 0, 0)))
    with pytest.raises((UsageError, InputError), match="too few"):
        held_back(few, behind)

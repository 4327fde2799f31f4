"""Evaluation by a function of the user's own; that as a classifier is tested through the command line."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from amctc.api import evaluate
from amctc.calibrate.samples import from_iterable
from amctc.errors import InputError, UsageError
from amctc.evaluation import evaluate_all
from amctc.ir import Graph, GraphInput, apply
from amctc.ops import nn
from amctc.session import Session
from amctc.types import F32, Array, TensorType

X = GraphInput("x", TensorType(("N", 2), F32))
GRAPH = Graph((X,), (apply(nn.Relu(), X),), ("y",))


@pytest.fixture
def session():
    return Session(GRAPH)


@pytest.fixture
def samples(session):
    return from_iterable({"x": np.float32([[1, -2], [3, 4], [-5, -6]]), "y": np.array([0, 1, 1])}, session.inputs)


def test_it_gets_the_session_and_the_samples(session, samples) -> None:
    def total(model, batches):
        assert model is session
        assert batches is samples
        assert [i.name for i in model.inputs] == ["x"]
        return sum(model.run(feeds)[model.output_names[0]].sum() for feeds in batches)

    found = evaluate(session, samples, evaluator=total)
    assert (found.metric, found.score, found.samples) == ("total", 8.0, 3)
    assert (found.top1, found.agreement, found.sqnr_db) == (None, None, None)


def test_it_may_have_samples_of_its_own(session) -> None:
    def largest(model):
        return model.run({"x": np.float32([[7, 2]])})["y"].max()

    found = evaluate(session, evaluator=largest)
    assert (found.metric, found.score, found.samples) == ("largest", 7.0, 0)


@pytest.mark.parametrize("number", [3, 2.5, np.float32(1.5), np.int64(7), np.array(0.25)])
def test_numbers_of_any_type(session, number) -> None:
    assert evaluate(session, evaluator=lambda model: number).score == float(number)


@pytest.mark.parametrize("given", ["0.5", None, True, np.bool_(False), [0.5], np.array([0.5]), {"map": 1.0}, 1j,
                                   float("nan"), float("inf")])  # fmt: skip
def test_what_is_no_number_is_refused(session, given) -> None:
    def score(model):
        return given

    with pytest.raises(InputError, match="the evaluator 'score' gave") as caught:
        evaluate(session, evaluator=score)
    assert caught.value.remedy


def test_samples_are_asked_for(session) -> None:
    def pairs(model, samples):
        return 0

    with pytest.raises(UsageError, match="'pairs' takes samples"):
        evaluate(session, evaluator=pairs)
    with pytest.raises(UsageError, match="no samples to evaluate on"):
        evaluate(session)


def test_outputs_that_are_no_classifiers_ask_for_an_evaluator(session) -> None:
    y = apply(nn.ReduceMean((0,), False), X)
    mean = Session(Graph((X,), (y,), ("y",)))
    feeds = np.float32([[1, 5], [3, 4], [2, 6]])
    labelled = from_iterable({"x": feeds, "y": np.array([0, 1, 1])}, mean.inputs)
    with pytest.raises(UsageError, match=r"no row per sample.*--evaluator"):
        evaluate(mean, labelled)
    found = evaluate(mean, from_iterable({"x": feeds}, mean.inputs), mean)
    assert (found.samples, found.agreement) == (3, 1.0)


def test_errors_of_the_users_own_function_pass(session) -> None:
    def broken(model):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        evaluate(session, evaluator=broken)


@pytest.mark.parametrize("jobs", [1, 3])
def test_several_models_are_scored_from_one_run_each(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    x = GraphInput("x", TensorType(("N", 6), F32))
    real, rounded = (Session(Graph((x,), (apply(kind, x),), ("y",))) for kind in (nn.Relu(), nn.Tanh()))
    rng = np.random.default_rng(0)
    batches = [{"x": rng.normal(size=(4, 6)).astype(np.float32), "y": rng.integers(0, 6, 4)} for _ in range(3)]
    samples = from_iterable(batches, real.inputs, batch_size=5)
    one_by_one = tuple(evaluate(s, samples, real) for s in (rounded, real))
    runs: list[Session] = []
    run = Session.run

    def counted(self: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
        runs.append(self)
        return run(self, feeds)

    monkeypatch.setattr(Session, "run", counted)
    assert evaluate_all((rounded, real), samples, real, jobs=jobs) == one_by_one
    assert [runs.count(real), runs.count(rounded)] == [3, 3]
    assert evaluate_all((), samples, real) == ()

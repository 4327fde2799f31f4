"""Searches within a budget against enumeration of everything, on three layers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

import amctc
from amctc.errors import UsageError
from amctc.measurement import Reference, decibels, held_back
from amctc.mixed_precision.allocation import Allocation, Limits
from amctc.mixed_precision.budget_search import search
from amctc.mixed_precision.costs import Budget
from amctc.mixed_precision.sensitivities import one_in
from amctc.mixed_precision.space import INT8, Space, space_of
from amctc.pipeline import Context
from amctc.preset import load_preset
from tests.unit.mixed_precision.networks import LAYERS, OF_CONVOLUTIONS, chain, perceptron, samples

EVERY = [dict(zip(LAYERS, chosen, strict=True)) for chosen in itertools.product(OF_CONVOLUTIONS, repeat=3)]
Noise = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def measured() -> tuple[Space, Reference, Noise]:
    calibrating, held = held_back(samples(chain()))
    space = space_of(chain(), load_preset("fast"), OF_CONVOLUTIONS, Context(samples=calibrating))
    reference = Reference(chain(), held, space.target)
    alone = one_in(space.assembly, reference, OF_CONVOLUTIONS, lambda what, done, total: None)
    return space, reference, {n: {"f16": 0.0, **{c: m.noise for c, m in own.items()}} for n, own in alone.items()}


def brute(space: Space, noise: Noise, budgets: list[Budget]) -> tuple[Limits, dict[str, str]]:
    """The best of all 27 choices by the sum of noises, each compiled."""
    limits = Limits(space, budgets)
    fitting = [a for a in EVERY if limits.fit(limits.cost(a))]
    return limits, min(fitting, key=lambda a: sum(noise[n][c] for n, c in a.items()))


@pytest.mark.parametrize("share", [0.43, 0.5, 0.6, 0.67, 0.75, 0.85, 1.0, 1.2])
def test_bytes_are_spent_as_well_as_can_be(measured: tuple[Space, Reference, Noise], share: float) -> None:
    space, _, noise = measured
    budget = [Budget("bytes", share, True)]
    limits, best = brute(space, noise, budget)
    allocation = Allocation(space, limits, noise)
    found = allocation.best()
    assert limits.fit(limits.cost(found))
    assert allocation.predicted(found) == pytest.approx(allocation.predicted(best), abs=0)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("of_bytes", [None, 0.7])
def test_time_is_spent_well(measured: tuple[Space, Reference, Noise], share: float, of_bytes: float | None) -> None:
    """Times do not add up, so the optimum is not promised: a result that fits, and no worse than any uniform one."""
    space, _, noise = measured
    budgets = [Budget("time", share, True)] + ([Budget("bytes", of_bytes, True)] if of_bytes else [])
    limits = Limits(space, budgets)
    allocation = Allocation(space, limits, noise)
    found = allocation.best()
    if any(limits.fit(limits.cost(a)) for a in EVERY):
        assert limits.fit(limits.cost(found))
    uniform = [a for a in allocation.uniform() if limits.fit(limits.cost(a))]
    assert all(allocation.predicted(found) <= allocation.predicted(a) for a in uniform)


def test_noises_of_layers_add_up(measured: tuple[Space, Reference, Noise]) -> None:
    """Three layers' noises are nearly uncorrelated: the sum is within a factor of two of what all together make."""
    space, reference, noise = measured
    for assignment in EVERY[1:]:
        together = reference.measure(space.assembly.assembled(assignment)).noise
        assert 0.5 < together / sum(noise[n][c] for n, c in assignment.items()) < 2


def test_what_nothing_meets_comes_nearest(measured: tuple[Space, Reference, Noise]) -> None:
    space, _, noise = measured
    limits = Limits(space, [Budget("bytes", 10)])
    found = Allocation(space, limits, noise).best()
    assert limits.cost(found).bytes == min(limits.cost(a).bytes for a in EVERY)


@pytest.mark.parametrize("kinds", [[], ["bytes", "bytes"]])
def test_budgets_of_one_kind(measured: tuple[Space, Reference, Noise], kinds: list[str]) -> None:
    with pytest.raises(UsageError, match="the budgets are none, or two of one kind"):
        Limits(measured[0], [Budget(kind, 0.5, True) for kind in kinds])  # type: ignore[arg-type]


def test_the_whole_search(tmp_path: Path) -> None:
    result = search(chain(), samples(chain()), Budget("bytes", 0.6, True), preset="fast", out=tmp_path / "out")
    found = result.report.precision
    assert found is not None
    assert found.reached
    assert (found.calibrated, found.held_back, found.kept) == (12, 4, "searched")
    assert [t.name for t in found.trials] == ["all in float16", "the preset as it is", "searched"]
    whole, _, searched = found.trials
    assert searched.bytes <= 0.6 * whole.bytes
    assert searched.assignment == {layer.layer: layer.chosen for layer in found.layers}
    assert searched.predicted_db == pytest.approx(
        decibels(sum(10 ** (-layer.alone_db[layer.chosen] / 10) for layer in found.layers if layer.chosen != "f16")),
        abs=1e-4,
    )
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["front.json", "model_deploy.onnx", "model_fakequant.onnx", "record.txt", "report.json"]
    front = json.loads((tmp_path / "out" / "front.json").read_text())
    assert front == json.loads((tmp_path / "out" / "report.json").read_text())["precision"]["front"]
    points = [(t["bytes"], t["sqnr_db"]) for t in front]
    assert all(not (a[0] <= b[0] and float(a[1]) >= float(b[1])) for a, b in itertools.permutations(points, 2))
    for layer in result.report.layers:
        notes = {"f16": ("left in float: chosen by what was measured",), "w8a8": (), "w4a8": ("weights in 4 bits",)}
        assert layer.notes == notes[searched.assignment[layer.name]]


def test_the_files_are_the_model_that_was_measured(tmp_path: Path) -> None:
    result = search(chain(), samples(chain()), Budget("bytes", 0.6, True), preset="fast", out=tmp_path / "out")
    assert result.report.precision is not None
    _, held = held_back(samples(chain()))
    session = amctc.Session(tmp_path / "out" / "model_deploy.onnx")
    found = amctc.evaluate(session, held, amctc.Session(chain()))
    measured = next(t for t in result.report.precision.trials if t.name == "searched")
    assert found.sqnr_db == pytest.approx(measured.sqnr_db, abs=1e-5)


def test_never_worse_than_the_preset() -> None:
    """Where int4 alone may be chosen and int8 fits the budget, the preset's int8 model is kept, and that is said."""
    result = search(chain(), samples(chain()), Budget("bytes", 2.0, True), preset="fast", candidates=("w4a8",))
    found = result.report.precision
    assert found is not None
    assert (found.reached, found.kept) == (True, "the preset as it is")
    assert found.remarks == (
        "the preset as it is was kept: it fits the budget, and nothing that was searched is better",
    )
    assert {layer.chosen for layer in found.layers} == {INT8}
    assert {layer.action for layer in result.report.layers} == {"int8"}


def test_a_budget_that_nothing_meets_is_said_to_be_missed() -> None:
    found = search(chain(), samples(chain()), Budget("bytes", 10), preset="fast").report.precision
    assert found is not None
    assert not found.reached
    assert found.remarks == ("the budget was missed; kept is what comes nearest with these candidates",)
    assert found.kept == "searched"


def test_refused_models_and_settings(tmp_path: Path) -> None:
    quantized = amctc.compress(chain(), samples(chain()), preset="fast")
    for graph, kind in ((quantized.qdq_graph, "qdq"), (quantized.deploy_graph, "deploy")):
        with pytest.raises(UsageError, match=f"this is a {kind} model, whose precision is chosen already"):
            search(graph, samples(chain()), Budget("bytes", 0.5, True))
    with pytest.raises(UsageError, match="a checkpoint keeps one calibration"):
        search(chain(), samples(chain()), Budget("bytes", 0.5, True), checkpoint=tmp_path / "c")
    with pytest.raises(UsageError, match="the budgets are none"):
        search(chain(), samples(chain()), preset="fast")


def test_integer_weights_under_float_data_are_a_choice_of_their_own(tmp_path: Path) -> None:
    """Half the bytes of float16 and nearly its numbers: nothing else is best within 0.6 of all in float16."""
    graph = perceptron()
    result = search(graph, samples(graph, 32), Budget("bytes", 0.6, True), preset="fast", out=tmp_path / "out")
    found = result.report.precision
    assert found is not None
    assert {layer.layer: layer.chosen for layer in found.layers} == {"one": "w8a16", "two": "w8a16"}
    assert {layer.name: layer.action for layer in result.report.layers} == dict.fromkeys(("one", "two"), "weight-only")
    notes = {layer.name: layer.notes for layer in result.report.layers}
    assert "data left in float: chosen by what was measured" in notes["one"]
    chosen = next(t for t in found.trials if t.name == "searched")
    eights = next(t for t in found.trials if set(t.assignment.values()) == {"w8a8"})
    assert (chosen.sqnr_db > eights.sqnr_db, chosen.bytes <= eights.bytes) == (True, True)
    assert json.loads((tmp_path / "out" / "front.json").read_text())

"""Layers left in float until a goal is reached."""

from __future__ import annotations

import math

import pytest

from amctc.errors import UsageError
from amctc.measurement import Measurement
from amctc.mixed_precision.goal import Goal
from amctc.mixed_precision.goal_search import compress_to_goal
from amctc.mixed_precision.recipe import Recipe
from amctc.mixed_precision.space import INT8
from amctc.ops import nn
from tests.unit.mixed_precision.networks import LAYERS, chain, samples

CLEAN = Measurement(0.0, 0.0, 1.0, 0.0, agreement=1.0)


def measured(**values: float) -> Measurement:
    return Measurement(**{"noise": 0.01, "mse": 0.0, "cosine": 1.0, "kl": 0.0, "agreement": 1.0, **values})


def test_what_a_goal_asks() -> None:
    assert Goal(max_drop=0.5).excess(measured(agreement=0.995), CLEAN) == pytest.approx(0.0, abs=1e-8)
    assert Goal(max_drop=0.5).excess(measured(agreement=0.98), CLEAN) == pytest.approx(1.5)
    labelled = Measurement(0.0, 0.0, 1.0, 0.0, agreement=1.0, top1=0.9)
    assert Goal(max_drop=1).excess(measured(agreement=0.5, top1=0.92), labelled) == pytest.approx(-3.0)
    scored = Measurement(0.0, 0.0, 1.0, 0.0, agreement=1.0, top1=0.9, score=30.0)
    assert Goal(max_drop=1).excess(measured(top1=0.9, score=28.0), scored) == pytest.approx(1.0)
    assert Goal(min_sqnr=30).excess(measured(noise=0.01), CLEAN) == pytest.approx(10.0)
    assert Goal(min_sqnr=30).excess(measured(noise=0.0), CLEAN) == -math.inf


@pytest.mark.parametrize(
    "values",
    [{}, {"max_drop": 1.0, "min_sqnr": 30.0}, {"max_drop": -1.0}, {"max_drop": math.nan}, {"min_sqnr": math.inf},
     {"min_sqnr": math.nan}],
)  # fmt: skip
def test_what_is_no_goal(values: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Goal(**values)


def test_no_class_that_could_change() -> None:
    with pytest.raises(UsageError, match="no row of scores per sample"):
        compress_to_goal(chain(final=nn.Reshape((-1, 2, 4))), samples(chain()), Goal(max_drop=1.0), preset="fast")


def test_the_preset_is_enough() -> None:
    found = compress_to_goal(chain(), samples(chain()), Goal(min_sqnr=5.0), preset="fast").report.precision
    assert found is not None
    assert (found.reached, found.kept, found.layers) == (True, "the preset as it is", ())
    assert (found.calibrated, found.held_back) == (12, 4)
    assert [t.name for t in found.trials] == ["the preset as it is"]


@pytest.mark.parametrize("more", [1.0, 3.0, 6.0, 10.0])
def test_no_layer_is_left_in_float_needlessly(more: float) -> None:
    """The goal is reached, and by trials with any of the float layers in int8 it is not."""
    recipe = Recipe.of(chain(), samples(chain()), preset="fast")
    reference, space = recipe.reference(), recipe.space(["f16", INT8])
    plain = reference.measure(space.deploy(space.assembly.uniform(INT8))).sqnr_db
    result = compress_to_goal(chain(), samples(chain()), Goal(min_sqnr=plain + more), preset="fast")
    found = result.report.precision
    assert found is not None
    assert found.reached
    assert found.trials[-1].sqnr_db >= plain + more
    assert 0 < len(found.floats) < len(LAYERS) or more > 6
    for layer in found.floats:
        fewer = {**{n: "f16" if n in found.floats else INT8 for n in LAYERS}, layer: INT8}
        assert reference.measure(space.deploy(fewer)).sqnr_db < plain + more
    actions = {layer.name: layer.action for layer in result.report.layers}
    assert actions == {n: "float" if n in found.floats else "int8" for n in LAYERS}


def test_what_the_preset_rolled_back_stays_in_float() -> None:
    """One layer whose data are cut off is rolled back, which is not enough; others join it."""
    cut = {"override": ["second{method=percentile percentile=60.0}"]}
    settings = {"preset": "balanced", "options": {"place-qdq": cut, "roll-back": {"sqnr": 100.0, "budget": 0.4}}}
    plain = compress_to_goal(chain(), samples(chain()), Goal(min_sqnr=0.0), **settings).report
    rolled = {layer.name for layer in plain.layers if layer.action == "float"}
    assert rolled == {"second"}
    assert plain.precision is not None
    goal = Goal(min_sqnr=plain.precision.trials[0].sqnr_db + 1.0)
    found = compress_to_goal(chain(), samples(chain()), goal, **settings).report.precision
    assert found is not None
    assert found.reached
    assert rolled < found.floats


def test_a_goal_out_of_reach() -> None:
    """What comes nearest is all in float16; that the goal is missed is said."""
    result = compress_to_goal(chain(), samples(chain()), Goal(min_sqnr=200.0), preset="fast")
    found = result.report.precision
    assert found is not None
    assert not found.reached
    assert found.floats == set(LAYERS)
    (remark,) = found.remarks
    assert remark == "the goal was missed: outputs of at least 200 dB; kept is what comes nearest"
    assert max(found.trials, key=lambda t: t.sqnr_db).name == found.kept


def test_a_score_of_the_users_own() -> None:
    """One that no quantized model can keep: minus the number of batches whose outputs differ from the float model's."""
    graph, kept = chain(), {}

    def same(session: object, given: object) -> float:
        outputs = [session.run(feeds)["y"] for feeds in given]
        first = kept.setdefault("outputs", outputs)
        return -float(sum(abs(a - b).max() > 0.05 for a, b in zip(first, outputs, strict=True)))

    found = compress_to_goal(graph, samples(graph), Goal(max_drop=0.0), evaluator=same, preset="fast").report.precision
    assert found is not None
    assert found.goal == "a score at most 0 below the float model's"
    assert all(t.score is not None for t in found.trials)
    assert found.reached == (next(t for t in found.trials if t.name == found.kept).score == 0.0)

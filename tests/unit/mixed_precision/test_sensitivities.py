"""How sensitive layers are."""

from __future__ import annotations

import json

import pytest

from amctc.errors import UsageError
from amctc.measurement import Reference, held_back
from amctc.mixed_precision.sensitivities import sensitivity
from amctc.mixed_precision.space import INT4, INT8, space_of
from amctc.pipeline import Context
from amctc.preset import load_preset
from tests.unit.mixed_precision.networks import LAYERS, chain, samples


def test_one_in_and_one_out() -> None:
    graph = chain()
    report = sensitivity(graph, samples(graph), candidates=(INT8, INT4), preset="fast")
    assert (report.calibrated, report.held_back, report.metric) == (12, 4, "sqnr")
    rows = {(r.mode, r.layer, r.candidate): r for r in report.layers}
    assert len(rows) == len(report.layers) == 2 * 2 * 3
    one_in = [r for r in report.layers if r.mode == "one-in"]
    assert [r.loss for r in one_in] == sorted((r.loss for r in one_in), reverse=True)
    for layer in LAYERS:
        assert rows["one-in", layer, INT4].mse > rows["one-in", layer, INT8].mse
        assert rows["one-in", layer, INT8].op_type == "conv"
        assert rows["one-in", layer, INT8].macs == 32 * 32 * 16
    calibrating, held = held_back(samples(graph))
    space = space_of(graph, load_preset("fast"), (INT8,), Context(samples=calibrating))
    reference = Reference(graph, held, space.target)
    for layer in LAYERS:
        others = {other: INT8 for other in LAYERS if other != layer}
        expected = reference.measure(space.assembly.assembled(others))
        assert rows["one-out", layer, INT8].sqnr_db == pytest.approx(expected.sqnr_db, abs=1e-6)
    assert json.loads(report.to_json())["layers"][0]["layer"] == one_in[0].layer


def test_layers_that_take_no_int4_are_not_listed_with_it() -> None:
    graph = chain(groups=2)
    report = sensitivity(graph, samples(graph), modes=["one-in"], candidates=[INT4], preset="fast")
    assert sorted((r.layer, r.candidate) for r in report.layers) == [("first", INT4), ("third", INT4)]


def test_weights_that_four_bits_hold_exactly() -> None:
    """Sevenths of the largest of their row: 4 bits lose nothing of them, 8 bits do, and the data are the same."""
    graph = chain(exact="second")
    report = sensitivity(graph, samples(graph), modes=["one-in"], candidates=[INT8, INT4], preset="fast")
    rows = {(r.layer, r.candidate): r for r in report.layers}
    assert rows["second", INT4].mse < rows["second", INT8].mse
    assert rows["first", INT4].mse > rows["first", INT8].mse


@pytest.mark.parametrize("metric", ["mse", "cosine", "kl"])
def test_metrics(metric: str) -> None:
    report = sensitivity(chain(), samples(chain()), modes=["one-out"], metric=metric, preset="fast")  # type: ignore[arg-type]
    losses = [r.loss for r in report.layers]
    assert losses == sorted(losses)
    assert [1 - r.cosine if metric == "cosine" else getattr(r, metric) for r in report.layers] == losses


def test_a_score_of_the_users_own() -> None:
    report = sensitivity(chain(), samples(chain()), modes=["one-in"], metric="score", preset="fast",
                         evaluator=lambda session: 7.0)  # fmt: skip
    assert [(r.score, r.loss) for r in report.layers] == [(7.0, 0.0)] * 3


def test_settings_are_those_of_a_compression() -> None:
    with pytest.raises(TypeError, match="no setting of compress: seeds"):
        sensitivity(chain(), samples(chain()), seeds=1)


def test_refused() -> None:
    with pytest.raises(UsageError, match="no metric 'psnr'"):
        sensitivity(chain(), samples(chain()), metric="psnr")  # type: ignore[arg-type]
    for arguments in ({"metric": "score"}, {"evaluator": lambda session: 1.0}):
        with pytest.raises(UsageError, match="one needs the other"):
            sensitivity(chain(), samples(chain()), **arguments)  # type: ignore[arg-type]

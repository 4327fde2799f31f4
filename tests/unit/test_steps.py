"""Steps of a preset: kept where they help on samples held back, else undone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from amctc.api import compress
from amctc.calibrate.samples import Samples, from_iterable
from amctc.contract import Contract, Exact
from amctc.errors import InputError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.measurement import Measurement
from amctc.ops import nn
from amctc.pipeline import Context, Pass, register
from amctc.preset import Preset, Step, load_preset
from amctc.session import input_specs
from amctc.steps import FEWEST, Settled, gain_with_error, gains, settle
from amctc.types import F32, I64, TensorType

CLEAN = Measurement(noise=0.0, mse=0.0, cosine=1.0, kl=0.0, agreement=1.0)


@register
@dataclass(frozen=True)
class CountRuns(Pass):
    """Does nothing, and counts how often."""

    name: ClassVar[str] = "test-count-runs"
    contract: ClassVar[Contract] = Contract(effect=Exact())
    runs: ClassVar[list[int]] = []

    def run(self, graph: Graph, context: Context) -> Graph:
        self.runs.append(len(context.samples or ()))
        return graph


def network(*, integer_output: bool = False) -> Graph:
    draw = np.random.default_rng(3)
    x = GraphInput("x", TensorType(("n", 16), F32))
    y: Value = x
    for name in ("first", "second"):
        weight = draw.standard_t(2, (16, 16)).astype(np.float32)
        y = apply(nn.Gemm(), y, const(weight), const(np.zeros(16, np.float32)), origins=(Origin(name, "Gemm"),))
        y = apply(nn.Relu(), y) if name == "first" else y
    return Graph((x,), (apply(nn.Cast(I64), y) if integer_output else y,), ("y",))


def samples(count: int) -> Samples:
    draw = np.random.default_rng(4)
    mixed = draw.normal(size=(count, 4)) @ draw.normal(size=(4, 16)) + 0.1 * draw.normal(size=(count, 16))
    return from_iterable({"x": mixed.astype(np.float32)}, input_specs(network()), batch_size=4)


def preset(path: Path, quantize: str, *steps: tuple[str, str], more: str = "") -> Preset:
    entries = "".join(f'[[steps]]\npass = "{p}"\nwithout = "{w}"\n' for p, w in steps)
    file = path / "mine.toml"
    file.write_text(f'extends = "fast"\nquantize = "{quantize}"\n{more}{entries}')
    return load_preset(str(file))


def settled(stages: Preset, count: int = 64, graph: Graph | None = None) -> Settled:
    return settle(stages, graph or network(), samples(count), Context(samples=samples(count)))


def measured(*noises: float) -> Measurement:
    return replace(CLEAN, noise=float(np.mean(noises)), by_sample=noises)


def test_the_gain_and_its_error_by_hand() -> None:
    """Noises 1, 1 become 0.1 and 0.001: gains of 10 and 30 dB, each 10 from their mean."""
    gain, error = gain_with_error(measured(1.0, 1.0), measured(0.1, 0.001))
    assert gain == pytest.approx(20.0)
    assert error == pytest.approx(math.sqrt((10.0**2 + 10.0**2) / (2 - 1)) / math.sqrt(2))
    assert gain_with_error(measured(1.0, 1.0), measured(1.0, 1.0, 1.0)) == (0.0, math.inf)
    assert gain_with_error(measured(0.0, 0.0), measured(2.0**-60, 0.0)) == (0.0, 0.0), "less than float32 resolves"


def test_what_is_a_gain() -> None:
    assert gains(measured(1.0, 1.0, 1.0), measured(0.5, 0.6, 0.4))
    assert not gains(measured(0.5, 0.6, 0.4), measured(1.0, 1.0, 1.0))
    assert not gains(measured(1.0, 1.0), measured(1.0, 1.0)), "nothing changed"
    assert not gains(measured(1.0, 1.0, 1.0), measured(0.1, 1.2, 1.1)), "one sample gained, the others lost"
    assert gains(measured(9.0, 0.1, 0.1), measured(9.1, 0.05, 0.05)), "one noisy sample does not judge alone"


def test_a_step_that_helps_is_kept_and_one_that_harms_undone(tmp_path: Path) -> None:
    stages = preset(
        tmp_path, "observe,place-qdq{bits=4},round-weights{bits=4},quantize-bias",
        ("round-weights", "quantize-weights{bits=4}"), ("place-qdq", "place-qdq"),
    )  # fmt: skip
    found = settled(stages)
    assert str(found.preset.quantize) == "observe,place-qdq,round-weights{bits=4},quantize-bias"
    assert not found.preset.steps
    assert found.report is not None
    assert (found.report.calibrated, found.report.held_back) == (48, 16)
    rounding, coarse = found.report.trials
    assert (rounding.kept, coarse.kept) == (True, False)
    assert rounding.gain_db > rounding.error_db > 0 > coarse.gain_db
    assert rounding.change == "quantize-weights{bits=4} → round-weights{bits=4}"
    assert coarse.sqnr_before_db == rounding.sqnr_after_db
    assert set(found.seconds) == {"round-weights", "place-qdq"}


def test_several_steps_of_one_pass(tmp_path: Path) -> None:
    stages = preset(
        tmp_path, "observe,place-qdq{bits=4},quantize-weights,quantize-bias",
        ("place-qdq", "place-qdq{bits=4 method=min-max}"), ("place-qdq", "place-qdq"),
    )  # fmt: skip
    first, second = stages.steps
    assert [str(form) for form in map(stages.form, stages.steps)] == ["place-qdq", "place-qdq{bits=4}"]
    texts = [str(stages.taking(kept).quantize) for kept in ([], [first], [second], [first, second])]
    forms = ["{bits=4 method=min-max}", "", "{bits=4 method=min-max}", "{bits=4}"]
    assert texts == [f"observe,place-qdq{form},quantize-weights,quantize-bias" for form in forms]
    found = settled(stages)
    assert [t.kept for t in found.report.trials] == [True, False]
    assert "bits=4" not in str(found.preset.quantize)


def test_a_step_is_undone_alone(tmp_path: Path) -> None:
    """Options that later steps change stay as these have them; what changes an undone pass is nothing to try."""
    stages = preset(
        tmp_path, "observe,place-qdq,round-weights{damping=0.1},quantize-bias", ("round-weights", "quantize-weights"),
        ("round-weights", "round-weights{correct-bias=false}"), ("round-weights", "round-weights"),
    )  # fmt: skip
    rounding, bias, damping = stages.steps
    options = {
        (): "quantize-weights", (bias,): "quantize-weights", (bias, damping): "quantize-weights",
        (rounding,): "round-weights{correct-bias=false}",
        (rounding, damping): "round-weights{correct-bias=false damping=0.1}", (rounding, bias): "round-weights",
        (rounding, bias, damping): "round-weights{damping=0.1}",
    }  # fmt: skip
    for kept, text in options.items():
        assert str(stages.taking(kept).quantize) == f"observe,place-qdq,{text},quantize-bias"


def test_an_undone_step_gets_a_second_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step harms alone, and helps beside the second."""
    stages = preset(
        tmp_path, "observe,place-qdq{percentile=99.0},round-weights,quantize-bias", ("place-qdq", "place-qdq"),
        ("round-weights", "quantize-weights"),
    )  # fmt: skip
    noises = {(): 1.0, ("place-qdq",): 1.2, ("round-weights",): 0.5, ("round-weights", "place-qdq"): 0.3}

    def measurement(_: object, taken: list[Step]) -> Measurement:
        return measured(*[noises[tuple(step.name for step in taken)]] * 9)

    monkeypatch.setattr("amctc.steps._Trials._measurement", measurement)
    found = settled(stages)
    trials = [(t.name, t.kept) for t in found.report.trials]
    assert trials == [("place-qdq", False), ("round-weights", True), ("place-qdq, again", True)]
    assert str(found.preset) == str(stages)
    noises["round-weights", "place-qdq"] = 0.6
    assert [t.kept for t in settled(stages).report.trials] == [False, True, False]
    noises["place-qdq",] = noises["place-qdq", "round-weights"] = 0.9
    assert len(settled(stages).report.trials) == 2, "nothing was kept behind what is undone"


def test_trials_share_what_they_have_in_common(tmp_path: Path) -> None:
    CountRuns.runs.clear()
    stages = preset(
        tmp_path, "observe,place-qdq,test-count-runs,quantize-weights{bits=4},quantize-bias",
        ("quantize-weights", "quantize-weights{bits=8}"), more="trial-samples = 40\n",
    )  # fmt: skip
    assert settled(stages, 120).report.held_back == 10
    assert CountRuns.runs == [30]


@pytest.mark.parametrize("graph", [network(integer_output=True), None])
def test_without_a_way_to_judge_all_steps_are_taken(tmp_path: Path, graph: Graph | None) -> None:
    stages = preset(tmp_path, "observe,place-qdq,test-count-runs,quantize-weights", ("test-count-runs", ""))
    found = settled(stages, 64 if graph is not None else 4 * FEWEST - 4, graph)
    assert found.report is None
    assert str(found.preset) == str(stages)
    assert not found.preset.steps


def test_a_step_without_effect_is_left_out_in_the_end(tmp_path: Path) -> None:
    """What builds on it is tried all the same."""
    stages = preset(
        tmp_path, "observe,place-qdq{two-sided=false},quantize-weights", ("place-qdq", "place-qdq{bits=4}"),
        ("place-qdq", "place-qdq{bits=4 two-sided=false}"),
    )  # fmt: skip
    found = settled(stages)
    assert [(t.kept, t.gain_db > 0.0) for t in found.report.trials] == [(False, False), (True, True)]
    assert str(found.preset.quantize) == "observe,place-qdq,quantize-weights"


def test_nothing_is_tried_where_nothing_would_change(tmp_path: Path) -> None:
    stages = preset(tmp_path, "observe,place-qdq{bits=8},quantize-weights", ("place-qdq", "place-qdq{bits=8}"))
    assert settled(stages).report.trials == ()


def test_a_step_given_options_is_taken(tmp_path: Path) -> None:
    """Only round-weights was told: rounding to nearest would lose the 4 bits that were asked for."""
    stages = load_preset("balanced").with_options({"round-weights": {"bits": 4}})
    assert [s.name for s in stages.steps] == ["equalize", "roll-back", "error compensation"]
    assert "round-weights{bits=4 correct-int8=false}" in str(stages.taking(()).quantize)
    stages = preset(tmp_path, "observe,place-qdq{method=entropy},quantize-weights", ("place-qdq", "place-qdq"))
    (step,) = stages.with_options({"place-qdq": {"skip": ("first",)}}).steps
    assert str(step.without) == "place-qdq{skip=[first]}"


def test_the_report_and_the_pipeline_of_a_compression(tmp_path: Path) -> None:
    stages = preset(
        tmp_path, "observe,place-qdq{bits=4},round-weights,quantize-bias",
        ("round-weights", "quantize-weights"), ("place-qdq", "place-qdq"),
    )  # fmt: skip
    result = compress(network(), samples(64), preset=stages, out=tmp_path / "out")
    assert "place-qdq,round-weights,quantize-bias" in result.report.pipeline
    (written,) = [json.loads((tmp_path / "out" / "report.json").read_text())["steps"]]
    assert [(t["name"], t["kept"]) for t in written["trials"]] == [("round-weights", True), ("place-qdq", False)]
    assert "seconds" not in written["trials"][0], "reports are the same bytes for the same run"
    assert "steps" not in json.loads(compress(network(), samples(8), preset=stages).report.to_json())


def test_trials_are_not_made_again_by_a_run_that_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = preset(
        tmp_path, "observe,place-qdq,test-count-runs,round-weights,quantize-bias",
        ("round-weights", "quantize-weights"), ("test-count-runs", ""),
    )  # fmt: skip

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    whole = compress(network(), samples(64), preset=stages, out=tmp_path / "whole")
    CountRuns.runs.clear()
    with monkeypatch.context() as patched:
        patched.setattr("amctc.api.compare", killed)
        with pytest.raises(KeyboardInterrupt):
            compress(network(), samples(64), preset=stages, checkpoint=tmp_path / "kept", checkpoint_interval=0)
    assert CountRuns.runs == [48], "in its trial; without effect it is left out of the model"
    again = compress(network(), samples(64), preset=stages, out=tmp_path / "again", checkpoint=tmp_path / "kept",
                     checkpoint_interval=0)  # fmt: skip
    assert CountRuns.runs == [48], "not again"
    assert again.report == whole.report
    for name in ("model_deploy.onnx", "report.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('steps = "roll-back"\n', "a step is no table"),
        ('[[steps]]\npass = "observe"\n', "a step is no table"),
        ('[[steps]]\npass = "observe"\nwithout = 3\n', "a step is no table"),
        ('[[steps]]\npass = "observe"\nwithout = ""\nextra = ""\n', "a step is no table"),
        ('[[steps]]\npass = "roll-back"\nwithout = ""\n', "'roll-back' stands 0 times"),
        ("trial-samples = 0\n", "trial-samples is no positive integer"),
        ("trial-samples = true\n", "trial-samples is no positive integer"),
    ],
)
def test_malformed_steps(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'extends = "fast"\n{text}')
    with pytest.raises(InputError, match=message) as caught:
        load_preset(str(path))
    assert caught.value.where == str(path)


def test_steps_are_inherited_with_their_stage(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "balanced"\nquantize = "observe,place-qdq,quantize-weights"\n')
    assert [s.name for s in load_preset(str(path)).steps] == ["equalize"]
    path.write_text('extends = "balanced"\nbalance = ""\n')
    assert [s.pass_name for s in load_preset(str(path)).steps] == ["roll-back", "round-weights", "compensate-errors"]
    assert load_preset(str(path)).trial_samples == load_preset("balanced").trial_samples
    assert not load_preset("balanced").adopting().steps


def test_without_its_steps_balanced_is_fast() -> None:
    assert str(load_preset("balanced").taking(())) == str(load_preset("fast"))

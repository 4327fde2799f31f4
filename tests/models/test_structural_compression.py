"""Splits and masks of trained networks: what they save, what they cost in float, and how they run as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import amctc
from amctc.cycles import layer_macs
from amctc.examples import calibration_path, model_path, test_path
from amctc.ir import Graph, constant_data
from amctc.numerics.sparsity import encode_two_of_four
from amctc.ops import ascend

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SQUEEZENET = DATA / "models" / "squeezenet1.1.onnx"


def macs(graph: Graph) -> int:
    return sum(layer_macs(op) or 0 for op in graph.ops)


def compressed(model: Path, pipeline: str) -> tuple[Graph, Graph]:
    """The folded graph, and that after ``pipeline``."""
    folded = amctc.Pipeline.parse("fold-constants,fold-batch-norm").run(amctc.load(model)).graph
    return folded, amctc.Pipeline.parse(pipeline).run(folded).graph


def agreement(before: Graph, after: Graph, data: Path, preprocess: str, limit: int) -> float:
    samples = amctc.open_samples_for(before, data, preprocess=preprocess).limited(0, limit)
    found = amctc.evaluate(amctc.Session(after), samples, amctc.Session(before)).agreement
    assert found is not None
    return found


# Pipeline, share of the multiply-accumulates that remains at most, agreement at least. Nothing is trained again.
# Measured on 600 images: 0.857 and 0.995; 0.766 and 0.927; no multiply-accumulates fewer and 0.993.
EXAMPLE = {
    "split-low-rank{method=auto}": (0.86, 0.99),
    "split-low-rank{method=auto ratio=0.7}": (0.77, 0.91),
    "mask-weights{sparsity=0.3}": (1.0, 0.98),
}


@pytest.mark.parametrize("pipeline", EXAMPLE)
def test_shipped_example(pipeline: str) -> None:
    before, after = compressed(Path(model_path()), pipeline)
    cost, least = EXAMPLE[pipeline]
    assert macs(after) <= cost * macs(before)
    assert agreement(before, after, Path(test_path()), "unit", 600) >= least


# Measured on 64 images: 0.771 and 0.453; 0.881 and 0.844; 0.563.
TRAINED = {
    "split-low-rank{ratio=0.7}": (0.78, 0.40),
    "split-low-rank{energy=0.95}": (0.89, 0.80),
    "mask-weights{sparsity=0.3}": (1.0, 0.50),
}


@pytest.mark.skipif(not SQUEEZENET.is_file(), reason="the shared data folder is not there")
@pytest.mark.parametrize("pipeline", TRAINED)
def test_squeezenet(pipeline: str) -> None:
    before, after = compressed(SQUEEZENET, pipeline)
    cost, least = TRAINED[pipeline]
    assert macs(after) <= cost * macs(before)
    assert agreement(before, after, DATA / "imagenet", "imagenet", 64) >= least


def test_a_split_example_runs_in_integers() -> None:
    _, split = compressed(Path(model_path()), "split-low-rank{method=auto}")
    samples = amctc.open_samples_for(split, calibration_path(), preprocess="unit")
    result = amctc.compress(split, samples, compare_samples=2)
    assert {layer.action for layer in result.report.layers} == {"int8"}
    names = [layer.name for layer in result.report.layers]
    assert sum(name.endswith(("/0", "/1")) for name in names) == 6
    assert agreement(split, result.deploy_graph, Path(test_path()), "unit", 600) >= 0.99


def test_a_two_of_four_example_has_the_form_of_the_wire() -> None:
    _, masked = compressed(Path(model_path()), "mask-n-of-m")
    samples = amctc.open_samples_for(masked, calibration_path(), preprocess="unit")
    lowered = amctc.compress(masked, samples, compare_samples=2).deploy_graph
    sparse = 0
    for op in lowered.ops:
        if isinstance(op.kind, ascend.Conv | ascend.MatMul) and getattr(op.kind, "group", 1) == 1:
            data = constant_data(op.operands[1])
            assert data is not None
            axis = 0 if isinstance(op.kind, ascend.MatMul) and not op.kind.trans_b else 1
            if data.shape[axis] > 2:
                encode_two_of_four(data.read(), axis=axis)  # raises where a group has more than two
                sparse += int(np.mean(data.read() == 0) >= 0.5)
    assert sparse == 8

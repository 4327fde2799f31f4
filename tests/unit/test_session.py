"""Sessions on float, QDQ and deploy graphs: kinds, targets, inputs that do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import amctc
from amctc.errors import InputError, UsageError
from amctc.examples import calibration_path, model_path
from amctc.ir import Graph, GraphInput, apply
from amctc.ops import nn
from amctc.types import F32, TensorType


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    graph = amctc.load(model_path())
    samples = amctc.open_samples_for(graph, calibration_path(), preprocess="unit", limit=16)
    result = amctc.compress(graph, samples, compare_samples=1)
    return {"float": graph, "qdq": result.qdq_graph, "deploy": result.deploy_graph}


@pytest.mark.parametrize("kind", ["float", "qdq", "deploy"])
def test_kinds_and_inputs(graphs: dict[str, Graph], kind: str) -> None:
    session = amctc.Session(graphs[kind])
    assert session.kind == kind
    assert [(i.name, i.shape) for i in session.inputs] == [("image", ("N", 1, 8, 8))]
    assert session.run({"image": np.zeros((3, 1, 8, 8), np.float32)})["logits"].shape == (3, 10)
    for feeds, message in (
        ({}, "input 'image' is missing"),
        ({"image": np.zeros((3, 1, 9, 8), np.float32)}, "has shape"),
        ({"image": np.zeros((3, 1, 8, 8), np.int32)}, "holds int32"),
        ({"image": np.zeros((3, 1, 8, 8), np.float32), "mask": np.zeros(1)}, "no input 'mask'"),
    ):
        with pytest.raises(InputError, match=message):
            session.run(feeds)


def test_target_of_a_deploy_graph(graphs: dict[str, Graph]) -> None:
    assert amctc.Session(graphs["float"]).target is None
    session = amctc.Session(graphs["deploy"])
    assert session.target is not None
    assert session.target.name == "ascend910b1"
    anonymous = replace(graphs["deploy"], metadata=(), _memo={})
    with pytest.raises(UsageError, match="does not say its target"):
        amctc.Session(anonymous)
    named = amctc.Session(anonymous, target="ascend310p3").target
    assert named is not None
    assert named.name == "ascend310p3"


def test_a_deploy_graph_without_an_integer_layer_runs_as_its_target_would() -> None:
    """All of it is float16 there, also read from the file."""
    x = GraphInput("x", TensorType(("n", 4), F32))
    feeds = {"x": np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)}
    result = amctc.compress(Graph((x,), (apply(nn.Sigmoid(), x),), ("y",)), [feeds])
    session = amctc.Session(result.deploy_graph)
    assert session.kind == "deploy"
    half = 1 / (1 + np.exp(-feeds["x"].astype(np.float64)))
    difference = np.abs(session.run(feeds)["y"] - half)
    assert difference.max() <= 2.0**-10  # two units of float16 below 1
    assert difference.max() > 2.0**-20

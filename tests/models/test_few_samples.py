"""Few samples: what the default preset fits to them must not cost more than it gains on others."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import amctc
from amctc.numerics.error import ErrorStatistics

RNG = np.random.default_rng(41)


def network() -> onnx.ModelProto:
    """Three dense layers on 64 equally distributed features: no channel stands out, no feature goes with another."""
    sizes, tensors, nodes, last = (64, 64, 64, 10), [], [], "x"
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        tensors += [
            numpy_helper.from_array(RNG.normal(size=(inputs, outputs)).astype(np.float32) / 8, f"w{i}"),
            numpy_helper.from_array(RNG.normal(size=outputs).astype(np.float32) / 8, f"b{i}"),
        ]
        nodes += [helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"g{i}"], name=f"dense{i}")]
        nodes += [helper.make_node("Relu", [f"g{i}"], [f"r{i}"])] if i < 2 else []
        last = nodes[-1].output[0]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", c]) for n, c in (("x", 64), (last, 10)))
    graph = helper.make_graph(nodes, "dense", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


DRAWS = 4
"""Networks and samples: what four samples say of one network is chance."""


@pytest.mark.parametrize(("count", "bits"), [(1, 8), (4, 8), (32, 8), (4, 4), (32, 4)])
def test_nothing_is_lost_on_other_samples(count: int, bits: int, tmp_path) -> None:
    path, gains = tmp_path / "model.onnx", []
    for _ in range(DRAWS):
        onnx.save(network(), path)
        calibration = [{"x": RNG.normal(size=(count, 64)).astype(np.float32)}]
        others = {"x": RNG.normal(size=(500, 64)).astype(np.float32)}
        (expected,) = amctc.Session(path).run(others).values()
        found = {}
        for preset, rounding in (("fast", "quantize-weights"), ("balanced", "round-weights")):
            deployed = amctc.compress(path, calibration, preset=preset, options={rounding: {"bits": bits}}).deploy_graph
            (actual,) = amctc.Session(deployed).run(others).values()
            found[preset] = ErrorStatistics().updated(expected, actual).sqnr_db
        gains.append(found["balanced"] - found["fast"])
    assert np.mean(gains) > -1.0

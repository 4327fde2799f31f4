"""What tools/bench measures with: its networks are valid, and ONNX's reference evaluator confirms our integers."""

import json

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from amctc.api import compress
from amctc.onnx_bridge import import_model
from amctc.ops import nn
from amctc.session import Session
from tools.bench.__main__ import with_table
from tools.bench.clock import Timing, interleaved
from tools.bench.interpreter import float32_products
from tools.bench.networks import block_chain, mobilenet_v2, resnet_50
from tools.bench.rows import Row, table
from tools.bench.standard_form import standard_form


@pytest.mark.parametrize(("build", "dense"), [(mobilenet_v2, 36), (resnet_50, 54)])
def test_the_networks_are_valid_and_have_the_published_number_of_layers(build, dense):
    model = build(64)
    onnx.checker.check_model(model, full_check=True)
    layers = [op.kind for op in import_model(model).ops if isinstance(op.kind, nn.Conv | nn.Gemm)]
    assert sum(getattr(kind, "group", 1) == 1 for kind in layers) == dense
    onnx.checker.check_model(block_chain(3), full_check=True)


@pytest.mark.parametrize("build", [mobilenet_v2, resnet_50])
def test_the_reference_evaluator_gives_the_bits_of_the_interpreter(build):
    rng = np.random.default_rng(5)
    batches = [{"x": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(2)]
    made = compress(import_model(build(32)), batches, target="ascend910b1", preset="fast", compare_samples=1)
    session = Session(made.deploy_graph)
    evaluator = ReferenceEvaluator(standard_form(session.graph))
    for feeds in batches:
        expected = session.run(feeds)
        for name, array in zip(session.output_names, evaluator.run(None, feeds), strict=True):
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype
    float32_products(session.graph)()


def test_a_row_says_whether_its_goal_is_met():
    assert Row("a", 1.0, "×").met is None
    assert Row("a", 1.0, "×", 1.0).met is True
    assert Row("a", 1.1, "×", 1.0).met is False
    assert Row("a", 1.1, "×", 1.0, at_least=True).met is True
    assert "(missed)" in table([Row("a", 1.1, "×", 1.0)])
    assert json.dumps(Row("a", 1.1, "×", 1.0).to_dict())


def test_contenders_run_in_turn_after_the_warm_up():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm_up=1)
    assert "".join(calls) == "abababab"
    assert set(times) == {"a", "b"}
    assert Timing.of([3.0, 1.0, 2.0]).median == 2.0


def test_the_table_replaces_what_stands_between_the_marks():
    page = "before\n<!-- table -->\nold\n<!-- end -->\nafter\n"
    new = with_table(page, ["fast"], [Row("a", 2.0, "×")])
    assert "old" not in new
    assert "| a | 2 × |" in new
    assert new.startswith("before\n<!-- table -->\n- fast")
    assert new.endswith("<!-- end -->\nafter\n")
    with pytest.raises(ValueError, match="no marks"):
        with_table("nothing", ["fast"], [])

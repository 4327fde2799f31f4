"""What the ops are for: real models lose their carried nodes, several results keep their names, islands are float16."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, build, const
from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.parser import parse_graph
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile
from amctc.text import print_graph
from amctc.types import BOOL, F16, F32, I64, TensorType

MODELS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "models"


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def carried(graph: Graph) -> Counter[str]:
    return Counter(op.kind.op_type for op in graph.ops if isinstance(op.kind, Node))


@pytest.mark.parametrize(
    ("name", "most"),
    [("cifar10_resnet20", 4), ("mnist-8", 0), ("mobilenet_v1_0.25_224", 0), ("mobilenetv2", 0), ("squeezenet1.1", 0),
     ("vit_fashion", 32)],
)  # fmt: skip
def test_models_export_what_they_compute(name: str, most: int) -> None:
    """Exported, a model gives the same bits; at most so many of its nodes are carried."""
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{name} is not here")
    model = onnx.load(path)
    graph = import_model(model)
    assert sum(carried(graph).values()) <= most
    feeds = {
        i.name: np.random.default_rng(0)
        .standard_normal([d if isinstance(d, int) else 1 for d in i.type.dims])
        .astype(np.float32)
        for i in graph.inputs
    }
    expected = session(model).run(None, feeds)
    for old, new in zip(expected, session(export_model(graph)).run(None, feeds), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_transformer_folds_to_ops_of_ours() -> None:
    """What was carried in it are shape computations; with a static batch none is left but those of the batch."""
    path = MODELS / "vit_fashion.onnx"
    if not path.exists():
        pytest.skip("vit_fashion is not here")
    graph = import_model(onnx.load(path))
    folded = Pipeline.parse("fold-constants").run(graph, Context()).graph
    assert set(carried(folded)) <= {"Shape", "Reshape", "ConstantOfShape", "Mul", "Equal", "Expand", "Div"}
    x = {graph.inputs[0].name: np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)}
    first = session(onnx.load(path)).run(None, x)[0]
    ours = evaluate(folded, x, WHOLE_FLOAT)[graph.output_names[0]]
    assert np.abs(ours - first).max() <= 2.0**-23 * 256 * np.abs(first).max()


def split_model(sizes: list[int] | None) -> onnx.ModelProto:
    """y0 and y2 of three parts; the second is not wanted. Sizes are computed from a constant where given."""
    nodes = []
    if sizes is not None:
        nodes.append(helper.make_node("Add", ["a", "b"], ["sizes"], "sizes"))
    inputs = ["x"] if sizes is None else ["x", "sizes"]
    nodes.append(helper.make_node("Split", inputs, ["left", "", "right"], "split", axis=1))
    nodes.append(helper.make_node("Neg", ["right"], ["turned"], "turn"))
    arrays = [] if sizes is None else [numpy_helper.from_array(np.int64(sizes) - 1, "a"),
                                       numpy_helper.from_array(np.int64([1, 1, 1]), "b")]  # fmt: skip
    graph = helper.make_graph(
        nodes, "split", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, ["N", None]),
         helper.make_tensor_value_info("turned", TensorProto.FLOAT, ["N", None])], arrays,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_several_results_keep_their_names() -> None:
    graph = import_model(split_model(None))
    (split,) = (op for op in graph.ops if isinstance(op.kind, nn.Split))
    assert [r.name for r in split.results] == ["left", None, "right"]
    text = print_graph(graph)
    assert 'as "left", _, "right" loc("split": Split)' in text
    assert print_graph(parse_graph(text)) == text
    exported = export_model(graph)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    left, turned = session(exported).run(None, {"x": x})
    np.testing.assert_array_equal(left, x[:, :2])
    np.testing.assert_array_equal(turned, -x[:, 4:])


def test_a_split_is_recognised_when_its_sizes_are_folded() -> None:
    graph = import_model(split_model([1, 2, 3]))
    assert set(carried(graph)) == {"Add", "Split", "Neg"}  # ours add no integers, and the rank of parts is not known
    folded = Pipeline.parse("fold-constants").run(graph, Context()).graph
    assert not carried(folded)
    (split,) = (op for op in folded.ops if isinstance(op.kind, nn.Split))
    assert split.kind == nn.Split(1, (1, 2, 3))
    assert [r.name for r in split.results] == ["left", None, "right"]


def test_only_floats_become_float16() -> None:
    """Indices and conditions keep their types; every part of a split is converted."""
    x = GraphInput("x", TensorType((2, 6), F32))
    holds = GraphInput("holds", TensorType((2, 3), BOOL))
    index = GraphInput("index", TensorType((2,), I64))
    left, right = build(nn.Split(1, (3, 3)), x).results
    chosen = build(nn.Where(), holds, left, right).result
    gathered = build(nn.Gather(1), chosen, index).result
    powered = build(nn.Pow(2.0), gathered).result
    out = build(nn.Add(), powered, const(np.float32(0.1))).result
    graph = Graph((x, holds, index), (out,), ("y",))
    context = Context(target=load_profile("ascend910b1"))
    demoted = Pipeline.parse("demote-float").run(graph, context).graph
    kinds = {type(op.kind): op for op in demoted.ops}
    assert [r.type.elem for r in kinds[nn.Split].results] == [F16, F16]
    assert [o.type.elem for o in kinds[nn.Where].operands if o is not None] == [BOOL, F16, F16]
    assert [o.type.elem for o in kinds[nn.Gather].operands if o is not None] == [F16, I64]
    assert demoted.outputs[0].type.elem == F32
    feeds = {"x": np.float32([[1, 2, 3, 4, 5, 6]] * 2), "holds": np.asarray([[True, False, True]] * 2),
             "index": np.int64([-1, 0])}  # fmt: skip
    expected = (np.float16([[9, 1]] * 2) + np.float16(0.1)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(demoted, feeds, WHOLE_FLOAT)["y"], expected)

"""The converter runs once for each form of a node, and names stay apart."""

from __future__ import annotations

import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from amctc.onnx_bridge import version_conversion
from amctc.onnx_bridge.version_conversion import converted


def holding(node: NodeProto, *inputs: str, opset: int = 11) -> ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 3]) for n in inputs]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
    graph = helper.make_graph([node], "node", values, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def squeeze(x: str, y: str, axis: int = 0) -> ModelProto:
    return holding(helper.make_node("Squeeze", [x], [y], name=f"squeeze {x}", axes=[axis]), x)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions ONNX's converter was asked for, from an empty memory on."""
    version_conversion._convert.cache_clear()
    asked: list[int] = []
    convert = version_conversion.version_converter.convert_version

    def counted(model: ModelProto, target: int) -> ModelProto:
        asked.append(target)
        return convert(model, target)

    monkeypatch.setattr(version_conversion.version_converter, "convert_version", counted)
    return asked


def test_nodes_that_differ_in_names_are_converted_once(calls: list[int]) -> None:
    for x, y in (("a", "b"), ("b", "c"), ("v1", "v0")):
        newer = converted(squeeze(x, y), 17)
        assert newer is not None
        *_, last = newer.graph.node
        assert (last.op_type, last.input[0], list(last.output)) == ("Squeeze", x, [y])
    assert calls == [17]
    assert converted(squeeze("a", "b", axis=1), 17) is not None
    assert converted(squeeze("a", "b"), 13) is not None
    assert calls == [17, 17, 13]


def test_made_up_names_are_none_of_the_models(calls: list[int]) -> None:
    """The converter counts names up, as exporters do that call values 0, 1, 2."""
    first = converted(squeeze("x", "y"), 17)
    assert first is not None
    made_up = {n for part in first.graph.node for n in (*part.input, *part.output)} - {"x", "y"}
    assert made_up
    for name in made_up:
        newer = converted(squeeze(name, "y"), 17)
        assert newer is not None
        outputs = [o for part in newer.graph.node for o in part.output] + [t.name for t in newer.graph.initializer]
        assert name not in outputs
        assert newer.graph.node[-1].input[0] == name
        assert set(newer.graph.node[-1].input[1:]) <= set(outputs)


def test_what_the_converter_refuses(calls: list[int]) -> None:
    node = helper.make_node("Unknown", ["x"], ["y"])
    assert converted(holding(node, "x"), 17) is None
    assert converted(holding(node, "x"), 17) is None
    assert len(calls) == 1

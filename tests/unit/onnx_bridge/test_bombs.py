"""Few bytes that stand for much: refused, or looked at in a child with bounds; never executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from amctc.api import load
from amctc.errors import InputError, LimitError
from amctc.onnx_bridge import FloatSession, import_model, propagation
from tools.bad_inputs.bombs import net as built
from tools.bad_inputs.bombs import node, overlapping

I64 = np.int64


def net(body: str, inputs: str, outputs: str = "float[K] y") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> net ({inputs}) => ({outputs}) {body}')


@pytest.mark.parametrize("op", ["Add(x, w)", "Mul(x, w)", "Sub(x, w)", "Concat <axis = 0> (x, x)", "Cast <to = 6> (x)"])
def test_a_declared_length_is_not_counted_out(op: str) -> None:
    """ONNX's inference made a message for each element of any one-dimensional operand: found by fuzzing."""
    outputs = "int32[K] y" if "Cast" in op else "float[K] y"
    graph = import_model(net(f"{{ y = {op} }}", "float[1099511627776] x, float[1] w", outputs))
    assert graph.outputs[0].type.rank == 1


def test_a_computed_length_is_not_counted_out() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Mul", ["s", "k"], ["l"]), node("Expand", ["one", "l"], ["e"]),
             node("Add", ["e", "one"], ["y"])]  # fmt: skip
    graph = import_model(built(nodes, {"k": np.array([1 << 40], I64), "one": np.ones(1, np.float32)}, [4]))
    assert graph.outputs[0].type.dims == (None,)


def test_a_child_that_takes_too_much_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net("{ s = Shape(x) z = Expand(w, s) y = Add(z, z) }", "float[4096] x, float[1] w")
    assert propagation._inferred_in_child(model).graph.value_info
    monkeypatch.setattr(propagation, "_inferred", lambda model, data_prop: np.ones(1 << 40))
    assert propagation._inferred_in_child(model) is None


@pytest.mark.parametrize(("turns", "condition", "ends"), [
    ("", "true", False), ("many", "true", False), ("", "", False), ("few", "true", True),
    ("", "open", True), ("n", "true", True),
])  # fmt: skip
def test_loops_that_nothing_ends(turns: str, condition: str, ends: bool) -> None:
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Neg", ["s"], ["t"])], "body",
        [onnx.helper.make_tensor_value_info(n, t, []) for n, t in (("i", 7), ("go", 9))]
        + [onnx.helper.make_tensor_value_info("s", 1, None)],
        [onnx.helper.make_tensor_value_info("on", 9, []), onnx.helper.make_tensor_value_info("t", 1, None)],
    )  # fmt: skip
    weights = {"true": np.array(True), "many": np.array(1 << 40, I64), "few": np.array(9, I64)}
    model = built([node("Loop", [turns, condition, "x"], ["y"], body=body)], weights)
    model.graph.input.extend(
        [onnx.helper.make_tensor_value_info("n", 7, []), onnx.helper.make_tensor_value_info("open", 9, [])]
    )
    if ends:
        assert import_model(model)
    else:
        with pytest.raises(InputError, match="nothing ends"):
            import_model(model)


def test_tensors_may_share_a_file_but_not_live_off_it(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(bytes(1 << 20))
    for count, fine in ((3, True), (3000, False)):
        (tmp_path / "m.onnx").write_bytes(overlapping(count).SerializeToString())
        if fine:
            load(tmp_path / "m.onnx")
            continue
        with pytest.raises(LimitError, match="claim 3145728000 bytes"):
            load(tmp_path / "m.onnx")


def test_a_value_that_cannot_fit_is_not_computed() -> None:
    graph = import_model(built([node("Conv", ["x", "w"], ["y"], "big", pads=[1 << 40] * 4)],
                              {"w": np.ones((1, 2, 1, 1), np.float32)}))  # fmt: skip
    with pytest.raises(LimitError, match="big: its result"):
        FloatSession(graph)

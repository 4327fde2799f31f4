"""Data quantized row by row as it comes (N6): where place-qdq puts it, what follows it, what targets lack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import UsageError
from amctc.execution import plan_for
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data, layer_name
from amctc.kernels.row_quantization import fake_quantize_rows
from amctc.onnx_bridge.runtime import CARRIED, WHOLE_FLOAT
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile, profile_names
from amctc.types import F32, I8, Array, QuantizedType, TensorType
from amctc_passes.facts import has_row_steps, is_quantized

RNG = np.random.default_rng(66)
X = GraphInput("x", TensorType(("N", 6), F32))
PLACED = 'place-qdq{dynamic=["*"]}'
LOWERED = f"{PLACED},quantize-weights,quantize-bias,legalize,to-ascend"


def weights(*shape: int) -> Value:
    return const(RNG.standard_normal(shape).astype(np.float32))


def named(kind: nn.Layer, name: str, *operands: Value) -> Value:
    op_type = type(kind).__name__
    return apply(kind, *operands, name=f"{name}.out", origins=(Origin(name, op_type),))


def network(x: Value = X) -> Graph:
    """Two products of the same data, one of what the first gives."""
    a = named(nn.MatMul(nn.Relu()), "fc1", x, weights(6, 5), const(np.float32([1, -1, 0, 0.5, 2])))
    b = named(nn.Gemm(trans_b=True), "fc2", x, weights(4, 6), const(np.float32([1, 2, 3, 4])))
    return Graph((X,), (named(nn.MatMul(), "fc3", a, weights(5, 3)), b), ("y", "z"))


def of_kind(graph: Graph, *kinds: Any) -> list[Op]:
    return [op for op in graph.ops if isinstance(op.kind, kinds)]


def operands_of(graph: Graph, *kinds: Any) -> dict[str, Op | None]:
    return {layer_name(op): op.operands[0].producer for op in of_kind(graph, *kinds)}  # type: ignore[union-attr]


def test_nothing_has_to_be_observed(run) -> None:
    """Products that share data share its rows; the values are called after what they round."""
    graph = run(PLACED, network()).graph
    read = operands_of(graph, nn.MatMul, nn.Gemm)
    assert all(op is not None and isinstance(op.kind, quant.FakeQuantizeRows) for op in read.values())
    assert read["fc1"] is read["fc2"]
    assert [op.result.name for op in of_kind(graph, quant.FakeQuantizeRows)] == ["x.rows", "fc1.out.rows"]


def test_a_second_run_changes_nothing(run) -> None:
    """Drawn: rows that have their steps were rounded again. Data on a step of its own keeps it too."""
    graph = run(PLACED, network()).graph
    assert run(PLACED, graph).graph is graph
    samples = [{"x": RNG.standard_normal((8, 6)).astype(np.float32)}]
    static = run("observe,place-qdq", network(), samples).graph
    assert run(PLACED, static).graph is static


def test_some_layers_take_rows_and_others_one_step(run) -> None:
    samples = [{"x": RNG.standard_normal((8, 6)).astype(np.float32)}]
    graph = run('observe,place-qdq{dynamic=["fc[13]"]}', network(), samples).graph
    kinds = {n: None if op is None else type(op.kind) for n, op in operands_of(graph, nn.MatMul, nn.Gemm).items()}
    assert kinds == {"fc1": quant.FakeQuantizeRows, "fc2": quant.Dequantize, "fc3": quant.FakeQuantizeRows}
    assert not of_kind(graph, quant.Observe)


def test_skipped_layers_stay_in_float_and_names_must_exist(run) -> None:
    result = run('place-qdq{dynamic=["*"] skip=["fc2"]}', network())
    read = operands_of(result.graph, nn.MatMul, nn.Gemm)
    assert read["fc2"] is None
    assert [n.text for n in result.notes] == ["left in float: skipped on request"]
    with pytest.raises(UsageError, match="dynamic 'fc9' matches no layer"):
        run('place-qdq{dynamic=["fc9"]}', network())


@pytest.mark.parametrize("target", [n for n in profile_names() if n != "ascend910b1"])
def test_targets_without_such_products_say_so_in_a_line(run, target: str) -> None:
    samples = [{"x": RNG.standard_normal((8, 6)).astype(np.float32)}]
    result = run('observe,place-qdq{dynamic=["fc1"]}', network(), samples, target=target)
    assert not of_kind(result.graph, quant.FakeQuantizeRows)
    assert is_quantized(of_kind(result.graph, nn.MatMul)[0].operands[0])
    (note,) = result.notes
    assert (note.layer, note.text) == (
        "fc1", "one step for all rows of its data, not one for each: "
        f"{target} has no product of rows that have scales of their own (N6, N13)",
    )  # fmt: skip


def test_layers_without_rows_say_why(run) -> None:
    image = GraphInput("x", TensorType((1, 2, 3, 3), F32))
    conv = apply(nn.Conv((1, 1), (0,) * 4, (1, 1)), image, weights(4, 2, 3, 3), origins=(Origin("conv", "Conv"),))
    matrix = apply(nn.Reshape((4,)), conv)
    vector = apply(nn.MatMul(), matrix, weights(4, 3), origins=(Origin("vector", "MatMul"),))
    two = apply(nn.MatMul(), apply(nn.Reshape((3, 1)), vector), apply(nn.Reshape((1, 3)), vector),
                origins=(Origin("two", "MatMul"),))  # fmt: skip
    samples = [{"x": RNG.standard_normal((1, 2, 3, 3)).astype(np.float32)}]
    result = run('observe,place-qdq{dynamic=["*"]}', Graph((image,), (two,), ("y",)), samples)
    assert {n.layer: n.text.rpartition(": ")[2] for n in result.notes} == {
        "conv": "it is no matrix product", "vector": "its data is a vector", "two": "both sides are computed",
    }  # fmt: skip


@pytest.mark.parametrize("rounding", ["quantize-weights", "quantize-weights{bits=4}", "round-weights",
                                      "round-weights{bits=4}"])  # fmt: skip
def test_weights_are_int8_per_channel_and_biases_stay(run, rounding: str) -> None:
    samples = [{"x": RNG.standard_normal((64, 6)).astype(np.float32)}]
    result = run(f"{PLACED},{rounding},quantize-bias", network(), samples)
    for op in of_kind(result.graph, nn.MatMul, nn.Gemm):
        weight = op.operands[1].producer.operands[0]
        assert (weight.type.elem.storage, len(weight.type.elem.scales)) == (I8, op.result.type.dims[1])
        assert op.operand(2) is None or constant_data(op.operands[2]) is not None
    assert ("weights stored in 8 bits, not 4: its data has a step per row (N6)" in
            {n.text for n in result.notes}) == ("bits=4" in rounding)  # fmt: skip


def test_weight_only_leaves_such_layers_alone(run) -> None:
    graph = run(PLACED, network()).graph
    assert run("quantize-weights-only", graph).graph is graph


def test_lowered_the_numbers_are_those_of_the_rule(run) -> None:
    """The product of integers, its scale, the row's step and the bias: float32 each, float16 once (N13)."""
    data = (RNG.standard_normal((9, 6)) * np.exp2(RNG.integers(-8, 8, (9, 1)))).astype(np.float32)
    data[3] = 0
    graph = run(LOWERED, network()).graph
    found = plan_for(graph, load_profile("ascend910b1")).run({"x": data})["z"]
    (gemm,) = (op for op in of_kind(graph, ascend.MatMul) if layer_name(op) == "fc2")
    w = constant_data(gemm.operands[1]).read().astype(np.float32)  # type: ignore[union-attr]
    scale = np.float32([s for op in of_kind(graph, ascend.DequantRows) if layer_name(op) == "fc2"
                        for s in constant_data(op.operands[1]).read()])  # type: ignore[union-attr]  # fmt: skip
    largest = np.abs(data).max(axis=1, keepdims=True)
    s = np.float32(127) / np.where(largest > 0, largest, np.float32(1))
    q, step = np.rint(data * s), np.where(largest > 0, 1 / s, np.float32(0))
    wanted = ((q @ w.T) * scale * step + np.float32([1, 2, 3, 4])).astype(np.float16)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
    assert found[3].tolist() == [1, 2, 3, 4]


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_scaling_a_row_scales_its_result(seed: int, exponent: int) -> None:
    """By a power of two, without a bias, as long as float16 holds it: no other quantizer of activations does that."""
    rng = np.random.default_rng(seed)
    x = GraphInput("x", TensorType((5, 6), F32))
    graph = Graph((x,), (named(nn.MatMul(), "fc", x, const(rng.uniform(0.5, 1, (6, 4)).astype(np.float32))),), ("y",))
    lowered = Pipeline.parse(LOWERED).run(graph, Context()).graph
    data = rng.uniform(0.5, 1, (5, 6)).astype(np.float32)
    plan = plan_for(lowered, load_profile("ascend910b1"))
    factor = np.float32(2.0**exponent)
    np.testing.assert_array_equal(plan.run({"x": data * factor})["y"], plan.run({"x": data})["y"] * factor)


@pytest.mark.parametrize("target", profile_names())
def test_another_target_takes_the_rounding_off(run, target: str) -> None:
    """Weights stay rounded, as with every layer that returns to float."""
    placed = run(f"{PLACED},quantize-weights,quantize-bias", network()).graph
    result = run("legalize", placed, target=target)
    kept = target == "ascend910b1"
    assert [has_row_steps(op.operands[0]) for op in of_kind(result.graph, nn.MatMul, nn.Gemm)] == [kept] * 3
    assert bool(of_kind(result.graph, quant.FakeQuantizeRows)) == kept
    assert len([n for n in result.notes if "no product of rows" in n.text]) == (0 if kept else 3)
    run("to-ascend", result.graph, target=target)


FORMS: dict[str, tuple[Any, str]] = {
    "float weight": (weights(6, 3), "no constant of integers"),
    "int8 with a zero point": (QuantizedType.per_tensor(0.5, 3), "symmetric int8"),
    "scales of inputs": (QuantizedType.per_axis((0.5,) * 6, 0), "output channels"),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_in_other_forms_send_the_layer_to_float(run, form: str) -> None:
    weight, reason = FORMS[form]
    if isinstance(weight, QuantizedType):
        weight = apply(quant.Dequantize(), const(RNG.integers(-9, 9, (6, 3)).astype(np.int8), weight))
    y = named(nn.MatMul(), "fc", apply(quant.FakeQuantizeRows(), X), weight)
    result = run("legalize", Graph((X,), (y,), ("y",)))
    (note,) = result.notes
    assert reason in note.text
    assert of_kind(result.graph, nn.MatMul)[0].operands[0] is X
    run("to-ascend", result.graph)


def test_rounded_rows_that_something_else_reads_keep_their_numbers(run) -> None:
    """Whatever put the op there: the numbers its integers stand for are float on the target."""
    rows = apply(quant.FakeQuantizeRows(), X)
    graph = run("legalize,to-ascend", Graph((X,), (apply(nn.Abs(), rows),), ("y",))).graph
    data = RNG.standard_normal((3, 6)).astype(np.float32)
    found = plan_for(graph, load_profile("ascend910b1")).run({"x": data})["y"]
    np.testing.assert_array_equal(found, np.abs(fake_quantize_rows(data)))


def test_float_and_integer_model_are_close(run) -> None:
    """Steps of rows and weights, half of one each, bound the difference of each output."""
    x = GraphInput("x", TensorType((40, 6), F32))
    matrix = RNG.standard_normal((6, 3)).astype(np.float32)
    graph = Graph((x,), (named(nn.MatMul(), "fc", x, const(matrix)),), ("y",))
    data: Array = (RNG.standard_normal((40, 6)) * np.exp2(RNG.integers(-6, 6, (40, 1)))).astype(np.float32)
    exact = evaluate(graph, {"x": data}, {**WHOLE_FLOAT, **CARRIED}, float_type=np.float64)["y"]
    found = plan_for(run(LOWERED, graph).graph, load_profile("ascend910b1")).run({"x": data})["y"]
    row, column = np.abs(data).max(axis=1, keepdims=True) / 254, np.abs(matrix).max(axis=0) / 254
    sizes, sums = np.abs(matrix).sum(axis=0), np.abs(data).sum(axis=1, keepdims=True)
    bound = row * sizes + column * sums + 6 * row * column
    assert (np.abs(found - exact) <= bound * (1 + 2.0**-10) + np.abs(exact) * 2.0**-10).all()

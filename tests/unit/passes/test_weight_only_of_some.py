"""Layers named to have integer weights under float data (N21), beside others on quantized data."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.execution import plan_for
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data, layer_name
from amctc.ops import ascend, nn
from amctc.targets import load_profile, profile_names
from amctc.types import F32, I8, TensorType
from amctc_passes.facts import is_quantized, quantized_type

RNG = np.random.default_rng(41)
ROUNDING = ["quantize-weights", "round-weights"]
SAMPLES = [{"x": RNG.standard_normal((64, 6)).astype(np.float32)}]


def network() -> Graph:
    x = GraphInput("x", TensorType(("N", 6), F32))
    y: Value = x
    for name, shape, bias in (("one", (6, 8), True), ("two", (8, 5), False)):
        operands = [const(RNG.standard_normal(shape).astype(np.float32))]
        operands += [const(RNG.standard_normal(shape[1]).astype(np.float32))] if bias else []
        y = apply(nn.MatMul(), y, *operands, name=f"{name}.y", origins=(Origin(name, "MatMul"),))
    return Graph((x,), (y,), ("y",))


def stages(rounding: str, options: str) -> str:
    return f'observe,place-qdq{{skip=["one"]}},{rounding}{{{options}}},quantize-bias'


@pytest.mark.parametrize("rounding", ROUNDING)
def test_the_named_layer_keeps_float_data_and_bias(run, rounding: str) -> None:
    graph = run(stages(rounding, 'weight-only=["on*"]'), network(), SAMPLES).graph
    one, two = (op for op in graph.ops if isinstance(op.kind, nn.MatMul))
    assert (is_quantized(one.operands[0]), is_quantized(two.operands[0])) == (False, True)
    for op, columns in ((one, 8), (two, 5)):
        elem = quantized_type(op.operands[1])
        assert (elem.storage, len(elem.scales), any(elem.zero_points)) == (I8, columns, False)
    assert constant_data(one.operands[2]) is not None
    kinds = {layer_name(op): type(op.kind) for op in run("legalize,to-ascend", graph).graph.ops
             if isinstance(op.kind, ascend.WeightQuantMatMul | ascend.MatMul)}  # fmt: skip
    assert kinds == {"one": ascend.WeightQuantMatMul, "two": ascend.MatMul}


def test_lowered_the_numbers_are_those_of_the_integers(run) -> None:
    """f32(x @ (w · scale) + b) in float32, before the compiler makes float16 of it."""
    graph = run('observe,place-qdq{skip=["*"]},quantize-weights{weight-only=["*"]}', network(), SAMPLES).graph
    (one, _) = (op for op in graph.ops if isinstance(op.kind, nn.MatMul))
    lowered = run("legalize,to-ascend", graph).graph
    (y,) = (
        op.result for op in lowered.ops if layer_name(op) == "one" and isinstance(op.kind, ascend.WeightQuantMatMul)
    )
    plan = plan_for(lowered, load_profile("ascend910b1"), keep=[y])
    found = plan.run_values(SAMPLES[0])[y]
    elem, stored = quantized_type(one.operands[1]), one.operands[1].producer.operands[0]  # type: ignore[union-attr]
    real = constant_data(stored).read().astype(np.float64) * elem.scale_array  # type: ignore[union-attr]
    exact = SAMPLES[0]["x"].astype(np.float64) @ real + constant_data(one.operands[2]).read()  # type: ignore[union-attr]
    magnitude = np.abs(SAMPLES[0]["x"]) @ np.abs(real) + np.abs(constant_data(one.operands[2]).read())  # type: ignore[union-attr]
    assert (np.abs(found - exact) <= 9 * 2.0**-24 * magnitude).all()  # a product, six additions, the scale, the bias


@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.parametrize("target", profile_names())
def test_targets_without_such_products_say_so(run, rounding: str, target: str) -> None:
    result = run(stages(rounding, 'weight-only=["one"]'), network(), SAMPLES, target=target)
    (one, _) = (op for op in result.graph.ops if isinstance(op.kind, nn.MatMul))
    offered = load_profile(target).weight_only
    assert is_quantized(one.operands[1]) == offered
    said = {n.text for n in result.notes if n.layer == "one" and n.source == rounding}
    assert (f"weights left in float: {target} computes no integer weights under float data" in said) != offered


def test_what_else_is_said(run) -> None:
    image = GraphInput("x", TensorType((1, 2, 3, 3), F32))
    weight = const(RNG.standard_normal((4, 2, 3, 3)).astype(np.float32))
    conv = apply(nn.Conv((1, 1), (0,) * 4, (1, 1)), image, weight, origins=(Origin("conv", "Conv"),))
    result = run('quantize-weights{weight-only=["*"]}', Graph((image,), (conv,), ("y",)))
    assert [n.text for n in result.notes] == ["weights left in float: a convolution"]
    both = run('quantize-weights{weight-only=["*"] int4=["one"]}', network())
    assert [(n.layer, n.text) for n in both.notes] == [
        ("one", "weights stored in 8 bits, not 4: its data stays in float")
    ]
    for rounding in ROUNDING:
        with pytest.raises(UsageError, match="weight-only 'three' matches no layer"):
            run(stages(rounding, 'weight-only=["three"]'), network(), SAMPLES)

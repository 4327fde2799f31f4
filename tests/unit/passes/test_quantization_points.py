"""Where quantizers may stand: products of computed matrices, average pools, inputs of additions and max pools."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const
from amctc.ops import nn, quant
from amctc.targets import load_profile
from amctc.types import F16, F32, I64, Array, QuantizedType, TensorType
from amctc_passes.quantize.points import quantizable_ops

RNG = np.random.default_rng(13)
A = GraphInput("a", TensorType((2, 4, 6), F32))
B = GraphInput("b", TensorType((2, 6, 5), F32))
IMAGE = GraphInput("x", TensorType(("N", 2, 4, 4), F32))
SIDES = [{"a": RNG.uniform(-1, 1, (2, 4, 6)).astype(np.float32), "b": RNG.uniform(-2, 2, (2, 6, 5)).astype(np.float32)}]
IMAGES = [{"x": np.linspace(-1, 1.55, 32, dtype=np.float32).reshape(1, 2, 4, 4)}]
POOL = (2, 2), (0, 0, 0, 0), (1, 1), (2, 2)


def named(kind: nn.MatMul | nn.Add | nn.MaxPool | nn.AveragePool, name: str, *operands: Value) -> Value:
    return apply(kind, *operands, name=f"{name}.out", origins=(Origin(name, type(kind).__name__),))


def attention() -> Graph:
    return Graph((A, B), (named(nn.MatMul(), "scores", A, B),), ("y",))


def residual() -> Graph:
    """Two additions of computed values, one of a constant, and a max pool."""
    first = named(nn.Add(), "join1", IMAGE, apply(nn.Relu(), IMAGE, name="r"))
    second = named(nn.Add(), "join2", first, apply(nn.Tanh(), first, name="t"))
    shifted = named(nn.Add(), "shift", second, const(np.ones(1, np.float32)))
    return Graph((IMAGE,), (named(nn.MaxPool(*POOL), "pool", shifted),), ("y",))


def elements(graph: Graph) -> dict[str, list[QuantizedType | None]]:
    """By name of an op: the type each operand was quantized to, None where it is float."""
    found = {}
    for op in graph.ops:
        if op.origins and not isinstance(op.kind, quant.Quantize | quant.Dequantize | quant.Observe):
            found[op.origins[0].name] = [under(o) for o in op.operands]
    return found


def under(value: Value | None) -> QuantizedType | None:
    op = None if value is None else value.producer
    if op is None or not isinstance(op.kind, quant.Dequantize):
        return None
    elem = op.operands[0].type.elem
    assert isinstance(elem, QuantizedType)
    return elem


def observed(graph: Graph) -> set[str | None]:
    return {op.operands[0].name for op in graph.ops if isinstance(op.kind, quant.Observe)}


# ---------------------------------------------------------------------------------------------------- computed matrices


def test_both_sides_of_a_product_are_symmetric(run) -> None:
    observer = run("observe", attention(), SIDES).graph
    assert observed(observer) == {"a", "b"}
    left, right = elements(run("place-qdq{method=min-max}", observer).graph)["scores"]
    assert left is not None
    assert right is not None
    assert left.zero_points == right.zero_points == (0,)
    for elem, values in ((left, SIDES[0]["a"]), (right, SIDES[0]["b"])):
        steps = 128 if -values.min() > values.max() else 127
        assert elem.scales == (float(np.float32(np.abs(values).max() / np.float64(steps))),)


def test_a_matrix_times_itself_shares_a_quantizer(run) -> None:
    x = GraphInput("x", TensorType((3, 3), F32))
    graph = Graph((x,), (named(nn.MatMul(), "square", x, x),), ("y",))
    result = run("observe,place-qdq", graph, [{"x": RNG.standard_normal((3, 3)).astype(np.float32)}]).graph
    (op,) = (op for op in result.ops if isinstance(op.kind, nn.MatMul))
    assert op.operands[0] is op.operands[1]
    assert [op.result.name for op in result.ops] == ["x.quant", "x.quant.dequant", "square.out"]


def test_a_value_with_and_without_offset_has_two_quantizers(run) -> None:
    """A layer takes its input with an offset, a product of computed matrices without."""
    x = GraphInput("x", TensorType((4, 4), F32))
    layer = named(nn.MatMul(), "layer", x, const(np.eye(4, dtype=np.float32)))
    graph = Graph((x,), (named(nn.MatMul(), "product", layer, x),), ("y",))
    samples = [{"x": RNG.uniform(0, 1, (4, 4)).astype(np.float32)}]
    found = elements(run("observe,place-qdq", graph, samples).graph)
    assert found["layer"][0] is not None
    assert found["product"][1] is not None
    assert (found["layer"][0].zero_points, found["product"][1].zero_points) == ((-128,), (0,))


def test_products_stay_in_float_on_request_and_where_they_do_not_pay(run) -> None:
    off = run("observe,place-qdq{two-sided=false}", attention(), SIDES)
    assert elements(off.graph)["scores"] == [None, None]
    assert [n.text for n in off.notes] == ["left in float: both sides are computed (two-sided=false)"]
    elsewhere = run("observe,place-qdq", attention(), SIDES, target="ascend910a")
    assert elements(elsewhere.graph)["scores"] == [None, None]
    (note,) = elsewhere.notes
    assert (note.layer, note.text) == (
        "scores",
        "left in float: both sides are computed, which does not pay on ascend910a",
    )
    assert run("observe", attention(), target="ascend910a").graph is not None, "nothing to observe, no samples needed"


def test_options_of_one_product_reach_both_of_its_sides(run) -> None:
    """Another method, and whether it is computed in integers at all; the rest as for all layers."""
    a, b = GraphInput("a", TensorType((2, 4), F32)), GraphInput("b", TensorType((4, 3), F32))
    first, second = (named(nn.MatMul(), name, a, b) for name in ("first", "second"))
    graph = run("observe", Graph((a, b), (first, second), ("y", "z")), SIDES).graph
    found = elements(run('place-qdq{method=min-max override=["second{percentile=60 method=percentile}"]}', graph).graph)
    assert None not in found["second"]
    assert all(s.scales < f.scales for f, s in zip(found["first"], found["second"], strict=True) if f and s)
    one = elements(run('place-qdq{two-sided=false override=["second{two-sided=true}"]}', graph).graph)
    assert one["first"] == [None, None]
    assert None not in one["second"]
    other = run('place-qdq{override=["second{two-sided=false}"]}', graph)
    assert elements(other.graph)["second"] == [None, None]
    assert [n.text for n in other.notes] == ["left in float: both sides are computed (two-sided=false)"]


def test_one_constant_side_is_no_two_sided_product() -> None:
    graph = Graph((B,), (named(nn.MatMul(), "m", const(np.ones((4, 6), np.float32)), B),), ("y",))
    (found,) = quantizable_ops(graph, load_profile("ascend910b1"))
    assert not found.symmetric
    assert found.obstacle == "the constant stands on the left, where the target takes data"


# --------------------------------------------------------------------------------------------------------- average pool


def test_average_pool(run) -> None:
    graph = Graph((IMAGE,), (named(nn.AveragePool(*POOL), "mean", IMAGE),), ("y",))
    (elem,) = elements(run("observe,place-qdq{method=min-max}", graph, IMAGES).graph)["mean"]
    assert elem is not None
    assert (elem.scales, elem.zero_points) == ((float(np.float32(0.01)),), (-28,))
    skipped = run("observe,place-qdq{skip=mean}", graph, IMAGES)
    assert elements(skipped.graph)["mean"] == [None]
    assert [(n.layer, n.text) for n in skipped.notes] == [("mean", "left in float: skipped on request")]
    padded = Graph((IMAGE,), (named(nn.AveragePool((2, 2), (1, 1, 1, 1), (1, 1), (2, 2)), "mean", IMAGE),), ("y",))
    (note,) = run("observe,place-qdq", padded, IMAGES).notes
    assert note.text.startswith("left in float: its windows average different numbers of inputs")


def test_override_reaches_average_pools(run) -> None:
    graph = Graph((IMAGE,), (named(nn.AveragePool(*POOL), "mean", IMAGE),), ("y",))
    (elem,) = elements(run('observe,place-qdq{override=["mean{symmetric}"]}', graph, IMAGES).graph)["mean"]
    assert elem is not None
    assert elem.zero_points == (0,)


# -------------------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize(
    ("patterns", "quantized"),
    [
        ("join1", {"join1": (0, 1)}), ("join*", {"join1": (0, 1), "join2": (0, 1)}), ("join2:1", {"join2": (1,)}),
        ("pool", {"pool": (0,)}), ("[join1, pool]", {"join1": (0, 1), "pool": (0,)}), ("shift", {"shift": (0,)}),
        ("[join2:1, join*:0]", {"join1": (0,), "join2": (0, 1)}), ("pool:0", {"pool": (0,)}),
    ],
)  # fmt: skip
def test_tensor_quantization(patterns: str, quantized: dict[str, tuple[int, ...]], run) -> None:
    text = patterns if patterns.startswith("[") else f'"{patterns}"'
    observer = run(f"observe{{tensor={text}}}", residual(), IMAGES).graph
    found = elements(run(f"place-qdq{{tensor={text}}}", observer).graph)
    places = {n: tuple(i for i, e in enumerate(es) if e is not None) for n, es in found.items()}
    assert {n: p for n, p in places.items() if p} == quantized


def test_nothing_is_quantized_unasked(run) -> None:
    graph = residual()
    assert run("observe,place-qdq", graph).graph is graph


def test_what_is_not_observed_is_noted(run) -> None:
    observer = run('observe{tensor="join1:0"}', residual(), IMAGES).graph
    result = run("place-qdq{tensor=join1}", observer)
    assert elements(result.graph)["join1"] == [None, None]
    assert [(n.layer, n.text) for n in result.notes] == [("join1", "left in float: its input was not observed")]


@pytest.mark.parametrize(
    ("pattern", "message", "remedy"),
    [
        ("jion1", "tensor 'jion1' matches no addition or max pool", "join1"),
        ("jion:0", "tensor 'jion' matches no addition or max pool", "join1"),
        ("join1:2", "tensor 'join1:2' names no computed input", "counted from 0"),
        ("shift:1", "tensor 'shift:1' names no computed input", "counted from 0"),
    ],
)
@pytest.mark.parametrize("name", ["observe", "place-qdq"])
def test_a_tensor_that_is_not_there(name: str, pattern: str, message: str, remedy: str, run) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run(f'{name}{{tensor="{pattern}"}}', residual(), IMAGES)
    assert remedy in (caught.value.remedy or "")


def test_a_model_without_additions(run) -> None:
    with pytest.raises(UsageError, match="matches no addition") as caught:
        run('observe{tensor="*"}', attention(), SIDES)
    assert caught.value.remedy == "the model has none"


def test_a_name_that_ends_in_a_number_is_a_name_first() -> None:
    graph = Graph((IMAGE,), (named(nn.Add(), "add:0", IMAGE, IMAGE),), ("y",))
    (found,) = quantizable_ops(graph, load_profile("ascend910b1"), ["add:0"])
    assert [p.position for p in found.points] == [0, 1]


def test_only_float32_tensors() -> None:
    half, whole = GraphInput("x", TensorType((4,), F16)), GraphInput("x", TensorType((1, 1, 2, 2), I64))
    target = load_profile("ascend910b1")
    (found,) = quantizable_ops(Graph((half,), (named(nn.Add(), "add", half, half),), ("y",)), target, ["*"])
    assert found.obstacle == "activations are f16"
    with pytest.raises(UsageError, match="matches no addition"):
        quantizable_ops(Graph((whole,), (named(nn.MaxPool(*POOL), "pool", whole),), ("y",)), target, ["*"])


def test_the_integers_of_a_quantized_addition(run, chip) -> None:
    """Quantized to steps of 1/64 and back, an addition of such steps is exact on the target."""
    x = GraphInput("x", TensorType((1, 8), F32))
    graph = Graph((x,), (named(nn.Add(), "add", x, x),), ("y",))
    samples: list[dict[str, Array]] = [{"x": np.float32([[-2, 127 / 64, 0.5, 0.25, 1 / 64, 1 / 128, 3 / 128, 0]])}]
    text = "observe{tensor=add},place-qdq{tensor=add method=min-max symmetric},to-ascend"
    y = chip(run(text, graph, samples).graph, x=samples[0]["x"])["y"]
    assert y.tolist() == [[-4, 127 / 32, 1, 0.5, 1 / 32, 0, 1 / 16, 0]]  # 1/128 and 3/128 round to even steps


def test_operands_keep_their_names_and_origins(run) -> None:
    result = run('observe{tensor="*"},place-qdq{tensor="*"}', residual(), IMAGES).graph
    joins: list[Op] = [op for op in result.ops if isinstance(op.kind, nn.Add)]
    assert [op.result.name for op in joins] == ["join1.out", "join2.out", "shift.out"]
    assert {"x.quant", "r.quant", "join1.out.quant", "t.quant"} <= {r.name for op in result.ops for r in op.results}

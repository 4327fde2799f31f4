"""recompose: functions as exporters write them out, and what only looks like them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge.exporter import export_model
from amctc.onnx_bridge.importer import import_model
from amctc.ops import nn
from amctc.types import F16, F32, F64, Array, ScalarType, TensorType
from tests.unit.passes.inspection import close, left, read

RNG = np.random.default_rng(13)
X = GraphInput("x", TensorType(("N", 3, 4), F32))
POINTS = np.linspace(-8, 8, 24, dtype=np.float32).reshape(2, 3, 4)
Formula = Callable[[Value], Value]


def c(value: float, *shape: int) -> Value:
    return const(np.full(shape, value, np.float32))


def mul(a: Value, b: Value) -> Value:
    return apply(nn.Mul(), a, b)


def add(a: Value, b: Value) -> Value:
    return apply(nn.Add(), a, b)


def div(a: Value, b: Value) -> Value:
    return apply(nn.Div(), a, b)


def sub(a: Value, b: Value) -> Value:
    return apply(nn.Sub(), a, b)


def erf_gate(x: Value) -> Value:
    return add(apply(nn.Erf(), div(x, c(math.sqrt(2)))), c(1.0))


def tanh_gate(x: Value) -> Value:
    inner = add(x, mul(c(0.044715), apply(nn.Pow(3.0), x)))
    return add(c(1.0), apply(nn.Tanh(), mul(inner, c(math.sqrt(2 / math.pi)))))


def fast_gate(x: Value) -> Value:
    """Of transformers' ``gelu_fast``."""
    inner = mul(mul(x, c(0.7978845608)), add(c(1.0), mul(mul(c(0.044715), x), x)))
    return add(apply(nn.Tanh(), inner), c(1.0))


def relu6(x: Value) -> Value:
    return apply(nn.Clip(0.0, 6.0), add(x, c(3.0)))


FORMULAS: dict[str, tuple[Formula, object]] = {
    "gelu of torch": (lambda x: mul(mul(x, erf_gate(x)), c(0.5)), nn.Gelu()),
    "gelu, half of x": (lambda x: mul(mul(c(0.5), x), erf_gate(x)), nn.Gelu()),
    "gelu, x over 2": (lambda x: mul(div(x, c(2.0)), erf_gate(x)), nn.Gelu()),
    "gelu, half of the gate": (lambda x: mul(mul(erf_gate(x), c(0.5)), x), nn.Gelu()),
    "gelu of a product": (
        lambda x: mul(mul(x, add(apply(nn.Erf(), mul(x, c(math.sqrt(0.5)))), c(1.0))), c(0.5)), nn.Gelu()
    ),
    "gelu by tanh": (lambda x: mul(mul(x, c(0.5)), tanh_gate(x)), nn.Gelu(True)),
    "gelu by tanh, fast": (lambda x: mul(mul(x, c(0.5)), fast_gate(x)), nn.Gelu(True)),
    "silu": (lambda x: mul(apply(nn.Sigmoid(), x), x), nn.Silu()),
    "mish": (lambda x: mul(apply(nn.Tanh(), apply(nn.Softplus(), x)), x), nn.Mish()),
    "hard sigmoid": (lambda x: div(relu6(x), c(6.0)), nn.HardSigmoid(1 / 6, 0.5)),
    "hard sigmoid, a sixth": (lambda x: mul(c(1 / 6), relu6(x)), nn.HardSigmoid(1 / 6, 0.5)),
    "hard swish of torch": (lambda x: div(mul(x, relu6(x)), c(6.0)), nn.HardSwish()),
    "hard swish, gate first": (lambda x: mul(x, div(relu6(x), c(6.0, 1))), nn.HardSwish()),
    "hard swish of Keras": (lambda x: mul(x, mul(relu6(x), c(0.16666667))), nn.HardSwish()),
    "hard swish, a sixth last": (lambda x: mul(mul(x, relu6(x)), c(1 / 6)), nn.HardSwish()),
    "leaky relu": (lambda x: apply(nn.Max(), mul(c(0.25), x), x), nn.LeakyRelu(0.25)),
    "hard swish of hard sigmoid": (lambda x: mul(x, apply(nn.HardSigmoid(0.1666666716, 0.5), x)), nn.HardSwish()),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_activations(name: str, run, real) -> None:
    formula, kind = FORMULAS[name]
    graph = Graph((X,), (formula(X),), ("y",))
    result = run("recompose", graph).graph
    assert [op.kind for op in result.ops] == [kind]
    assert result.outputs[0].type == X.type
    close(real, graph, result, x=POINTS)


LOOKALIKES: dict[str, Formula] = {
    "gelu with another factor": lambda x: mul(mul(x, erf_gate(x)), c(0.51)),
    "erf of x over 2": lambda x: mul(mul(x, add(apply(nn.Erf(), div(x, c(2.0))), c(1.0))), c(0.5)),
    "gelu with another cubic": lambda x: mul(
        mul(x, c(0.5)),
        add(apply(nn.Tanh(), mul(add(x, mul(c(0.0447), apply(nn.Pow(3.0), x))), c(0.7978846))), c(1.0)),
    ),
    "sigmoid of another value": lambda x: mul(x, apply(nn.Sigmoid(), apply(nn.Neg(), x))),
    "softplus of another value": lambda x: mul(x, apply(nn.Tanh(), apply(nn.Softplus(), apply(nn.Neg(), x)))),
    "clip to 5": lambda x: div(mul(x, apply(nn.Clip(0.0, 5.0), add(x, c(3.0)))), c(6.0)),
    "hard sigmoid of slope 0.2": lambda x: mul(x, apply(nn.HardSigmoid(), x)),
    "a slope of 2": lambda x: apply(nn.Max(), mul(c(2.0), x), x),
    "a slope of 0": lambda x: apply(nn.Max(), mul(c(0.0), x), x),
    "a slope of another value": lambda x: apply(nn.Max(), mul(c(0.5), apply(nn.Neg(), x)), x),
    "a half per channel": lambda x: mul(mul(x, erf_gate(x)), const(np.float32([0.5, 0.5, 0.5, 0.4]))),
    "a number that broadcasts": lambda x: div(mul(x, relu6(x)), c(6.0, 2, 1, 1, 1)),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_stay(name: str, run) -> None:
    graph = Graph((X,), (LOOKALIKES[name](X),), ("y",))
    assert run("recompose", graph).graph is graph


def test_a_gate_that_is_read_elsewhere_stays(run) -> None:
    gate = apply(nn.Sigmoid(), X)
    graph = Graph((X,), (mul(X, gate), gate), ("y", "gate"))
    assert run("recompose", graph).graph is graph


# ------------------------------------------------------------------------------------------------- layer normalisation

GAMMA, BETA = (RNG.standard_normal(4).astype(np.float32) for _ in range(2))


def deviation(centred: Value, axes: tuple[int, ...], eps: float, *, power: bool, root: bool) -> Value:
    """√(mean(centred²) + ε) in four spellings."""
    square = apply(nn.Pow(2.0), centred) if power else mul(centred, centred)
    raised = add(apply(nn.ReduceMean(axes), square), c(eps))
    return apply(nn.Sqrt(), raised) if root else apply(nn.Pow(0.5), raised)


def normalised(x: Value, *, axes: tuple[int, ...] = (-1,), eps: float = 1e-5, power: bool = True, root: bool = True,
               reciprocal: bool = False) -> Value:  # fmt: skip
    """(x - mean) over or times the reciprocal of its deviation."""
    centred = sub(x, apply(nn.ReduceMean(axes), x))
    by = deviation(centred, axes, eps, power=power, root=root)
    return mul(apply(nn.Reciprocal(), by), centred) if reciprocal else div(centred, by)


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("power", [False, True])
def test_layer_norm_of_torch(power: bool, root: bool, reciprocal: bool, run, find, real) -> None:
    y = normalised(X, eps=1e-3, power=power, root=root, reciprocal=reciprocal)
    graph = Graph((X,), (add(mul(y, const(GAMMA)), const(BETA)),), ("y",))
    result = run("recompose", graph).graph
    norm = find(result, nn.LayerNorm)
    assert left(result) == ["nn.layer_norm"]
    assert norm.kind == nn.LayerNorm(-1, float(np.float32(1e-3)))
    np.testing.assert_array_equal(read(norm.operands[1]), GAMMA)
    np.testing.assert_array_equal(read(norm.operands[2]), BETA)
    close(real, graph, result, x=POINTS)


def test_layer_norm_without_parameters_by_hand(run, real) -> None:
    """1, 3, 5, 7 have mean 4 and variance 5: with an epsilon of 4 they are divided by 3."""
    graph = Graph((X,), (normalised(X, eps=4.0),), ("y",))
    result = run("recompose", graph).graph
    assert left(result) == ["nn.layer_norm"]
    x = np.tile(np.float32([1, 3, 5, 7]), (1, 3, 1))
    np.testing.assert_allclose(real(result, x=x)["y"][0, 0], [-1, -1 / 3, 1 / 3, 1], rtol=1e-15)


def test_reciprocal_square_root(run, real) -> None:
    """As a power of -1/2, and as a quotient of 1."""
    centred = sub(X, apply(nn.ReduceMean((2,)), X))
    raised = add(apply(nn.ReduceMean((2,)), apply(nn.Pow(2.0), centred)), c(1e-5))
    for inverse in (apply(nn.Pow(-0.5), raised), div(c(1.0), apply(nn.Sqrt(), raised))):
        graph = Graph((X,), (mul(centred, inverse),), ("y",))
        result = run("recompose", graph).graph
        assert left(result) == ["nn.layer_norm"]
        close(real, graph, result, x=POINTS)


def test_layer_norm_of_tensorflow(run, find, real) -> None:
    """x·g + (β - mean·g) with g = γ/√(variance + ε)."""
    mean = apply(nn.ReduceMean((2,)), X)
    centred = sub(X, mean)
    inverse = apply(nn.Reciprocal(), deviation(centred, (2,), 1e-3, power=False, root=True))
    factor = mul(inverse, const(GAMMA))
    graph = Graph((X,), (add(mul(X, factor), sub(const(BETA), mul(mean, factor))),), ("y",))
    result = run("recompose", graph).graph
    norm = find(result, nn.LayerNorm)
    assert left(result) == ["nn.layer_norm"]
    np.testing.assert_array_equal(read(norm.operands[1]), GAMMA)
    np.testing.assert_array_equal(read(norm.operands[2]), BETA)
    close(real, graph, result, x=POINTS)


def test_norm_over_two_axes(run, find, real) -> None:
    graph = Graph((X,), (mul(normalised(X, axes=(2, 1)), const(GAMMA)),), ("y",))
    result = run("recompose", graph).graph
    norm = find(result, nn.LayerNorm)
    assert norm.kind.axis == -2
    assert read(norm.operands[1]).shape == (3, 4)
    close(real, graph, result, x=POINTS)


@pytest.mark.parametrize(
    "formula",
    [
        lambda x: normalised(x, axes=(1,)),  # not the last axis: ConvNeXt's, of images
        lambda x: normalised(x, eps=0.0),
        lambda x: normalised(x, eps=-1.0),
        lambda x: div(sub(x, apply(nn.ReduceMean((2,)), x)), deviation(x, (2,), 1e-5, power=True, root=True)),  # RMS
        lambda x: div(sub(x, apply(nn.ReduceMean((1, 2)), x)),
                      deviation(sub(x, apply(nn.ReduceMean((1, 2)), x)), (2,), 1e-5, power=True, root=True)),
    ],
)  # fmt: skip
def test_other_normalisations_stay(formula: Formula, run) -> None:
    graph = Graph((X,), (formula(X),), ("y",))
    assert run("recompose", graph).graph is graph


def test_the_means_computed_twice_are_found_after_dedup(run) -> None:
    """Old exporters subtract the mean once for the square and once for the quotient."""
    centred, again = (sub(X, apply(nn.ReduceMean((2,)), X)) for _ in range(2))
    y = div(again, deviation(centred, (2,), 1e-5, power=True, root=True))
    result = run("dedup,recompose", Graph((X,), (y,), ("y",))).graph
    assert left(result) == ["nn.layer_norm"]


@pytest.mark.parametrize("shape", [(1, 3, 1), (2, 1, 1), (5, 1, 1, 1)])
def test_constants_along_other_axes_stay_beside(shape: tuple[int, ...], run) -> None:
    x = GraphInput("x", TensorType((2, 3, 4), F32))
    constant = const(RNG.standard_normal(shape).astype(np.float32))
    for kind in (nn.Mul(), nn.Add()):
        result = run("recompose", Graph((x,), (apply(kind, normalised(x), constant),), ("y",))).graph
        assert left(result) == ["nn.layer_norm", kind.op_name]


def test_scale_and_bias_join_in_any_order(run, find, real) -> None:
    """((n·2 + β)·γ) + 1: scale 2γ, bias βγ + 1."""
    y = add(mul(add(mul(normalised(X), c(2.0)), const(BETA)), const(GAMMA)), c(1.0))
    graph = Graph((X,), (y,), ("y",))
    result = run("recompose", graph).graph
    norm = find(result, nn.LayerNorm)
    np.testing.assert_allclose(read(norm.operands[1]), 2 * GAMMA, rtol=1e-6)
    np.testing.assert_allclose(read(norm.operands[2]), BETA * GAMMA + 1, rtol=1e-6)
    close(real, graph, result, x=POINTS)


@pytest.mark.parametrize(("elem", "folds"), [(F16, True), (F64, False)])
def test_element_types(elem: ScalarType, folds: bool, run) -> None:
    """ONNX keeps the statistics of LayerNormalization in float32, which float64 data does not allow."""
    x = GraphInput("x", TensorType((2, 4), elem))
    centred = sub(x, apply(nn.ReduceMean((-1,)), x))
    raised = add(apply(nn.ReduceMean((-1,)), apply(nn.Pow(2.0), centred)), const(np.asarray(0.01, elem.dtype)))
    graph = Graph((x,), (div(centred, apply(nn.Sqrt(), raised)),), ("y",))
    result = run("recompose", graph).graph
    assert (left(result) == ["nn.layer_norm"]) == folds


def test_one_rounding_in_float16(run) -> None:
    """What it is good for: the formula rounds after every step, the op once."""
    x = GraphInput("x", TensorType((2, 3, 4), F16))

    def half(value: float) -> Value:
        return const(np.float16(value))

    gate = add(apply(nn.Erf(), div(x, half(math.sqrt(2)))), half(1.0))
    graph = Graph((x,), (mul(mul(x, gate), half(0.5)),), ("y",))
    result = run("recompose", graph).graph
    assert left(result) == ["nn.gelu"]
    points = POINTS.astype(np.float16)
    exact = np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in points.ravel().tolist()]).reshape(2, 3, 4)

    def error(g: Graph) -> Array:
        return np.abs(evaluate(g, {"x": points}, ORACLE)["y"].astype(np.float64) - exact)

    assert error(result).sum() < error(graph).sum()
    # One rounding to float16 of what four float32 operations gave, each of the size of x at the most.
    spacing = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    assert (error(result) <= spacing / 2 + 4 * 2.0**-24 * np.abs(points)).all()


@pytest.mark.parametrize(
    "kind", [nn.Gelu(), nn.Gelu(True), nn.Silu(), nn.Mish(), nn.HardSwish(), nn.HardSigmoid(1 / 6, 0.5)], ids=str
)
@pytest.mark.parametrize("opset", [17, 20])
def test_what_is_written_out_for_an_old_opset_is_found_again(kind: object, opset: int, run) -> None:
    """A deploy file holds the formula; compiled again it must round as the graph in memory does."""
    graph = Graph((X,), (apply(kind, X),), ("y",))
    back = import_model(export_model(graph, opset=opset))
    (found,) = (op.kind for op in run("recompose", back).graph.ops if op.kind.op_name != "const")
    assert found == (nn.HardSigmoid(float(np.float32(1 / 6)), 0.5) if isinstance(kind, nn.HardSigmoid) else kind)

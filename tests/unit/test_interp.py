"""The evaluator: feeds are checked, kernels are bound once, arrays are let go after their last use."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import pytest

from amctc.data import ArrayData
from amctc.errors import InputError, UnsupportedError
from amctc.interp import Kernel, KernelTable, Plan, evaluate
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, build, const
from amctc.ops import nn, onnx
from amctc.types import BF16, F32, I8, STRING, Array, Elem, Shape, TensorType


def kernel(function: Callable[..., Array | tuple[Array, ...]]) -> Callable[[Op, Sequence[Array | None]], Kernel]:
    return lambda op, constants: function


TABLE: KernelTable = {
    nn.Add: kernel(np.add),
    nn.Relu: kernel(lambda a: np.maximum(a, 0)),
    nn.Identity: kernel(lambda a: a),
    onnx.Node: kernel(lambda *arrays: tuple(np.float32(i if a is None else 10 + i) for i, a in enumerate(arrays))),
}


def image(name: str = "x", shape: Shape | None = (2,), elem: Elem = F32, default: Array | None = None) -> GraphInput:
    return GraphInput(name, TensorType(shape, elem), None if default is None else ArrayData(default))


def passing(*inputs: GraphInput) -> Graph:
    """A graph whose outputs are its inputs."""
    return Graph(inputs, inputs, tuple(i.name for i in inputs))


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def fed(graph: Graph, **feeds: Array) -> dict[str, Array]:
    return evaluate(graph, feeds, TABLE)


# ---------------------------------------------------------------------------------------------------- results


def test_outputs_by_name() -> None:
    x = image()
    r = apply(nn.Relu(), x)
    graph = Graph((x,), (apply(nn.Add(), r, const(f32(1, 1))), r, x, r), ("sum", "relu", "x", "again"))
    result = fed(graph, x=f32(-1, 2))
    assert {n: a.tolist() for n, a in result.items()} == {"sum": [1, 3], "relu": [0, 2], "x": [-1, 2], "again": [0, 2]}


def test_a_constant_output() -> None:
    assert fed(Graph((), (const(f32(3)),), ("c",)))["c"].tolist() == [3.0]


def test_several_results_and_an_absent_operand() -> None:
    t = TensorType((), F32)
    x = image(shape=())
    op = build(onnx.Node("Custom", "my", 1, b"", (t, None, t), (t, t, t)), x, None, x)
    result = fed(Graph((x,), (op.results[2], op.results[1]), ("p", "q")), x=np.array(0, np.float32))
    assert (float(result["p"]), float(result["q"])) == (12.0, 1.0)


def test_a_plan_runs_again_and_binds_once() -> None:
    bound: list[list[float] | None] = []

    def factory(op: Op, constants: Sequence[Array | None]) -> Kernel:
        bound.extend(None if c is None else c.tolist() for c in constants)
        return np.add

    x = image()
    plan = Plan(Graph((x,), (apply(nn.Add(), x, const(f32(1, 2))),), ("y",)), {nn.Add: factory})
    assert plan.run({"x": f32(0, 0)})["y"].tolist() == [1.0, 2.0]
    assert plan.run({"x": f32(5, 5)})["y"].tolist() == [6.0, 7.0]
    assert bound == [None, [1.0, 2.0]]


def test_no_kernel() -> None:
    graph = Graph((x := image(),), (apply(nn.Tanh(), x, origins=(Origin("act7", "Tanh"),)),), ("y",))
    with pytest.raises(UnsupportedError, match=r"^act7: no kernel for nn\.tanh$"):
        Plan(graph, TABLE)


@pytest.mark.parametrize("when", ["bound", "run"])
def test_an_error_in_a_kernel_names_the_layer(when: str) -> None:
    def refuse(*_: object) -> Array:
        raise UnsupportedError("too large")

    table: KernelTable = {nn.Relu: refuse if when == "bound" else lambda op, constants: refuse}  # type: ignore[dict-item]
    graph = Graph((x := image(),), (apply(nn.Relu(), x, origins=(Origin("act7", "Relu"),)),), ("y",))
    with pytest.raises(UnsupportedError, match=r"^act7: too large$"):
        evaluate(graph, {"x": f32(0, 0)}, table)


# ---------------------------------------------------------------------------------------------------- feeds


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"^input 'x' is missing; feed tensor<2xf32>$"),
        ({"x": f32(1, 2), "z": f32(1)}, r"^the model has no input 'z'; its inputs are x$"),
        ({"x": f32(1, 2, 3)}, r"^input 'x' has shape \[3\], the model wants \[2\]$"),
        ({"x": np.zeros((2, 1), np.float32)}, r"^input 'x' has shape \[2, 1\], the model wants \[2\]$"),
        ({"x": np.zeros(2, np.int64)}, r"^input 'x' holds int64, the model wants f32; convert it$"),
        ({"x": np.array(["a", "b"])}, r"^input 'x' holds <U1, the model wants f32; convert it$"),
    ],
)
def test_what_cannot_be_fed(feeds: dict[str, Array], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(passing(image()), feeds, TABLE)


def test_a_model_without_inputs_takes_none() -> None:
    graph = Graph((), (const(f32(3)),), ("c",))
    with pytest.raises(InputError, match=r"^the model has no input 'x'; it has no inputs$"):
        fed(graph, x=f32(1))


def test_symbols_stand_for_one_size_throughout() -> None:
    graph = passing(image("a", ("N", None)), image("b", (3, "N")))
    result = fed(graph, a=np.zeros((2, 7), np.float32), b=np.zeros((3, 2), np.float32))
    assert result["b"].shape == (3, 2)
    with pytest.raises(InputError, match=r"^dimension 'N' is 2 elsewhere and 4 in input 'b'$"):
        fed(graph, a=np.zeros((2, 7), np.float32), b=np.zeros((3, 4), np.float32))


def test_a_symbol_within_one_input() -> None:
    with pytest.raises(InputError, match="dimension 'N' is 2 elsewhere and 3 in input 'x'"):
        fed(passing(image(shape=("N", "N"))), x=np.zeros((2, 3), np.float32))


def test_the_message_shows_symbols_and_unknowns() -> None:
    with pytest.raises(InputError, match=r'the model wants \["N", \?, 3\]'):
        fed(passing(image(shape=("N", None, 3))), x=f32(1))


def test_defaults_are_used_when_nothing_is_fed() -> None:
    graph = passing(image("a", ("N",)), image("b", ("N",), default=f32(7, 8)))
    assert fed(graph, a=f32(1, 2))["b"].tolist() == [7.0, 8.0]
    assert fed(graph, a=f32(1), b=f32(9))["b"].tolist() == [9.0]
    with pytest.raises(InputError, match="dimension 'N' is 1 elsewhere and 2 in input 'b'"):
        fed(graph, a=f32(1))  # a default binds symbols, too


@pytest.mark.parametrize("shape", [(2,), None])
def test_floats_are_converted_to_the_models_type(shape: Shape | None) -> None:
    graph = passing(image(shape=shape))
    for dtype in (np.float16, np.float32, np.float64):
        assert fed(graph, x=np.array([0.1, 1], dtype))["x"].dtype == np.float32
    assert fed(passing(image(elem=BF16)), x=f32(1, 2))["x"].dtype == ml_dtypes.bfloat16


def test_integers_are_not_converted() -> None:
    graph = passing(image(elem=I8))
    assert fed(graph, x=np.array([1, 2], np.int8))["x"].dtype == np.int8
    with pytest.raises(InputError, match="holds float32, the model wants i8"):
        fed(graph, x=f32(1, 2))


def test_strings_may_be_fed_as_numpy_strings() -> None:
    array = fed(passing(image(elem=STRING)), x=np.array(["a", "b"]))["x"]
    assert (array.dtype, array.tolist()) == (np.dtype(object), ["a", "b"])


# ---------------------------------------------------------------------------------------------------- precision


def test_the_oracle_computes_in_another_precision() -> None:
    x = image()
    graph = Graph((x,), (apply(nn.Add(), x, const(f32(0.1, 0.1))),), ("y",))
    exact = evaluate(graph, {"x": np.array([0.3, 1e-9])}, TABLE, float_type=np.float64)["y"]
    assert exact.dtype == np.float64
    assert exact.tolist() == [0.3 + float(np.float32(0.1)), 1e-9 + float(np.float32(0.1))]  # the feed is not rounded
    single = evaluate(graph, {"x": np.array([0.3, 1e-9])}, TABLE)["y"]
    assert single.tolist() == [float(np.float32(0.3) + np.float32(0.1)), float(np.float32(0.1))]


def test_the_oracle_leaves_other_types_alone() -> None:
    graph = passing(image("i", elem=I8), image("h", elem=BF16), image("d", default=f32(1, 2)))
    feeds = {"i": np.array([1, 2], np.int8), "h": np.ones(2, ml_dtypes.bfloat16)}
    result = evaluate(graph, feeds, TABLE, float_type=np.float64)
    assert [a.dtype.name for a in result.values()] == ["int8", "bfloat16", "float64"]


# ---------------------------------------------------------------------------------------------------- liveness


def test_an_array_is_let_go_after_its_last_use() -> None:
    """Of a chain only the operand is alive when an op runs, however long the chain is."""
    alive: list[weakref.ref[Array]] = []
    counts: list[int] = []

    def step(a: Array) -> Array:
        result = a + 1
        alive.append(weakref.ref(result))
        counts.append(sum(r() is not None for r in alive))
        return result

    value: Value = (x := image())
    for _ in range(6):
        value = apply(nn.Relu(), value)
    evaluate(Graph((x,), (value,), ("y",)), {"x": f32(0, 0)}, {nn.Relu: kernel(step)})
    assert counts == [1, 2, 2, 2, 2, 2]


def test_kept_values_are_returned_and_others_are_not() -> None:
    x = image()
    a = apply(nn.Relu(), x)
    b = apply(nn.Add(), a, a)
    beside = apply(nn.Identity(), a)  # not an output
    plan = Plan(Graph((x,), (b,), ("y",)), TABLE, keep=(a, beside, x))
    values = plan.run_values({"x": f32(-1, 2)})
    assert {v: array.tolist() for v, array in values.items()} == {b: [0, 4], a: [0, 2], beside: [0, 2], x: [-1, 2]}
    assert set(plan.run({"x": f32(-1, 2)})) == {"y"}

"""Integer weights of tables and recurrent cells: what is stored, what stays in float, the numbers after lowering."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import amctc
from amctc.errors import InputError, UsageError
from amctc.execution import plan_for
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data
from amctc.kernels.tables import ORACLE
from amctc.numerics.linear import dequantize_linear
from amctc.onnx_bridge import import_model
from amctc.onnx_bridge.runtime import CARRIED
from amctc.ops import nn, quant
from amctc.ops import onnx as carried
from amctc.targets import load_profile, profile_names
from amctc.types import F32, I8, I32, I64, Array, QuantizedType, ScalarType, TensorType

RNG = np.random.default_rng(31)
ONLY = "quantize-weights-only"
LOWERED = f"{ONLY},legalize,to-ascend"


def table(*shape: int) -> Array:
    """Slices of very different sizes along every axis."""
    found = RNG.standard_normal(shape)
    for axis, size in enumerate(shape):
        found *= np.exp2(RNG.integers(-3, 3, size)).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return found.astype(np.float32)


def gather(weight: Value, axis: int = 0, elem: ScalarType = I64, name: str = "embed") -> Graph:
    ids = GraphInput("ids", TensorType(("N", 3), elem))
    value = apply(nn.Gather(axis), weight, ids, name="y", origins=(Origin(name, "Gather"),))
    return Graph((ids,), (value,), ("y",))


def stored(graph: Graph, kind: Any = nn.Gather, position: int = 0) -> list[Value | None]:
    """The integers under the weight of every op of a kind, ``None`` for float ones."""
    found: list[Value | None] = []
    for op in graph.ops:
        if isinstance(op.kind, kind):
            weight = op.operands[position]
            assert weight is not None
            producer = weight.producer
            dequantized = producer is not None and isinstance(producer.kind, quant.Dequantize)
            found.append(producer.operands[0] if dequantized and producer is not None else None)
    return found


@pytest.mark.parametrize(("shape", "axis"), [((5, 8), 0), ((8, 5), 1), ((8, 5), -1), ((4, 3, 6), 1), ((2, 40), 0)])
def test_each_slice_that_is_looked_up_has_a_scale(run, shape: tuple[int, ...], axis: int) -> None:
    """scale = max|w| / 127, / 128 where the largest is negative; the lowered model gives just those numbers."""
    array = table(*shape)
    result = run(ONLY, gather(const(array, name="t"), axis))
    (integers,) = stored(result.graph)
    assert integers is not None
    elem = integers.type.elem
    assert isinstance(elem, QuantizedType)
    rows = np.moveaxis(array, axis, 0).reshape(shape[axis], -1)
    largest = np.where(-rows.min(1) > rows.max(1), -rows.min(1) / 128, rows.max(1) / 127)
    assert (elem.storage, elem.axis, integers.name) == (I8, axis % len(shape), "t.quant")
    np.testing.assert_allclose(elem.scale_array, largest, rtol=2**-23)
    data = constant_data(integers)
    assert data is not None
    real = dequantize_linear(data.read(), elem.scale_array, 0, axis=elem.axis)
    ids = np.array([[0, -1, 1], [1, 1, 0]])
    lowered = run("legalize,to-ascend", result.graph).graph
    for graph in (result.graph, lowered):
        found = evaluate(graph, {"ids": ids}, {**ORACLE, **CARRIED})["y"]
        np.testing.assert_array_equal(found, np.take(real, ids, axis))
    assert {v.type.elem for op in lowered.ops for v in op.operands if v is not None} <= {I8, I64, F32}
    (note,) = result.notes
    size, units = array.size, shape[axis]
    assert note.text == (f"weights stored in int8, a scale for each row: {4 * size} bytes become {size + 4 * units}; "
                         "computed in float")  # fmt: skip


@pytest.mark.parametrize("target", profile_names())
def test_every_target_looks_rows_up(run, target: str) -> None:
    """In float16 a number is rounded once, after its scale was: f16(q · f16(scale))."""
    graph = run(LOWERED, gather(const(table(6, 16)), elem=I32), target=target).graph
    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    q, scale = (constant_data(op.operands[0]) for op in graph.ops if isinstance(op.kind, nn.Gather))
    assert q is not None
    assert scale is not None
    half = run("demote-float", graph, target=target).graph
    found = plan_for(half, load_profile(target)).run({"ids": ids})["y"]
    wanted = q.read().astype(np.float16) * scale.read().astype(np.float16)[:, None]
    np.testing.assert_array_equal(found, wanted[ids].astype(np.float32))


def test_a_table_is_stored_once_and_stays_where_its_numbers_are_read(run) -> None:
    weight = const(table(9, 16))
    ids = GraphInput("ids", TensorType((3,), I64))
    a, b = (apply(nn.Gather(0), weight, ids, origins=(Origin(n, "Gather"),)) for n in "ab")
    both = run(ONLY, Graph((ids,), (a, b), ("a", "b"))).graph
    first, second = stored(both)
    assert first is second is not None
    tables = [op.operands[0] for op in run("legalize,to-ascend", both).graph.ops if isinstance(op.kind, nn.Gather)]
    assert sum(t is not None and t.type.elem == I8 for t in tables) == 2
    assert len({t for t in tables if t is not None and t.type.elem == I8}) == 1
    result = run(ONLY, Graph((ids,), (a, apply(nn.Abs(), weight)), ("a", "t")))
    assert stored(result.graph) == [None]
    assert [n.text for n in result.notes] == ["weights left in float: something else reads their numbers"]
    shown = run(ONLY, Graph((ids,), (a, weight), ("a", "t")))
    assert stored(shown.graph) == [None]


def test_a_table_that_is_also_the_weight_of_a_product_is_stored_for_both(run) -> None:
    """The tied embedding of language models."""
    weight = const(table(9, 16))
    ids = GraphInput("ids", TensorType((3,), I64))
    e = apply(nn.Gather(0), weight, ids, origins=(Origin("embed", "Gather"),))
    y = apply(nn.Gemm(trans_b=True), e, weight, origins=(Origin("head", "Gemm"),))
    graph = run(ONLY, Graph((ids,), (y,), ("y",))).graph
    assert None not in stored(graph) + stored(graph, nn.Gemm, 1)


@pytest.mark.parametrize(
    "weight",
    [
        table(40),
        table(40, 7),
        np.arange(80).reshape(4, 20),
        table(4, 20).astype(np.float64),
        np.zeros((0, 9), np.float32),
    ],
    ids=["a vector", "short rows", "integers", "float64", "no rows"],
)
def test_tables_that_gain_nothing_stay(run, weight: Array) -> None:
    result = run(ONLY, gather(const(weight)))
    assert (stored(result.graph), result.notes) == ([None], ())


def test_options(run) -> None:
    graph = gather(const(table(9, 16)))
    assert run(f"{ONLY}{{embeddings=false}}", graph).graph is graph
    assert run(f'{ONLY}{{skip=["emb*"]}}', graph).graph is graph
    assert stored(run(f"{ONLY}{{bits=4 group=32 symmetric=false}}", graph).graph)[0].type.elem.storage == I8
    with pytest.raises(UsageError, match="skip 'fc' matches no layer"):
        run(f'{ONLY}{{skip=["fc"]}}', graph)
    once = run(ONLY, graph).graph
    assert run(ONLY, once).graph is once


def test_numbers_that_are_none_are_refused_by_name(run) -> None:
    weight = table(9, 16)
    weight[3, 4] = np.nan
    with pytest.raises(InputError, match="embed"):
        run(ONLY, gather(const(weight)))


def test_a_table_of_zeros_stays_zeros(run) -> None:
    graph = run(LOWERED, gather(const(np.zeros((3, 8), np.float32)))).graph
    assert not evaluate(graph, {"ids": np.array([[0, 1, 2]])}, {**ORACLE, **CARRIED})["y"].any()


@pytest.mark.parametrize("elem", [
    QuantizedType(I8, F32, (0.5, 0.25, 2.0), (3, 0, -7), 0, -128, 127), QuantizedType.per_tensor(0.5, 3),
    QuantizedType.per_tensor(0.5), QuantizedType.per_axis((0.5,) * 8, 1),
    QuantizedType(I8, F32, (0.5, 1.0) * 3, (0,) * 6, 1, -128, 127, 4),
], ids=["zero points", "per tensor, zero point", "per tensor", "scales of elements", "blocks"])  # fmt: skip
def test_tables_of_other_tools(run, elem: QuantizedType) -> None:
    """Whatever form the integers came in, the numbers are those; where rows have one scale the integers are kept."""
    integers = RNG.integers(-128, 128, (3, 8)).astype(np.int8)
    graph = gather(apply(quant.Dequantize(), const(integers, elem)))
    lowered = run("legalize,to-ascend", graph).graph
    ids = np.array([[0, 2, 1]])
    expected = evaluate(graph, {"ids": ids}, ORACLE)["y"]
    np.testing.assert_array_equal(evaluate(lowered, {"ids": ids}, {**ORACLE, **CARRIED})["y"], expected)
    kept = any(v is not None and v.type.elem == I8 for op in lowered.ops for v in op.operands)
    assert kept == (elem.axis in (None, 0))


CELLS = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN, INPUTS = 8, 10


def cell(op_type: str, directions: int = 1) -> onnx.ModelProto:
    """A recurrent cell over seven steps of one sample."""
    rows = CELLS[op_type] * HIDDEN
    weights = {"W": table(directions, rows, INPUTS), "R": table(directions, rows, HIDDEN) / 8}
    direction = "bidirectional" if directions == 2 else "forward"
    node = helper.make_node(op_type, ["x", "W", "R"], ["", "h"], name="cell", hidden_size=HIDDEN, direction=direction)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, "n", INPUTS])],
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, [directions, "n", HIDDEN])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def of_cell(graph: Graph) -> Op:
    (op,) = (op for op in graph.ops if isinstance(op.kind, carried.Node))
    return op


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op_type", CELLS)
def test_recurrent_weights_have_a_scale_per_gate_channel(run, op_type: str, directions: int) -> None:
    """In every direction; what the cell computes is what it would with those numbers as float weights."""
    graph = import_model(cell(op_type, directions))
    result = run(ONLY, graph)
    rows = CELLS[op_type] * HIDDEN
    for weight in of_cell(result.graph).operands[1:3]:
        assert weight is not None
        assert weight.producer is not None
        assert len(weight.producer.operands[0].type.elem.scales) == directions * rows  # type: ignore[union-attr]
    x = RNG.standard_normal((7, 2, INPUTS)).astype(np.float32)
    tables = {**ORACLE, **CARRIED}
    expected = evaluate(result.graph, {"x": x}, tables)["h"]
    lowered = run("legalize,to-ascend", result.graph).graph
    np.testing.assert_array_equal(evaluate(lowered, {"x": x}, tables)["h"], expected)
    # Data below 4, states below 1: what rounding adds to a gate in a step, over all steps; slopes are at most 1.
    assert np.abs(x).max() < 4
    steps = [np.abs(constant_data(w).read()).max() / 254 for w in of_cell(graph).operands[1:3]]  # type: ignore[union-attr]
    assert 0 < np.abs(expected - evaluate(graph, {"x": x}, tables)["h"]).max() < 7 * (4 * INPUTS + HIDDEN) * max(steps)
    (note,) = result.notes
    size = directions * rows * (INPUTS + HIDDEN)
    assert note.layer == "cell"
    assert f"{4 * size} bytes become {size + 2 * 4 * directions * rows}" in note.text


@pytest.mark.parametrize("recurrent", [True, False])
def test_remarks_agree_with_what_became_of_a_model_without_layers(recurrent: bool) -> None:
    options = {ONLY: {"recurrent": recurrent}}
    notes = amctc.compress(import_model(cell("LSTM")), preset="weight-only", options=options).report.notes
    expected = (
        ["no layer to compute in integers: weights alone are stored in them", "weights stored in int8"]
        if recurrent
        else ["nothing to quantize: all layers with weights are carried", "left as it came: LSTM is a carried op"]
    )
    assert sorted(e for e in expected for note in notes if e in note) == sorted(expected)
    assert len(notes) == 2, notes


def test_recurrent_weights_can_stay(run) -> None:
    graph = import_model(cell("LSTM"))
    assert run(f"{ONLY}{{recurrent=false}}", graph).graph is graph
    assert run(f'{ONLY}{{skip=["cell"]}}', graph).graph is graph


@pytest.mark.parametrize("directions", [1, 2])
def test_files_are_small_and_say_the_same(tmp_path, directions: int) -> None:
    """A float model, its deploy file and its QDQ file, which ONNX Runtime runs; read back they compute the same."""
    path = tmp_path / "model.onnx"
    onnx.save(cell("LSTM", directions), path)
    feeds = [{"x": RNG.standard_normal((7, 1, INPUTS)).astype(np.float32)} for _ in range(2)]
    result = amctc.compress(path, preset="weight-only", out=tmp_path / "out")
    memory, file = (amctc.Session(g) for g in (result.deploy_graph, result.files["deploy"]))
    qdq = amctc.Session(result.files["fakequant"])
    for batch in feeds:
        np.testing.assert_array_equal(memory.run(batch)["h"], file.run(batch)["h"])
        assert np.abs(qdq.run(batch)["h"] - memory.run(batch)["h"]).max() < 2.0**-6
    sizes = [sum(numpy_helper.to_array(i).nbytes for i in onnx.load(p).graph.initializer)
             for p in (path, result.files["deploy"])]  # fmt: skip
    assert sizes[1] < sizes[0] / 2
    again = amctc.compress(result.files["fakequant"], preset="fast")
    np.testing.assert_array_equal(amctc.Session(again.deploy_graph).run(feeds[0])["h"], memory.run(feeds[0])["h"])

"""compress() on models of every shape: inputs, quantizers that came with the model, nothing to quantize."""

from __future__ import annotations

import json

import numpy as np
import pytest

import amctc
from amctc import api, examples
from amctc.api import compress, evaluate, load, open_samples_for
from amctc.errors import UnsupportedError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, layer_name
from amctc.ops import nn, quant
from amctc.schema import OpKind
from amctc.session import Session, graph_kind
from amctc.types import BOOL, F16, F32, F64, I8, I32, I64, U8, QuantizedType, TensorType

RNG = np.random.default_rng(11)
X = GraphInput("x", TensorType(("N", 8), F32))


def weights(*shape: int, dtype: type = np.float32) -> Value:
    return const((RNG.standard_normal(shape) * 0.5).astype(dtype))


def floats(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def actions(result: api.Compression) -> dict[str, str]:
    return {layer.name: layer.action for layer in result.report.layers}


@pytest.fixture(scope="module")
def digits():
    graph = load(examples.model_path())
    return graph, open_samples_for(graph, examples.calibration_path(), preprocess="unit", limit=32)


# ------------------------------------------------------------------------------------------------- how it runs


@pytest.mark.parametrize(("kind", "jobs"), [("threads", 2), ("processes", 2)])
def test_the_files_do_not_depend_on_the_executor(digits, tmp_path, kind, jobs) -> None:
    graph, samples = digits
    with amctc.open_executor(kind, jobs) as executor:
        compress(graph, samples, out=tmp_path / "a", executor=executor)
    compress(graph, samples, out=tmp_path / "b")
    for name in api.FILES.values():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_graph_that_was_read_from_a_file(digits, tmp_path, monkeypatch) -> None:
    graph, samples = digits
    by_path = compress(examples.model_path(), samples, compare_samples=1).report
    monkeypatch.setattr(api, "load", lambda path: pytest.fail("loaded a second time"))
    assert compress(graph, samples, path=examples.model_path(), compare_samples=1).report == by_path


def test_a_provider_that_is_not_there(digits) -> None:
    with pytest.raises(UsageError, match="no provider 'abacus' here; it has"):
        compress(*digits, provider="abacus")
    with pytest.raises(UsageError, match="no provider 'abacus' here"):
        Session(digits[0], provider="abacus")


# ------------------------------------------------------------------------------------------------- kinds of inputs


def embedding() -> Graph:
    """Token ids and a mask through an embedding, a layer and a mean, as at the front of a text model."""
    ids, mask = GraphInput("ids", TensorType(("N", "T"), I64)), GraphInput("mask", TensorType(("N", "T"), I64))
    rows = apply(nn.Gather(0), weights(30, 8), ids, name="rows")
    real = apply(nn.Unsqueeze((2,)), apply(nn.Cast(F32), mask))
    hidden = apply(nn.Relu(), apply(nn.MatMul(), apply(nn.Mul(), rows, real, name="masked"), weights(8, 16)), name="h")
    mean = apply(nn.ReduceMean((1,), False), hidden, name="mean")
    return Graph((ids, mask), (apply(nn.Gemm(), mean, weights(16, 4), name="y"),), ("y",))


def test_integer_inputs_end_to_end(tmp_path) -> None:
    graph = embedding()
    feeds = {"ids": RNG.integers(0, 30, (20, 5)), "mask": (RNG.random((20, 5)) > 0.2).astype(np.int64)}
    result = compress(graph, [feeds], out=tmp_path / "out")
    assert set(actions(result).values()) == {"int8"}
    assert result.report.output_sqnr_db > 25
    session = Session(tmp_path / "out/model_deploy.onnx")
    assert [(i.name, i.dtype) for i in session.inputs] == [("ids", np.int64), ("mask", np.int64)]
    assert session.run(feeds)["y"].shape == (20, 4)


def test_sequences_of_several_lengths() -> None:
    batches = [{"ids": RNG.integers(0, 30, (3, n)), "mask": np.ones((3, n), np.int64)} for n in (2, 7, 4)]
    result = compress(embedding(), batches)
    assert result.report.samples == 9
    assert result.report.output_sqnr_db > 25


def test_several_inputs_and_outputs_of_other_types() -> None:
    chosen = GraphInput("chosen", TensorType(("N", 8), BOOL))
    wide = GraphInput("wide", TensorType(("N", 5), F64))
    a = apply(nn.MatMul(), apply(nn.Where(), chosen, X, const(np.float32(0))), weights(8, 3), name="a")
    b = apply(nn.MatMul(), apply(nn.Cast(F32), wide), weights(5, 3), name="b")
    total = apply(nn.Add(), a, b, name="total")
    graph = Graph((chosen, X, wide), (apply(nn.Cast(I32), total), total, a), ("rounded", "total", "a"))
    feeds = {"chosen": RNG.random((12, 8)) > 0.5, "x": floats(12, 8), "wide": floats(12, 5, dtype=np.float64)}
    result = compress(graph, [feeds])
    assert set(actions(result).values()) == {"int8"}
    assert 0 < result.report.agreement <= 1
    outputs = Session(result.deploy_graph).run(feeds)
    assert {n: a.dtype for n, a in outputs.items()} == {"rounded": np.int32, "total": np.float32, "a": np.float32}


def test_symbolic_sizes() -> None:
    image = GraphInput("image", TensorType(("N", 3, "H", "W"), F32))
    y = apply(
        nn.GlobalAveragePool(), apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), image, weights(4, 3, 3, 3), name="c")
    )
    result = compress(Graph((image,), (y,), ("y",)), [{"image": floats(2, 3, 9, 7)}, {"image": floats(3, 3, 5, 5)}])
    assert set(actions(result).values()) == {"int8"}
    assert result.report.samples == 5
    assert "--input_format=NCHW" in result.report.atc


def test_without_a_batch_axis_the_whole_output_counts_once() -> None:
    x = GraphInput("x", TensorType((8,), F32))
    result = compress(Graph((x,), (apply(nn.MatMul(), x, weights(8, 3), name="y"),), ("y",)), [{"x": floats(16)}])
    assert result.report.agreement in (0.0, 0.5, 1.0)  # two runs
    assert result.report.output_sqnr_db > 20
    assert "--input_format=ND" in result.report.atc


@pytest.mark.parametrize(("elem", "dtype"), [(F16, np.float16), (F64, np.float64)])
def test_other_floats_stay_and_the_report_says_what_to_do(elem, dtype) -> None:
    x = GraphInput("x", TensorType(("N", 8), elem))
    y = apply(nn.MatMul(), x, weights(8, 3, dtype=dtype), name="y")
    result = compress(Graph((x,), (y,), ("y",)), [{"x": floats(4, 8, dtype=dtype)}])
    assert set(actions(result).values()) == {"float"}
    assert any("export it in float32" in note for note in result.report.notes)


# ------------------------------------------------------------------------------------------------- nothing to do


@pytest.mark.parametrize(("elem", "kind"), [(F32, nn.Relu()), (I64, nn.Transpose((1, 0)))])
def test_nothing_to_quantize(elem, kind, tmp_path) -> None:
    x = GraphInput("x", TensorType(("N", 8), elem))
    feeds = {"x": np.arange(24).reshape(3, 8).astype(elem.dtype)}
    graph = Graph((x,), (apply(kind, x, name="y"),), ("y",), name="bare")
    result = compress(graph, [feeds], out=tmp_path / "out")
    assert result.report.layers == ()
    assert any(note.startswith("bare: nothing to quantize") for note in result.report.notes)
    assert (result.report.agreement, result.report.output_sqnr_db is None) == (
        (1.0, False) if elem == F32 else (None, True)
    )
    assert (tmp_path / "out/record.txt").read_text() == ""
    again = Session(load(tmp_path / "out/model_deploy.onnx"))
    assert np.array_equal(again.run(feeds)["y"], feeds["x"] if elem == F32 else feeds["x"].T)


# ------------------------------------------------------------------------------------------------- QDQ models


def quantized(value: Value, step: float, storage=I8, zero: int = 0) -> Value:
    low, high = storage.integer_range
    to = QuantizedType(storage, F32, (step,), (zero,), None, low, high)
    return apply(quant.Dequantize(), apply(quant.Quantize(to), value, name=f"{value.name}_q"))


def stored(integers: np.ndarray, step: float, storage=I8) -> Value:
    low, high = storage.integer_range
    elem = QuantizedType(storage, F32, (step,), (0,), None, low, high)
    return apply(quant.Dequantize(), const(integers.astype(storage.dtype), elem))


def test_a_qdq_model_is_lowered_as_it_came(digits, tmp_path) -> None:
    graph, samples = digits
    first = compress(graph, samples, out=tmp_path / "first")
    again = compress(tmp_path / "first/model_fakequant.onnx", samples, out=tmp_path / "again")
    assert graph_kind(again.float_graph) == "qdq"
    assert (first.report.reference, again.report.reference) == ("float", "QDQ")
    assert set(actions(again).values()) == {"int8"}
    assert any("quantizers came with the model" in note for note in again.report.notes)
    feeds = next(iter(samples))
    expected = Session(first.deploy_graph).run(feeds)
    for name, array in Session(again.deploy_graph).run(feeds).items():
        assert np.array_equal(array, expected[name])
    passes = json.loads((tmp_path / "again/report.json").read_text())["pipeline"]
    assert "observe" not in passes
    assert "place-qdq" not in passes


def test_half_quantized_layers_are_completed_and_others_stay() -> None:
    """One layer is all integers, one lacks weight and bias, one has no quantizers."""
    whole = apply(nn.Gemm(), quantized(X, 2**-5), stored(RNG.integers(-127, 128, (8, 8)), 2**-7), name="whole")
    half = apply(nn.Gemm(), quantized(whole, 2**-4), weights(8, 8), const(floats(8)), name="half")
    none = apply(nn.Gemm(), half, weights(8, 3), name="none")
    result = compress(Graph((X,), (none,), ("y",)), [{"x": floats(16, 8)}])
    kept = {layer.action: layer for layer in result.report.layers}
    assert [layer.action for layer in result.report.layers] == ["int8", "int8", "float"]
    assert kept["float"].notes == ("left in float: the model brings no quantizers for it",)
    assert result.report.output_sqnr_db > 20


def test_quantizers_without_an_integer_form_return_to_float(tmp_path) -> None:
    per_channel = QuantizedType(I8, F32, (2**-3,) * 8, (0,) * 8, 1, -128, 127)
    data = apply(quant.Dequantize(), apply(quant.Quantize(per_channel), X))
    y = apply(nn.Gemm(), data, stored(RNG.integers(-127, 128, (8, 3)), 2**-7), name="y")
    result = compress(Graph((X,), (y,), ("y",)), [{"x": floats(8, 8)}], out=tmp_path / "out")
    assert set(actions(result).values()) == {"float"}
    assert (tmp_path / "out/record.txt").read_text() == ""
    assert result.report.output_sqnr_db > 20


def test_options_of_passes_that_do_not_run_on_a_qdq_model_are_refused() -> None:
    y = apply(nn.Gemm(), quantized(X, 2**-3), stored(RNG.integers(-9, 9, (8, 3)), 2**-3), name="y")
    with pytest.raises(UsageError, match=r"'balanced \(for a QDQ model\)' does not run pass 'place-qdq'"):
        compress(Graph((X,), (y,), ("y",)), [{"x": floats(2, 8)}], options={"place-qdq": {"bits": 8}})


def test_unsigned_quantizers_are_taken_somehow() -> None:
    """Lowered, or returned to float with a reason: never an error, and never far from the model."""
    y = apply(nn.Gemm(), quantized(X, 2**-5, U8, 128), stored(RNG.integers(-127, 128, (8, 3)), 2**-7), name="y")
    result = compress(Graph((X,), (y,), ("y",)), [{"x": floats(16, 8)}])
    (layer,) = result.report.layers
    assert layer.action == "int8" or any("u8" in note for note in layer.notes)
    assert result.report.output_sqnr_db > 20


def test_a_deploy_model_is_refused(digits) -> None:
    graph, samples = digits
    deploy = compress(graph, samples, compare_samples=1).deploy_graph
    with pytest.raises(UnsupportedError, match="a deploy model is quantized already; compress the float model"):
        compress(deploy, samples)


def test_evaluate_is_part_of_the_interface() -> None:
    assert amctc.evaluate is evaluate


# ------------------------------------------------------------------------------------------------- what is reported


def test_what_lowering_returns_to_float_is_reported_as_float(digits) -> None:
    """int16 activations are simulated in the QDQ model only."""
    graph, samples = digits
    first = next(layer_name(op) for op in graph.ops if isinstance(op.kind, nn.Layer))
    result = compress(graph, samples, compare_samples=1, options={"place-qdq": {"override": (first + "{bits=16}",)}})
    layer = next(layer for layer in result.report.layers if layer.name == first)
    assert (layer.action, layer.edge) == ("float", "float")
    assert layer.notes == ("left in float: no rule says how ascend910b1 multiplies activations stored as i16",)
    assert layer.bytes_after == layer.bytes_before
    assert sum(other.action == "float" for other in result.report.layers) == 1


def test_an_average_pool_before_a_layer_leaves_by_its_own_edge() -> None:
    def made(kind: OpKind, name: str, *operands: Value) -> Value:
        return apply(kind, *operands, name=f"{name}.out", origins=(Origin(name, name.split("_")[0]),))

    image = GraphInput("image", TensorType(("N", 3, 8, 8), F32))
    pointwise = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    pooled = made(nn.AveragePool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2)), "AveragePool_1", image)
    last = made(pointwise, "Conv_2", pooled, weights(4, 3, 1, 1))
    result = compress(Graph((image,), (last,), ("y",)), [{"image": floats(2, 3, 8, 8)}])
    edges = {layer.name: (layer.action, layer.edge) for layer in result.report.layers}
    assert edges == {"AveragePool_1": ("int8", "requant"), "Conv_2": ("int8", "dequant")}


def test_nothing_calibrated_needs_no_samples() -> None:
    graph = Graph((X,), (apply(nn.MatMul(), X, weights(8, 4), origins=(Origin("fc", "MatMul"),)),), ("y",))
    report = compress(graph, preset="weight-only").report
    assert [(layer.name, layer.action) for layer in report.layers] == [("fc", "weight-only")]
    assert (report.samples, report.agreement, report.output_sqnr_db) == (0, None, None)
    with pytest.raises(UsageError, match="calibration needs samples"):
        compress(graph)


def test_a_report_tells_weights_of_four_bits() -> None:
    hidden = apply(nn.MatMul(), X, weights(8, 32), name="h", origins=(Origin("first", "MatMul"),))
    last = apply(nn.MatMul(), apply(nn.Relu(), hidden), weights(32, 4), origins=(Origin("last", "MatMul"),))
    options = {"quantize-weights": {"int4": ("last",)}}
    report = compress(Graph((X,), (last,), ("y",)), [{"x": floats(4, 8)}], preset="fast", options=options).report
    assert [(layer.name, layer.weight_bits) for layer in report.layers] == [("first", 8), ("last", 4)]


def test_a_fixed_batch_larger_than_what_is_compared() -> None:
    x = GraphInput("x", TensorType((40, 8), F32))
    y = apply(nn.MatMul(), x, weights(8, 3), name="y")
    result = compress(Graph((x,), (y,), ("y",)), [{"x": floats(100, 8)}])
    assert result.report.samples == 40
    assert set(actions(result).values()) == {"int8"}

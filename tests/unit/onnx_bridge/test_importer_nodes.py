"""Which nodes become ours and which stay as they are: pads, training modes, dynamic operands, element types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from amctc.errors import InputError
from amctc.ir import Graph, Op
from amctc.onnx_bridge import export_model, import_model
from amctc.ops import nn
from amctc.ops.onnx import Node
from tests.unit.onnx_bridge.round_trips import round_trip, run_model

Shape = tuple[int | str | None, ...]


def floats(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def node_model(
    op_type: str,
    operands: list[np.ndarray | None],
    *,
    constant: tuple[int, ...] = (),
    shapes: dict[int, Shape] | None = None,
    results: int = 1,
    opset: int = 17,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """One node on inputs ``i0``…, those in ``constant`` stored in the model, and what to feed."""
    node = helper.make_node(
        op_type, ["" if a is None else f"i{k}" for k, a in enumerate(operands)],
        [f"y{k}" for k in range(results)], "node", **attributes,
    )  # fmt: skip
    given = {k: a for k, a in enumerate(operands) if a is not None}
    inputs = [
        helper.make_tensor_value_info(
            f"i{k}", helper.np_dtype_to_tensor_dtype(a.dtype), (shapes or {}).get(k, tuple(a.shape))
        )
        for k, a in given.items()
        if k not in constant
    ]
    weights = [numpy_helper.from_array(given[k], f"i{k}") for k in constant]
    outputs = [onnx.ValueInfoProto(name=f"y{k}") for k in range(results)]
    graph = helper.make_graph([node], "net", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model), {f"i{k}": a for k, a in given.items() if k not in constant}


def the_op(graph: Graph) -> Op:
    """The op that computes the first output."""
    op = graph.outputs[0].producer
    assert op is not None
    return op


# ------------------------------------------------------------------------------------------------------ auto_pad


def same_pads(size: int, kernel: int, stride: int, dilation: int, *, upper: bool) -> tuple[int, int]:
    """Pads so that there are ⌈size / stride⌉ windows (ONNX Conv); the odd one at the end for SAME_UPPER."""
    windows = -(-size // stride)
    total = max((windows - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("height", "width", "kernel", "strides", "dilations"), [
    (7, 8, (3, 3), (1, 1), (1, 1)), (7, 8, (2, 4), (2, 3), (1, 1)), (9, 6, (3, 2), (2, 1), (2, 3)),
    (5, 5, (1, 1), (3, 2), (1, 1)), (4, 4, (3, 3), (5, 5), (1, 1)),
])  # fmt: skip
def test_auto_pad_of_a_convolution_becomes_explicit(
    mode: str, height: int, width: int, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> None:
    if mode == "VALID" and any(s < d * (k - 1) + 1 for s, k, d in zip((height, width), kernel, dilations, strict=True)):
        pytest.skip("no window fits")
    model, feeds = node_model(
        "Conv", [floats(2, 3, height, width), floats(4, 3, *kernel, seed=1)], constant=(1,), auto_pad=mode,
        strides=strides, dilations=dilations,
    )  # fmt: skip
    runs = dilations == (1, 1) or mode == "VALID"  # the runtime refuses SAME pads with dilations
    graph, exported, _ = round_trip(model, *[feeds] * runs)
    axes = zip((height, width), kernel, strides, dilations, strict=True)
    begins, ends = zip(*((0, 0) if mode == "VALID" else same_pads(*a, upper=mode == "SAME_UPPER") for a in axes),
                       strict=True)  # fmt: skip
    kind = the_op(graph).kind
    assert isinstance(kind, nn.Conv)
    assert kind.pads == (*begins, *ends)
    assert {"auto_pad", "pads"} & {a.name for a in exported.graph.node[0].attribute} == {"pads"}


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_auto_pad_of_a_pool_becomes_explicit(op_type: str, mode: str, ceil_mode: int) -> None:
    model, feeds = node_model(
        op_type, [floats(1, 2, 8, 9)], kernel_shape=[3, 2], strides=[2, 2], auto_pad=mode, ceil_mode=ceil_mode
    )
    graph, _, _ = round_trip(model, feeds)
    kind = the_op(graph).kind
    assert isinstance(kind, nn.MaxPool | nn.AveragePool)
    assert kind.pads == {"SAME_UPPER": (0, 0, 1, 1), "SAME_LOWER": (1, 1, 0, 0), "VALID": (0, 0, 0, 0)}[mode]


def test_same_pads_of_a_dilated_pool_follow_the_standard() -> None:
    """ONNX Runtime 1.31 leaves the dilation out of its pads; shape inference and the standard do not."""
    model, feeds = node_model("MaxPool", [np.arange(9, dtype=np.float32).reshape(1, 1, 9)], kernel_shape=[3],
                              strides=[2], dilations=[2], auto_pad="SAME_UPPER")  # fmt: skip
    exported = export_model(import_model(model))
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 1, 5]
    np.testing.assert_array_equal(run_model(exported, feeds)["y0"].ravel(), [2, 4, 6, 8, 8])


@pytest.mark.parametrize("op_type", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_same_pads_of_unknown_sizes_stay_symbolic(op_type: str, mode: str) -> None:
    weight = [floats(4, 3, 3, 3, seed=1)] if op_type == "Conv" else []
    extra: dict[str, Any] = {} if weight else {"kernel_shape": [3, 3]}
    model, feeds = node_model(op_type, [floats(1, 3, 7, 8), *weight], constant=(1,) if weight else (),
                              shapes={0: ("N", 3, "H", 8)}, auto_pad=mode, strides=[2, 2], **extra)  # fmt: skip
    graph, exported, _ = round_trip(model, feeds)
    assert isinstance(the_op(graph).kind, Node)
    assert {a.name: a.s for a in exported.graph.node[0].attribute}["auto_pad"] == mode.encode()


def test_valid_pads_of_unknown_sizes_are_none() -> None:
    model, feeds = node_model("Conv", [floats(1, 3, 7, 8), floats(4, 3, 3, 3, seed=1)], constant=(1,),
                              shapes={0: ("N", 3, "H", "W")}, auto_pad="VALID")  # fmt: skip
    graph, _, _ = round_trip(model, feeds)
    kind = the_op(graph).kind
    assert isinstance(kind, nn.Conv)
    assert kind.pads == (0, 0, 0, 0)


@pytest.mark.parametrize("attributes", [
    {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"output_shape": [10, 11]},
    {"output_shape": [10, 11], "auto_pad": "SAME_UPPER"},
])  # fmt: skip
def test_a_transposed_convolution_that_computes_its_pads_stays_as_it_is(attributes: dict[str, Any]) -> None:
    model, feeds = node_model("ConvTranspose", [floats(1, 2, 5, 5), floats(2, 3, 3, 3, seed=1)], constant=(1,),
                              strides=[2, 2], **attributes)  # fmt: skip
    graph, _, _ = round_trip(model, feeds)
    assert isinstance(the_op(graph).kind, Node)


# ------------------------------------------------------------------------------------ modes and dynamic operands


BATCH_NORM = [floats(2, 3, 4), floats(3, seed=1), floats(3, seed=2), floats(3, seed=3), np.abs(floats(3, seed=4))]


@pytest.mark.parametrize("constant", [(1, 2, 3, 4), ()])
def test_batch_norm_in_training_mode_stays_as_it_is(constant: tuple[int, ...]) -> None:
    model, feeds = node_model("BatchNormalization", [*BATCH_NORM], constant=constant, results=3, training_mode=1,
                              momentum=0.25)  # fmt: skip
    graph, _, outputs = round_trip(model, feeds)
    assert isinstance(the_op(graph).kind, Node)
    assert np.abs(outputs["y0"].mean((0, 2)) - BATCH_NORM[2]).max() < 1e-5  # the batch's own mean


def test_batch_norm_in_training_mode_with_one_wanted_result() -> None:
    model, _ = node_model("BatchNormalization", [*BATCH_NORM], constant=(1, 2, 3, 4), results=3, training_mode=1)
    del model.graph.output[1:]
    model.graph.node[0].output[1:] = ["", ""]
    graph = import_model(model)
    assert isinstance(the_op(graph).kind, Node)
    assert [a.name for a in export_model(graph).graph.node[0].attribute] == ["training_mode"]


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 17])
def test_batch_norm_for_inference_is_ours(opset: int) -> None:
    model, feeds = node_model("BatchNormalization", [*BATCH_NORM], constant=(1, 2, 3, 4), opset=opset, epsilon=0.125)
    graph, _, _ = round_trip(model, feeds)
    assert the_op(graph).kind == nn.BatchNorm(0.125)


@pytest.mark.parametrize("constant", [(), (1,), (2,)])
def test_a_clip_whose_bounds_are_computed_stays_as_it_is(constant: tuple[int, ...]) -> None:
    model, feeds = node_model("Clip", [floats(2, 3), np.array(-0.5, np.float32), np.array(0.25, np.float32)],
                              constant=constant)  # fmt: skip
    graph, _, outputs = round_trip(model, feeds)
    assert isinstance(the_op(graph).kind, Node)
    assert outputs["y0"].min() == -0.5
    assert outputs["y0"].max() == 0.25


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(None, None, nn.Clip(-np.inf, np.inf)), (0.0, None, nn.Clip(0.0, np.inf)), (None, 6.0, nn.Clip(-np.inf, 6.0)),
     (2.0, -2.0, nn.Clip(2.0, -2.0)), (0.1, 0.1, nn.Clip(float(np.float32(0.1)), float(np.float32(0.1))))],
)  # fmt: skip
@pytest.mark.parametrize("opset", [7, 11, 17])
def test_constant_bounds_of_a_clip(low: float | None, high: float | None, kind: nn.Clip, opset: int) -> None:
    bounds = [None if b is None else np.array(b, np.float32) for b in (low, high)]
    if opset < 11:
        if kind.low > kind.high:
            pytest.skip("the runtime refuses it")
        attributes = {n: b for n, b in (("min", low), ("max", high)) if b is not None}
        model, feeds = node_model("Clip", [floats(2, 3)], opset=opset, **attributes)
    else:
        constant = tuple(k + 1 for k, b in enumerate(bounds) if b is not None)
        model, feeds = node_model("Clip", [floats(2, 3), *bounds], constant=constant, opset=opset)
    graph, _, _ = round_trip(model, feeds)
    assert the_op(graph).kind == kind


@pytest.mark.parametrize("training", [None, False, True])
def test_a_dropout_is_an_identity_unless_it_trains(training: bool | None) -> None:
    mode = [] if training is None else [None, np.array(training)]
    model, feeds = node_model("Dropout", [floats(2, 3), *mode], constant=(2,) if mode else ())
    graph = import_model(model)
    assert isinstance(the_op(graph).kind, Node if training else nn.Identity)
    if not training:
        _, _, outputs = round_trip(model, feeds)
        np.testing.assert_array_equal(outputs["y0"], feeds["i0"])


def test_a_reshape_to_a_computed_shape_stays_as_it_is() -> None:
    model, feeds = node_model("Reshape", [floats(2, 3), np.array([3, -1])])
    model.graph.output[0].type.tensor_type.shape.dim.add(dim_param="a")
    model.graph.output[0].type.tensor_type.shape.dim.add(dim_param="b")
    graph, _, _ = round_trip(model, feeds)
    assert isinstance(the_op(graph).kind, Node)


def test_weights_may_be_fed() -> None:
    model, feeds = node_model("Conv", [floats(1, 2, 5), floats(3, 2, 2, seed=1), floats(3, seed=2)])
    graph, _, _ = round_trip(model, feeds)
    assert isinstance(the_op(graph).kind, nn.Conv)
    assert len(graph.inputs) == 3


def test_a_pool_that_also_gives_indices_stays_as_it_is() -> None:
    model, feeds = node_model("MaxPool", [floats(1, 2, 6, 6)], kernel_shape=[2, 2], strides=[2, 2], results=2)
    graph, _, _ = round_trip(model, feeds)
    assert isinstance(the_op(graph).kind, Node)


# ----------------------------------------------------------------------------------------- element types and sizes


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes"),
    [
        ("MatMul", [(2, 3), (3, 4)], {}), ("Gemm", [(2, 3), (3, 4), (4,)], {"alpha": 0.5}), ("Add", [(2, 3), (3,)], {}),
        ("Relu", [(2, 3)], {}), ("Softmax", [(2, 3)], {}), ("Concat", [(2, 3), (2, 1)], {"axis": 1}),
        ("Transpose", [(2, 3)], {}), ("Sigmoid", [(2, 3)], {}), ("Flatten", [(2, 3, 2)], {}),
        ("MaxPool", [(1, 2, 5)], {"kernel_shape": [2]}),
    ],
)  # fmt: skip
def test_half_and_double_precision(op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any],
                                   dtype: str) -> None:  # fmt: skip
    operands = [floats(*s, dtype=dtype, seed=k) for k, s in enumerate(shapes)]
    model, feeds = node_model(op_type, [*operands], constant=(1,) if op_type in ("MatMul", "Add") else (), **attributes)
    graph, exported, outputs = round_trip(model, feeds)
    assert not isinstance(the_op(graph).kind, Node)
    assert outputs["y0"].dtype == dtype
    assert {t.data_type for t in exported.graph.initializer} <= {helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}


def test_a_clip_in_half_precision_keeps_its_bounds_in_half_precision() -> None:
    bounds = [np.array(v, np.float16) for v in (-0.1, 0.3)]
    model, feeds = node_model("Clip", [floats(4, 4, dtype="float16"), *bounds], constant=(1, 2))
    _, _, outputs = round_trip(model, feeds)
    assert outputs["y0"].min() == bounds[0]
    assert outputs["y0"].max() == bounds[1]


def test_a_model_in_half_precision_with_casts() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,4] y) <float16[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {
        h = Cast <to = 10> (x) m = MatMul(h, w) r = Relu(m) y = Cast <to = 1> (r) }""")
    graph, _, _ = round_trip(model, {"x": floats(2, 3)})
    assert [type(op.kind) for op in graph.ops if op.operands] == [nn.Cast, nn.MatMul, nn.Relu, nn.Cast]


@pytest.mark.parametrize("op_type", ["Add", "Mul", "Relu", "MaxPool", "Concat", "Transpose"])
def test_integers_are_computed_by_the_runtime_or_moved(op_type: str) -> None:
    operands = [np.arange(12, dtype=np.int32).reshape(1, 2, 6)] * (1 + (op_type in ("Add", "Mul", "Concat")))
    attributes = {"Concat": {"axis": 2}, "MaxPool": {"kernel_shape": [2]}}.get(op_type, {})
    if op_type == "MaxPool":
        operands = [operands[0].astype(np.int8)]
    graph, _, _ = round_trip(*node_model(op_type, [*operands], **attributes))
    moved = op_type in ("Concat", "Transpose")
    assert isinstance(the_op(graph).kind, Node) != moved


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes"),
    [
        ("Add", [(), ()], {}), ("Add", [(0,), (1,)], {}), ("Mul", [(2, 0, 3), (1, 3)], {}), ("Relu", [()], {}),
        ("MatMul", [(3,), (3, 4)], {}), ("MatMul", [(2, 3), (3,)], {}), ("MatMul", [(3,), (3,)], {}),
        ("MatMul", [(0, 3), (3, 4)], {}), ("MatMul", [(2, 0), (0, 4)], {}), ("MatMul", [(2, 1, 3, 4), (5, 4, 2)], {}),
        ("Gemm", [(2, 3), (3, 4), (2, 1)], {"beta": 2.0}), ("Gemm", [(2, 3), (3, 4), ()], {}),
        ("Gemm", [(3, 2), (4, 3)], {"transA": 1, "transB": 1}), ("Flatten", [(2, 3)], {"axis": 0}),
        ("Flatten", [(2, 3)], {"axis": -1}), ("Flatten", [()], {"axis": 0}), ("Concat", [(2, 3)], {"axis": -2}),
        ("Concat", [(0, 3), (2, 3)], {"axis": 0}), ("Transpose", [(2, 3, 4)], {}), ("Transpose", [()], {}),
        ("Softmax", [(2, 0)], {}), ("Conv", [(0, 2, 5), (3, 2, 2)], {}), ("Identity", [(0,)], {}),
        ("GlobalAveragePool", [(2, 3, 4)], {}),
    ],
)  # fmt: skip
def test_scalars_vectors_and_empty_tensors(
    op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]
) -> None:
    operands = [floats(*s, seed=k) for k, s in enumerate(shapes)]
    model, feeds = node_model(op_type, [*operands], **attributes)
    round_trip(model, feeds)


@pytest.mark.parametrize("dims", [("N", 3), (None, 3), ("N", "C"), (None, None)])
def test_a_symbolic_size_meets_another(dims: Shape) -> None:
    """Two symbols may stand for one size, or for one and many: both are valid and neither may be refused."""
    model, feeds = node_model("Add", [floats(2, 3), floats(1, 3, seed=1)], shapes={0: dims, 1: ("M", 3)})
    _, exported, _ = round_trip(model, feeds)
    assert len(exported.graph.output[0].type.tensor_type.shape.dim) == 2


UNRANKED = ["Relu", "Softmax", "Flatten", "Transpose", "GlobalAveragePool", "Sigmoid", "Identity", "Cast", "Dropout"]


@pytest.mark.parametrize("op_type", UNRANKED)
def test_data_of_unknown_rank_is_carried(op_type: str) -> None:
    model, feeds = node_model(
        op_type, [floats(2, 3, 4)], **({"to": onnx.TensorProto.DOUBLE} if op_type == "Cast" else {})
    )
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.ClearField("shape")
    graph = import_model(model)
    assert isinstance(the_op(graph).kind, Node)
    np.testing.assert_array_equal(run_model(export_model(graph), feeds)["y0"], run_model(model, feeds)["y0"])


def test_a_declared_output_type_outlives_data_of_unknown_rank() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "of.others" : 1]>
        net (float[2,3] x) => (float16[2,K] y) { a = of.others.Magic(x) y = Cast <to = 10> (a) }""")
    model.graph.value_info.append(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, None))
    graph, exported, _ = round_trip(model)
    assert graph.outputs[0].type.dims == (2, "K")
    assert exported.graph.output[0] == model.graph.output[0]


# ------------------------------------------------------------------------------------------- malformed attributes


BAD_NODES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"pads": [0]}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"strides": [0]}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"strides": [0], "auto_pad": "SAME_UPPER"}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"dilations": [-1]}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"strides": 2}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"strides": ["a"]}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"group": 0}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"group": -1}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2)], {"group": 1.5}),
    ("Conv", [floats(1, 2, 5), floats(3, 3, 2)], {}),
    ("Conv", [floats(1, 2, 5), None], {}),
    ("Conv", [floats(1, 2, 5)], {}),
    ("Conv", [floats(1, 2, 5), floats(3, 2, 2), floats(4)], {}),
    ("MaxPool", [floats(1, 2, 5)], {}),
    ("MaxPool", [floats(1, 2, 5)], {"kernel_shape": [0]}),
    ("MaxPool", [floats(1, 2, 5)], {"kernel_shape": [2, 2]}),
    ("MaxPool", [floats(1, 2, 5)], {"kernel_shape": "no"}),
    ("AveragePool", [floats(1, 2, 5)], {"kernel_shape": [1.5]}),
    ("Gemm", [floats(2, 3), floats(4, 5)], {}),
    ("MatMul", [floats(2, 3), floats(4, 5)], {}),
    ("Add", [floats(2, 3), floats(4)], {}),
    ("Concat", [floats(2, 3), floats(2, 3)], {"axis": 2}),
    ("Concat", [floats(2, 3), floats(3, 3)], {"axis": 1}),
    ("Concat", [floats(2, 3)], {}),
    ("Transpose", [floats(2, 3)], {"perm": [0, 0]}),
    ("Transpose", [floats(2, 3)], {"perm": [0, 5]}),
    ("Transpose", [floats(2, 3)], {"perm": "ab"}),
    ("Flatten", [floats(2, 3)], {"axis": 5}),
    ("Softmax", [floats(2, 3)], {"axis": 2}),
    ("BatchNormalization", [floats(2, 3, 4), floats(2), floats(3), floats(3), floats(3)], {}),
    ("Cast", [floats(2, 3)], {}),
    ("LeakyRelu", [floats(2)], {"alpha": "x"}),
    ("Relu", [], {}),
    ("Relu", [None], {}),
]


@pytest.mark.parametrize(
    ("op_type", "operands", "attributes"), BAD_NODES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_malformed_nodes_are_refused_by_name(
    op_type: str, operands: list[np.ndarray | None], attributes: dict[str, Any]
) -> None:
    names = ["" if a is None else f"i{k}" for k, a in enumerate(operands)]
    node = helper.make_node(op_type, names, ["y"], "here", **attributes)
    inputs = [helper.make_tensor_value_info(f"i{k}", onnx.TensorProto.FLOAT, a.shape)
              for k, a in enumerate(operands) if a is not None]  # fmt: skip
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "net", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(InputError, match=f"'here'.*{op_type}|{op_type}.*here") as caught:
        import_model(model)
    assert "\n" not in str(caught.value)

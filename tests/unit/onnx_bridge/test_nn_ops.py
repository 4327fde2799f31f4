"""One node of each op, at the opsets that changed it: our interpreter and our export against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, apply, const
from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.parser import parse_graph
from amctc.schema import OpKind
from amctc.text import print_graph
from amctc.types import F32, Array, TensorType
from amctc.verify import verify

Runner = Callable[[onnx.ModelProto, Mapping[str, Array]], dict[str, Array]]


@pytest.fixture(scope="module")
def runtime() -> Runner:
    """``runtime(model, feeds)``: the outputs by name as ONNX Runtime computes them, optimisations off."""

    def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


RNG = np.random.default_rng(0)
X = (RNG.standard_normal((2, 4, 5, 6)) * 2).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.125)
ROWS = RNG.standard_normal((3, 8)).astype(np.float32)
LARGE = 9223372036854775807


def i64(*values: int) -> Array:
    return np.asarray(values, np.int64)


def f32(*values: float) -> Array:
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Case:
    """A node: fed arrays and constants by operand (``None``: absent), attributes, the kind it must become.

    ``units``: how many float32 roundings of the larger of 1 and the result may lie between us and ONNX Runtime.
    """

    op: str
    opset: int
    operands: Sequence[Array | None]
    kind: type[OpKind]
    constants: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    units: float = 0
    symbolic: bool = False

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-" + "-".join(f"{k}={v}" for k, v in self.attributes.items())

    def model(self) -> onnx.ModelProto:
        names = ["" if a is None else f"i{k}" for k, a in enumerate(self.operands)]
        node = helper.make_node(self.op, names, [f"y{k}" for k in range(self.outputs)], "node", **self.attributes)
        declared, constants = [], []
        for k, array in enumerate(self.operands):
            if array is None:
                continue
            if k in self.constants:
                constants.append(numpy_helper.from_array(array, names[k]))
                continue
            shape = ["N", *array.shape[1:]] if self.symbolic and k == 0 else array.shape
            declared.append(
                helper.make_tensor_value_info(names[k], helper.np_dtype_to_tensor_dtype(array.dtype), shape)
            )
        results = [onnx.ValueInfoProto(name=f"y{k}") for k in range(self.outputs)]
        graph = helper.make_graph([node], "one", declared, results, constants)
        ir_version = max(8, helper.find_min_ir_version_for([helper.make_opsetid("", self.opset)]))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)
        return onnx.shape_inference.infer_shapes(model)

    def feeds(self) -> dict[str, Array]:
        fed = {f"i{k}": a for k, a in enumerate(self.operands) if a is not None and k not in self.constants}
        return {n: np.array(a, order="C") for n, a in fed.items()}


def unary(op: str, opset: int, kind: type[OpKind], x: Array = X, **attributes: Any) -> Case:
    return Case(op, opset, [x], kind, attributes=attributes, units=8)


def resize(opset: int, x: Array, *, scales: Array | None = None, sizes: Array | None = None, **attributes: Any) -> Case:
    operands = [x, None, scales, sizes] if sizes is not None else [x, None, scales]
    if opset == 11:
        operands[1] = f32()
        operands[2] = f32() if scales is None else scales
    units = 16 if attributes.get("mode") == "linear" else 0
    return Case("Resize", opset, operands, nn.Resize, (1, 2, 3), attributes, units=units)


ACTIVATIONS = [
    *(unary("HardSigmoid", v, nn.HardSigmoid, alpha=0.3, beta=0.4) for v in (7, 13, 22)),
    unary("HardSwish", 14, nn.HardSwish),
    *(unary("Elu", v, nn.Elu, alpha=1.5) for v in (7, 17)),
    *(unary("Gelu", 20, nn.Gelu, approximate=a) for a in ("none", "tanh")),
    unary("Mish", 18, nn.Mish),
    *(unary("Softplus", v, nn.Softplus) for v in (7, 22)),
    unary("Swish", 24, nn.Silu),
    *(Case("PRelu", v, [X, RNG.standard_normal(s).astype(np.float32)], nn.PRelu, (1,))
      for v in (7, 9, 16) for s in ((4, 1, 1), (1,), (4, 5, 6), (1, 4, 1, 1))),
    *(unary(op, v, getattr(nn, op), POSITIVE) for op, v in (("Sqrt", 7), ("Sqrt", 13), ("Reciprocal", 13))),
    *(unary(op, v, getattr(nn, op)) for op, v in (("Exp", 7), ("Erf", 9), ("Erf", 13), ("Neg", 7), ("Abs", 13))),
    *(Case("Pow", v, [POSITIVE, f32(e).reshape(shape)], nn.Pow, (1,), units=64)
      for v in (7, 12, 15) for e in (2.0, 3.0, 0.5, -1.5) for shape in ((), (1, 1))),
    Case("Pow", 13, [X, i64(2)], nn.Pow, (1,), units=4),  # an integer exponent, since opset 12
    *(Case(op, v, [X, X[::-1, :, :1].copy()], getattr(nn, op)) for op in ("Min", "Max") for v in (8, 12, 13)),
    Case("Max", 13, [X], nn.Identity),
]  # fmt: skip

NORMALIZATIONS = [
    *(unary("LogSoftmax", v, nn.LogSoftmax, axis=a) for v, a in ((11, 3), (11, -1), (13, 1), (17, -1))),
    *(Case("LayerNormalization", 17, [X, *p], nn.LayerNorm, (1, 2), {"axis": a, "epsilon": 1e-3}, units=32)
      for a, p in ((-1, (X[0, 0, 0], X[0, 0, 1])), (2, (X[0, 0], X[0, 1])), (3, (X[0, 0, 0],)))),
    *(Case("InstanceNormalization", v, [X, f32(1, 2, -1, 0.5), f32(0, 1, 2, 3)], nn.InstanceNorm, (1, 2),
           {"epsilon": 1e-2}, units=32) for v in (7, 17)),
    *(Case("GroupNormalization", v, [X, *(p[: 4 if v == 21 else g] for p in (f32(1, 2, -1, 0.5), f32(0, 1, 2, 3)))],
           nn.GroupNorm, (1, 2), {"num_groups": g}, units=32, symbolic=True)
      for v in (18, 21) for g in (1, 2, 4)),
]  # fmt: skip

REDUCTIONS = [
    *(Case(op, v, [X], getattr(nn, op), attributes={"axes": axes, "keepdims": keep}, units=16)
      for op in ("ReduceMean", "ReduceSum", "ReduceMax") for v in (7, 11)
      for axes in ([1], [-1, 2]) for keep in (0, 1)),
    *(Case(op, 18, [X, i64(*axes)], getattr(nn, op), (1,), {"keepdims": keep}, units=16)
      for op in ("ReduceMean", "ReduceSum", "ReduceMax") for axes in ((0,), (3, -3)) for keep in (0, 1)),
    *(Case(op, 13, [X], getattr(nn, op), units=32) for op in ("ReduceMean", "ReduceSum", "ReduceMax")),  # all axes
    Case("ReduceSum", 13, [X], nn.Identity, attributes={"noop_with_empty_axes": 1}),
    *(Case("GlobalMaxPool", v, [x], nn.GlobalMaxPool) for v in (7, 22) for x in (X, X[:, :, 0])),
]  # fmt: skip

SELECTIONS = [
    *(Case("Split", v, [X], nn.Split, attributes={"axis": 3}, outputs=3, symbolic=True) for v in (7, 11, 13)),
    *(Case("Split", v, [X], nn.Split, attributes={"axis": 2, "split": [1, 4]}, outputs=2) for v in (7, 11)),
    Case("Split", 13, [X, i64(2, 0, 2)], nn.Split, (1,), {"axis": -3}, outputs=3),
    Case("Split", 18, [X], nn.Split, attributes={"axis": 2, "num_outputs": 3}, outputs=3),  # 2, 2 and 1
    Case("Slice", 9, [X], nn.Slice, attributes={"starts": [0, -3], "ends": [9, LARGE], "axes": [1, 3]}),
    Case("Slice", 9, [X], nn.Slice, attributes={"starts": [1, 1], "ends": [2, -1]}),
    *(Case("Slice", v, [X, i64(*s), i64(*e), i64(*a), i64(*t)], nn.Slice, (1, 2, 3, 4), symbolic=v == 13)
      for v in (10, 11, 13)
      for s, e, a, t in (((1, 0), (4, LARGE), (2, -1), (1, 2)), ((-1,), (-LARGE,), (3,), (-1,)),
                         ((LARGE, 3), (0, -LARGE), (3, 2), (-2, -1)), ((-100,), (100,), (1,), (3,)),
                         ((3,), (1,), (1,), (1,)), ((0,), (LARGE,), (0,), (1,)))),
    Case("Slice", 13, [X.astype(np.int32), i64(1), i64(3)], nn.Slice, (1, 2)),
    *(Case("Gather", v, [X, index], nn.Gather, constants, {"axis": a})
      for v in (7, 11, 13) for index, a in ((i64(1), 0), (i64(0, 3), 1), (np.asarray([[0, 4], [2, 2]], np.int32), 2))
      for constants in ((), (1,))),
    Case("Gather", 13, [X, np.asarray(-1)], nn.Gather, (1,), {"axis": -1}),
    Case("Gather", 13, [i64(7, 8, 9), i64(-1, 0)], nn.Gather, (1,)),
    *(Case("Where", v, [X[:1] > 0, X, X[0, :1] * 2], nn.Where) for v in (9, 16)),
    Case("Where", 16, [X > 0, X.astype(np.int64), i64(-1)], nn.Where),
    *(Case("Pad", 7, [X], nn.Pad, attributes={"pads": [0, 0, 1, 2, 0, 0, 1, 0], "mode": m, "value": 1.5})
      for m in ("constant", "reflect", "edge")),
    *(Case("Pad", v, [X, i64(0, 0, 1, 2, 0, 0, 3, 0), f32(-1.5).reshape(())], nn.Pad, (1, 2), {"mode": m},
           symbolic=True) for v in (11, 13, 18) for m in ("constant", "reflect", "edge")),
    Case("Pad", 13, [X, i64(0, -1, 1, -2, 0, 0, -1, 3)], nn.Pad, (1,)),
    Case("Pad", 18, [X, i64(1, 2, 3, 0), None, i64(-1, 1)], nn.Pad, (1, 3)),
    Case("Pad", 13, [i64(1, 2), i64(1, 1), np.asarray(7)], nn.Pad, (1, 2)),
]  # fmt: skip

ONES = X[:1, :, :1].copy()

LAYOUTS = [
    *(Case("Squeeze", v, [ONES], nn.Squeeze, attributes={"axes": a}) for v, a in ((7, [0, 2]), (11, [-2]))),
    Case("Squeeze", 13, [ONES, i64(-4, 2)], nn.Squeeze, (1,)),
    Case("Squeeze", 13, [ONES], nn.Squeeze),
    Case("Squeeze", 13, [X], nn.Identity),
    *(Case("Unsqueeze", v, [ROWS], nn.Unsqueeze, attributes={"axes": a}) for v, a in ((7, [0, 3]), (11, [-1, 1]))),
    Case("Unsqueeze", 13, [ROWS, i64(1, -1)], nn.Unsqueeze, (1,), symbolic=True),
    *(Case("Expand", v, [ONES, i64(*s)], nn.Expand, (1,)) for v in (8, 13)
      for s in ((3, 4, 5, 6), (2, 1, 1, 1, 6), (5, 1), (1,))),
]  # fmt: skip

IMAGE = X[:1, :2]
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")

RESIZES = [
    *(resize(v, IMAGE, sizes=i64(1, 2, h, w), mode="nearest", coordinate_transformation_mode=c, nearest_mode=n)
      for v in (11, 13) for h, w in ((10, 3), (1, 12)) for c in COORDINATES for n in NEAREST),
    *(resize(18, IMAGE, scales=f32(1, 1, a, b), mode="nearest", coordinate_transformation_mode=c, nearest_mode=n)
      for a, b in ((2, 3), (0.6, 0.5), (1.5, 2.6)) for c in COORDINATES for n in NEAREST),
    *(resize(v, IMAGE, sizes=i64(1, 2, 7, 4), mode="linear", coordinate_transformation_mode=c)
      for v in (11, 13, 19) for c in COORDINATES),
    *(resize(v, IMAGE, scales=f32(1, 1, 2, 0.6), mode="linear", coordinate_transformation_mode=c)
      for v in (11, 19) for c in COORDINATES),
    Case("Resize", 18, [X, None, None, i64(3, 9)], nn.Resize, (3,), {"axes": [-1, 2]}, symbolic=True),
    Case("Resize", 13, [X, None, f32(1, 1, 2, 2)], nn.Resize, (2,), symbolic=True),
    Case("Resize", 13, [X, None, f32(1, 1, 1, 1)], nn.Identity, (2,)),
    *(Case("Resize", 10, [X, f32(1, 1, 2, 3)], nn.Resize, (1,), {"mode": m}, units=16) for m in ("nearest", "linear")),
    *(Case("Resize", 10, [X, f32(1, 1, a, b)], nn.Resize, (1,)) for a, b in ((0.5, 1), (1, 0.3), (0.6, 0.7))),
    Case("Upsample", 7, [X], nn.Resize, attributes={"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}),
    Case("Upsample", 9, [X, f32(1, 1, 2, 1.5)], nn.Resize, (1,), {"mode": "linear"}, units=16),
    resize(13, (X * 20).astype(np.int8)[:1], scales=f32(1, 1, 2, 2), mode="nearest"),
]  # fmt: skip


def kinds(graph: Graph) -> list[type[OpKind]]:
    return [type(op.kind) for op in graph.ops if op.kind.op_name != "const"]


def check_close(expected: Mapping[str, Array], found: Mapping[str, Array], units: float) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        allowed = units * 2.0**-23 * np.maximum(1, np.abs(array.astype(np.float64)))
        assert (np.abs(found[name].astype(np.float64) - array) <= allowed).all()


@pytest.mark.parametrize("case", [*ACTIVATIONS, *NORMALIZATIONS, *REDUCTIONS, *SELECTIONS, *LAYOUTS, *RESIZES], ids=str)
def test_node(case: Case, runtime: Runner) -> None:
    model, feeds = case.model(), case.feeds()
    expected = runtime(model, feeds)
    graph = import_model(model)
    assert kinds(graph) == [case.kind]
    verify(graph, deep=True)
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
    check_close(expected, evaluate(graph, feeds, WHOLE_FLOAT), case.units)
    exported = export_model(graph)
    onnx.checker.check_model(exported, full_check=True)
    check_close(expected, runtime(exported, feeds), case.units)


def test_the_first_resize_may_grow_and_shrink(runtime: Runner) -> None:
    """Two roundings, so two ops."""
    case = Case("Resize", 10, [X, f32(1, 1, 2, 0.4)], nn.Resize, (1,))
    graph = import_model(case.model())
    assert [op.kind.rounding for op in graph.ops if isinstance(op.kind, nn.Resize)] == ["floor", "ceil"]
    check_close(runtime(case.model(), case.feeds()), evaluate(graph, case.feeds(), WHOLE_FLOAT), 0)


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 24])
@pytest.mark.parametrize(
    "kind", [nn.Gelu(), nn.Gelu(True), nn.Silu(), nn.Mish(), nn.GroupNorm(2), nn.ReduceMean((1, -1), False)], ids=str
)
def test_export_at_newer_opsets(kind: OpKind, opset: int, runtime: Runner) -> None:
    """What an opset has no op for goes out as its formula; what it has comes back as the same op."""
    x = GraphInput("x", TensorType(("N", 4, 5, 6), F32))
    parameters = [const(f32(1, 2, -1, 0.5)), const(f32(0, 1, 2, 3))] if isinstance(kind, nn.GroupNorm) else []
    graph = Graph((x,), (apply(kind, x, *parameters),), ("y",))
    exported = export_model(graph, opset=opset)
    onnx.checker.check_model(exported, full_check=True)
    native = {"Gelu": 20, "Silu": 24, "Mish": 18, "GroupNorm": 21, "ReduceMean": 1}[type(kind).__name__]
    assert (kinds(import_model(exported)) == [type(kind)]) == (opset >= native)
    expected = evaluate(graph, {"x": X}, WHOLE_FLOAT)
    check_close(expected, runtime(exported, {"x": X}), 32)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize(
    "case",
    [
        unary("HardSwish", 14, nn.HardSwish), unary("Sqrt", 13, nn.Sqrt, POSITIVE), unary("Exp", 13, nn.Exp),
        Case("ReduceMean", 13, [X], nn.ReduceMean, attributes={"axes": [2, 3]}, units=8),
        Case("Pow", 13, [POSITIVE, np.asarray(0.5, np.float32)], nn.Pow, (1,), units=8),
        Case("PRelu", 13, [X, X[0]], nn.PRelu, (1,)),
    ],
    ids=str,
)  # fmt: skip
def test_other_precisions(case: Case, dtype: type, runtime: Runner) -> None:
    operands = [a if a is None or a.dtype != np.float32 else a.astype(dtype) for a in case.operands]
    other = Case(case.op, case.opset, operands, case.kind, case.constants, case.attributes)
    graph = import_model(other.model())
    assert kinds(graph) == [case.kind]
    units = case.units * (2.0**13 if dtype == np.float16 else 2.0**-29) + (2.0**13 if dtype == np.float16 else 0)
    found = evaluate(graph, other.feeds(), WHOLE_FLOAT)
    assert found["y0"].dtype == dtype
    try:
        expected = runtime(other.model(), other.feeds())
    except Exception as error:
        pytest.skip(f"ONNX Runtime: {str(error)[:60]}")
    check_close(expected, found, units)
    check_close(expected, runtime(export_model(graph), other.feeds()), units)


CARRIED = [
    Case("Slice", 13, [X, i64(1), i64(3)], Node, (1,)),  # a computed end
    Case("Pad", 13, [X, i64(0, 0, 1, 1, 0, 0, 1, 1)], Node),
    Case("Pad", 19, [X, i64(0, 0, 1, 1, 0, 0, 1, 1)], Node, (1,), {"mode": "wrap"}),
    Case("Pad", 13, [X, i64(0, 0, 0, 1, 0, 0, 0, 0), f32(1).reshape(())], Node, (1,)),
    Case("Expand", 13, [ONES, i64(2, 4, 5, 6)], Node),
    Case("Split", 13, [X, i64(1, 3)], Node, (), {"axis": 1}, outputs=2),
    Case("Squeeze", 13, [ONES, i64(0)], Node),
    Case("Squeeze", 13, [ONES], Node, symbolic=True),  # whether the batch is 1 is not known
    Case("ReduceMean", 18, [X, i64(1)], Node),
    Case("ReduceSum", 13, [X.astype(np.int64), i64(1)], Node, (1,)),
    Case("Resize", 13, [X, None, f32(1, 1, 2, 2)], Node, (2,), {"mode": "cubic"}, units=64),
    Case("Resize", 13, [X, f32(0, 0, 0, 0, 1, 1, 0.5, 0.5), None, i64(2, 4, 3, 3)], Node, (1, 3),
         {"coordinate_transformation_mode": "tf_crop_and_resize"}),
    Case("Resize", 18, [X, None, f32(1, 1, 0.5, 0.5)], Node, (2,), {"mode": "linear", "antialias": 1}),
    Case("Resize", 13, [X, None, f32(1, 1, 2, 2)], Node),  # computed scales
    Case("Resize", 10, [X, f32(1, 1, 2, 2)], Node, (), {"mode": "linear"}, units=16),  # computed scales
    Case("Upsample", 9, [X, f32(1, 1, 2, 2)], Node),
    Case("LogSoftmax", 11, [X], Node, attributes={"axis": 1}),  # over all axes from there on
    Case("Swish", 24, [X], Node, attributes={"alpha": 0.5}, units=8),
    Case("Pow", 13, [POSITIVE, X], Node, units=256),
    Case("Min", 13, [X, X * 2, X * 3], Node),
    Case("Abs", 13, [X.astype(np.int32)], Node),
    Case("LayerNormalization", 17, [X, X[0, 0, 0]], Node, outputs=3),  # mean and deviation too
    Case("Shape", 13, [X], Node),
]  # fmt: skip


@pytest.mark.parametrize("case", CARRIED, ids=str)
def test_what_stays_carried(case: Case, runtime: Runner) -> None:
    model, feeds = case.model(), case.feeds()
    graph = import_model(model)
    assert Node in kinds(graph)
    expected = runtime(model, feeds)
    check_close(expected, evaluate(graph, feeds, WHOLE_FLOAT), case.units)
    check_close(expected, runtime(export_model(graph), feeds), case.units)

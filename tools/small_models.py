"""Small valid models of many forms, with samples and side files: what is damaged to find out how damage is met."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

F, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG_SEED = 20


def _model(
    nodes: Sequence[NodeProto], weights: dict[str, np.ndarray], shape: Sequence[int | str] = ("N", 2, 6, 6),
    opset: int = 17, functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:  # fmt: skip
    """A model from ``x`` to ``y``; what it computes in between is inferred."""
    graph = helper.make_graph(
        list(nodes), "small", [helper.make_tensor_value_info("x", F, list(shape))],
        [helper.make_tensor_value_info("y", F, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    domains = [
        helper.make_opsetid("", opset),
        *({f.domain: helper.make_opsetid(f.domain, 1) for f in functions}.values()),
    ]
    return helper.make_model(graph, opset_imports=domains, ir_version=8, functions=list(functions))


def _weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(RNG_SEED).standard_normal(shape) / 4).astype(np.float32)


def convolutions() -> onnx.ModelProto:
    """Conv, batch normalisation, Relu, pools, Flatten, Gemm."""
    node = helper.make_node
    channels = {name: np.abs(_weights(4)) + np.float32(0.1) for name in ("gamma", "beta", "mean", "var")}
    return _model(
        [node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
         node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], "norm"),
         node("Relu", ["n"], ["r"], "relu"),
         node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
         node("AveragePool", ["p"], ["a"], "average", kernel_shape=[3, 3]),
         node("Flatten", ["a"], ["f"], "flat"),
         node("Gemm", ["f", "v", "d"], ["y"], "head", transB=1)],
        {"w": _weights(4, 2, 3, 3), "b": _weights(4), **channels, "v": _weights(3, 4), "d": _weights(3)},
    )  # fmt: skip


def convolutions_of_images() -> onnx.ModelProto:
    """One convolution of images of three channels."""
    return _model([helper.make_node("Conv", ["x", "w"], ["y"], "conv")], {"w": _weights(2, 3, 3, 3)}, ("N", 3, 8, 8))


def shapes() -> onnx.ModelProto:
    """Reshape, Transpose, Slice, Split, Pad, Resize, Concat, Gather on computed shapes."""
    node = helper.make_node
    ints = {
        "size": [0, -1],
        "pads": [0, 1, 0, 1],
        "starts": [0],
        "ends": [4],
        "axes": [1],
        "parts": [36, 36],
        "zero": [0],
    }
    return _model(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]),
         node("Concat", ["n", "minus"], ["t"], axis=0), node("Reshape", ["x", "t"], ["r"]), node("Split", ["r",
             "parts"], ["a", "b"], axis=1),
         node("Pad", ["a", "pads"], ["p"]), node("Slice", ["p", "starts", "ends", "axes"], ["q"]),
         node("Slice", ["b", "starts", "ends", "axes"], ["k"]), node("Add", ["q", "k"], ["z"]),
         node("Transpose", ["z"], ["u"], perm=[1, 0]), node("Expand", ["u", "one"], ["e"]),
         node("Tile", ["e", "twice"], ["y"])],
        {**{k: np.array(v, np.int64) for k, v in ints.items()}, "minus": np.array([-1], np.int64),
         "one": np.array([1, 1], np.int64), "twice": np.array([1, 2], np.int64)},
    )  # fmt: skip


def branches() -> onnx.ModelProto:
    """If with captured values, Loop, Scan."""
    node, info = helper.make_node, helper.make_tensor_value_info
    then = helper.make_graph([node("Relu", ["h"], ["t"])], "then", [], [info("t", F, None)])
    other = helper.make_graph([node("Neg", ["h"], ["o"])], "else", [], [info("o", F, None)])
    body = helper.make_graph(
        [node("Identity", ["go"], ["going"]), node("Mul", ["state", "half"], ["next"])], "body",
        [info("i", INT64, []), info("go", BOOL, []), info("state", F, None)],
        [info("going", BOOL, []), info("next", F, None)],
    )  # fmt: skip
    return _model(
        [node("Add", ["x", "w"], ["h"]), node("If", ["flag"], ["i1"], "if", then_branch=then, else_branch=other),
         node("Loop", ["trips", "flag", "i1"], ["y"], "loop", body=body)],
        {"w": _weights(2, 1, 1), "flag": np.array(True), "half": np.float32(0.5), "trips": np.array(3, np.int64)},
    )  # fmt: skip


def functions() -> onnx.ModelProto:
    """Local functions, one calling the other."""
    node, ids = helper.make_node, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    twice = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], ids)
    calls = [node("Twice", ["a"], ["b"], domain="own"), node("Twice", ["b"], ["c"], domain="own")]
    four = helper.make_function("own", "Four", ["a"], ["c"], calls, ids)
    return _model([node("Four", ["x"], ["h"], domain="own"), node("Relu", ["h"], ["y"])], {}, functions=[twice, four])


def quantized() -> onnx.ModelProto:
    """A QDQ model with per-channel weights."""
    node = helper.make_node
    weights = {
        "w": np.random.default_rng(RNG_SEED).integers(-127, 128, (4, 2, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8), "s": np.float32(0.05), "z": np.int8(3),
    }  # fmt: skip
    return _model(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
         node("DequantizeLinear", ["w", "ws", "wz"], ["f"], axis=0), node("Conv", ["d", "f"], ["c"], "conv"),
         node("QuantizeLinear", ["c", "s", "z"], ["r"]), node("DequantizeLinear", ["r", "s", "z"], ["y"])],
        weights,
    )  # fmt: skip


def sequences() -> onnx.ModelProto:
    """Carried ops: LSTM, Einsum, TopK, a sequence, Constant nodes, a sparse initializer."""
    node = helper.make_node
    model = _model(
        [node("LSTM", ["x", "w", "r"], ["h"], "lstm", hidden_size=3), node("Constant", [], ["k"], value_ints=[0]),
         node("Squeeze", ["h", "one"], ["g"]), node("Einsum", ["g", "e"], ["m"], equation="tbh,hk->tbk"),
         node("SequenceConstruct", ["m", "m"], ["l"]), node("ConcatFromSequence", ["l"], ["c"], axis=0),
         node("Add", ["c", "sparse"], ["y"])],
        {"w": _weights(1, 12, 4), "r": _weights(1, 12, 3), "one": np.array([1], np.int64), "e": _weights(3, 3)},
        shape=[2, "N", 4],
    )  # fmt: skip
    values = numpy_helper.from_array(np.array([1.5], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1], np.int64), "at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    return model


def old() -> onnx.ModelProto:
    """Forms of opset 6: broadcasting by attributes, Upsample's relatives, Clip and Pad with attributes."""
    node = helper.make_node
    model = _model(
        [node("Add", ["x", "w"], ["a"], axis=1, broadcast=1), node("Clip", ["a"], ["c"], min=0.0, max=6.0),
         node("Pad", ["c"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1]), node("PRelu", ["p", "slope"], ["r"]),
         node("BatchNormalization", ["r", "w", "w", "w", "slope"], ["n"], is_test=1), node("Softmax", ["n"], ["y"])],
        {"w": _weights(2), "slope": np.abs(_weights(2))}, shape=[1, 2, 6, 6], opset=6,
    )  # fmt: skip
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, F, tensor.dims))
    return model


def external(location: str = "weights.bin") -> onnx.ModelProto:
    """A Gemm whose weight lies in the file ``location``, which holds :data:`EXTERNAL`."""
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": _weights(6, 4)})
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "96")):
        tensor.external_data.add(key=key, value=value)
    return model


EXTERNAL = _weights(6, 4).tobytes()

MODELS = {
    build.__name__: build for build in (convolutions, shapes, branches, functions, quantized, sequences, old, external)
}
"""Builders by name; each gives a fresh model that loads."""


def samples(count: int = 4) -> bytes:
    """An ``.npz`` of samples and labels for :func:`convolutions`."""
    buffer = io.BytesIO()
    x = np.random.default_rng(RNG_SEED).standard_normal((count, 2, 6, 6)).astype(np.float32)
    np.savez(buffer, x=x, y=np.arange(count) % 3)
    return buffer.getvalue()


def tokens(count: int = 4) -> bytes:
    """A ``.jsonl`` of token sequences."""
    return b"".join(json.dumps({"ids": list(range(1, 2 + n))}).encode() + b"\n" for n in range(count))


def token_model() -> onnx.ModelProto:
    """A model of the inputs ``ids`` and ``mask``, int64 and of any length."""
    node, info = helper.make_node, helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Gather", ["table", "ids"], ["e"]), node("Cast", ["mask"], ["m"], to=F),
         node("Unsqueeze", ["m", "last"], ["u"]), node("Mul", ["e", "u"], ["p"]), node("MatMul", ["p", "w"], ["y"],
             "product")], "tokens",
        [info("ids", INT64, ["N", "L"]), info("mask", INT64, ["N", "L"])], [info("y", F, None)],
        [numpy_helper.from_array(_weights(16, 4), "table"), numpy_helper.from_array(_weights(4, 4), "w"),
         numpy_helper.from_array(np.array([-1], np.int64), "last")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

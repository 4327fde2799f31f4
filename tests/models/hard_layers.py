"""Layers that quantizers of real tools got wrong, and models they let pass: one function per defect, named after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.models.odd_builder import Draw, Odd, model, node, tensor

LAYERS: dict[str, Callable[[], Odd]] = {}
REFUSED: dict[str, Callable[[], tuple[Odd, str]]] = {}


def layer(build: Callable[[], Odd]) -> Callable[[], Odd]:
    """Enter a model that is quantized well, under the name of its function."""
    LAYERS[build.__name__] = build
    return build


def refused(build: Callable[[], tuple[Odd, str]]) -> Callable[[], tuple[Odd, str]]:
    """Enter a model that is not compressed, with what the message names."""
    REFUSED[build.__name__] = build
    return build


@layer
def relu_between_symmetric_layers() -> Odd:
    """A range that reaches below zero does not stand for the relu. ORT#11660, ORT#9425, ORT#22580."""
    d = Draw(31)
    nodes = [
        node("Conv", ["x", "w1"], ["c"], name="a"),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "w2"], ["y"], name="b"),
    ]
    weights = [d.weight("w1", 8, 3, 1, 1), d.weight("w2", 4, 8, 1, 1)]
    return Odd(model(nodes, {"x": ["n", 3, 6, 6]}, {"y": None}, weights), d.batches(x=(3, 6, 6)), int8=2)


@layer
def relu_of_a_convolution_that_is_an_output() -> Odd:
    """The range after the relu is not that before it. ORT#21573; ONNX Runtime 1.31.1 cuts the output at 0 (4.6 dB)."""
    d = Draw(32)
    nodes = [
        node("Conv", ["x", "w1"], ["c"], name="a"),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "w2"], ["y"], name="b"),
    ]
    weights = [d.weight("w1", 8, 3, 1, 1), d.weight("w2", 4, 8, 1, 1)]
    return Odd(model(nodes, {"x": ["n", 3, 6, 6]}, {"y": None, "c": None}, weights), d.batches(x=(3, 6, 6)), int8=2)


@layer
def gemm_with_factors_and_a_bias_per_row() -> Odd:
    """beta counts in the bias, and C may be [M, 1]. ONNX Runtime: 7.1 dB, IndexError."""
    d = Draw(33)
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["a"], name="a", alpha=0.5, beta=3.0, transB=1),
        node("Gemm", ["a", "w2", "b2"], ["y"], name="b", beta=-2.0),
    ]  # fmt: skip
    weights = [d.weight("w1", 8, 6), d.weight("b1", 8), d.weight("w2", 8, 4), d.weight("b2", 1, 1)]
    return Odd(model(nodes, {"x": ["n", 6]}, {"y": None}, weights), d.batches(x=(6,)), int8=2)


@layer
def bias_past_int32() -> Odd:
    """In steps of a tiny weight the bias has more than 32 bits. ORT#22020, ORT#25278 (half the accuracy)."""
    d = Draw(34)
    nodes = [node("Conv", ["x", "w1", "b1"], ["y"], name="a")]
    weights = [tensor("w1", d.rng.standard_normal((4, 3, 1, 1)) * 1e-9), tensor("b1", [40.0, -3.0, 0.5, 7.0])]
    return Odd(model(nodes, {"x": ["n", 3, 4, 4]}, {"y": None}, weights), d.batches(x=(3, 4, 4)), int8=1)


@layer
def one_bias_and_weight_for_unlike_layers() -> Odd:
    """Two layers of one weight and bias whose inputs differ a thousandfold. ORT#7982 (81.5 to 56.6 mAP)."""
    d = Draw(35)
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], name="a"), node("Mul", ["x", "thousand"], ["m"]),
        node("Sigmoid", ["m"], ["s"]), node("Mul", ["s", "thousand"], ["t"]),
        node("Conv", ["t", "w", "b"], ["z"], name="b"),
    ]  # fmt: skip
    weights = [d.weight("w", 4, 4, 1, 1), d.weight("b", 4), tensor("thousand", 1000.0)]
    return Odd(model(nodes, {"x": ["n", 4, 4, 4]}, {"a": None, "z": None}, weights), d.batches(x=(4, 4, 4)), int8=2)


@layer
def channels_of_zeros_and_of_denormals() -> Odd:
    """A scale of zero, and one that underflows. coremltools#2853, neural-compressor#1427, mace#414, GPTQModel#1531."""
    d = Draw(36)
    w = d.rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    w[1], w[2] = 0.0, np.float32(1e-41)
    nodes = [node("Conv", ["x", "w", "b"], ["c"], name="a"), node("Conv", ["c", "w2"], ["y"], name="b")]
    weights = [tensor("w", w), tensor("b", [0.5, 0.0, 1.0, -1.0]), d.weight("w2", 4, 4, 1, 1)]
    return Odd(model(nodes, {"x": ["n", 3, 4, 4]}, {"y": None}, weights), d.batches(x=(3, 4, 4)), int8=2)


@layer
def output_channels_of_every_weight_layout() -> Odd:
    """Their axis is 0, 1 of each group, 1 or 0 of Gemm, the last of MatMul. ORT#19694, ORT#26456, ORT#28228."""
    d = Draw(37)
    sizes = (0.001, 0.01, 0.1, 1.0)
    up = d.rng.standard_normal((4, 2, 2, 2)) * np.reshape(sizes[:2], (1, 2, 1, 1)) * 100
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="conv"), node("ConvTranspose", ["x", "up"], ["b"], name="up", group=2),
        node("GlobalAveragePool", ["x"], ["g"]), node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w3"], ["c"], name="gemm"), node("Gemm", ["f", "w4"], ["e"], name="turned", transB=1),
        node("MatMul", ["f", "w5"], ["h"], name="product"),
    ]  # fmt: skip
    columns = d.rng.standard_normal((4, 4)) * np.asarray(sizes)
    weights = [
        tensor("w1", d.rng.standard_normal((4, 4, 1, 1)) * np.reshape(sizes, (4, 1, 1, 1))), tensor("up", up),
        tensor("w3", columns), tensor("w4", columns.T.copy()), tensor("w5", columns),
    ]  # fmt: skip
    outputs = dict.fromkeys("abceh")
    return Odd(model(nodes, {"x": ["n", 4, 5, 5]}, outputs, weights), d.batches(x=(4, 5, 5)), int8=5)


@layer
def layers_of_an_old_opset() -> Odd:
    """Quantizers need opset 10, with an axis 13. ONNX Runtime writes files it cannot load for opset 7 and 9."""
    d = Draw(38)
    parameters = [tensor(f"bn{i}", d.rng.uniform(0.5, 1.5, 4)) for i in range(4)]
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="a"),
        node("BatchNormalization", ["c", *(p.name for p in parameters)], ["n"]),
        node("Clip", ["n"], ["k"], min=0.0, max=6.0), node("Dropout", ["k"], ["o"]),
        node("Conv", ["o", "w2"], ["y"], name="b"),
    ]  # fmt: skip
    weights = [d.weight("w", 4, 3, 3, 3), d.weight("w2", 4, 4, 1, 1), *parameters]
    inputs = {"x": [1, 3, 6, 6], **{w.name: list(w.dims) for w in weights}}
    return Odd(model(nodes, inputs, {"y": None}, weights, opset=7, ir=3), d.batches(x=(3, 6, 6)), int8=2)


@layer
def padding_before_pools() -> Odd:
    """Zeros that a Pad added count, in a maximum and in an average."""
    d = Draw(39)
    pads = tensor("pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="a"), node("Pad", ["c", "pads"], ["p"]),
        node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2], strides=[2, 2]), node("Conv", ["m", "w2"], ["y"], name="b"),
        node("AveragePool", ["p"], ["v"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["v", "w2"], ["z"], name="c"),
    ]  # fmt: skip
    weights = [d.weight("w", 4, 3, 1, 1), d.weight("w2", 4, 4, 1, 1), pads]
    return Odd(model(nodes, {"x": ["n", 3, 6, 6]}, {"y": None, "z": None}, weights), d.batches(x=(3, 6, 6)), int8=4)


@layer
def clip_with_a_fed_bound_between_layers() -> Odd:
    """The bound stays. ONNX Runtime's quantizer drops the Clip (-13.7 dB)."""
    d = Draw(40)
    nodes = [
        node("Conv", ["x", "w1"], ["c"], name="a"), node("Clip", ["c", "", "top"], ["k"]),
        node("Conv", ["k", "w2"], ["y"], name="b"),
    ]  # fmt: skip
    built = model(
        nodes, {"x": ["n", 3, 4, 4], "top": []}, {"y": None}, [d.weight("w1", 6, 3, 1, 1), d.weight("w2", 4, 6, 1, 1)]
    )
    samples = [{**s, "top": np.asarray(0.5, np.float32)} for s in d.batches(x=(3, 4, 4))]
    return Odd(built, samples, int8=2)


@layer
def names_that_quantization_would_give() -> Odd:
    """Fresh names are fresh against all names. ORT#24705; KeyError 'W_quantized' in ONNX Runtime."""
    d = Draw(41)
    nodes = [
        node("Conv", ["x", "w"], ["x.quant"], name="same"), node("Relu", ["x.quant"], ["w.quant"], name="same"),
        node("Conv", ["w.quant", "w.scale"], ["w_quantized"], name="same"),
    ]  # fmt: skip
    weights = [d.weight("w", 4, 3, 1, 1), d.weight("w.scale", 4, 4, 1, 1)]
    return Odd(model(nodes, {"x": ["n", 3, 4, 4]}, {"w_quantized": None}, weights), d.batches(x=(3, 4, 4)), int8=2)


# ----------------------------------------------------------------------------------------------------------- refusals


def _one_layer(weight: np.ndarray, value: float = 1.0, **attributes: object) -> Odd:
    d = Draw(50)
    samples = [{"x": s["x"] * np.float32(value)} for s in d.batches(x=(3, 4, 4))]
    nodes = [node("Conv", ["x", "weight"], ["y"], name="layer", **attributes)]
    return Odd(model(nodes, {"x": ["n", 3, 4, 4]}, {"y": None}, [tensor("weight", weight)]), samples, int8=0)


@refused
def weight_that_is_not_a_number() -> tuple[Odd, str]:
    """AIMET#3520; ONNX Runtime: a bare AssertionError."""
    weight = np.ones((2, 3, 1, 1), np.float32)
    weight[1, 2] = np.nan
    return _one_layer(weight), "weight"


@refused
def weight_that_is_infinite() -> tuple[Odd, str]:
    """ONNX Runtime: garbage, and exit status 0."""
    weight = np.ones((2, 3, 1, 1), np.float32)
    weight[0, 1] = np.inf
    return _one_layer(weight), "weight"


@refused
def sample_that_is_not_a_number() -> tuple[Odd, str]:
    """ONNX Runtime: garbage, and exit status 0."""
    return _one_layer(np.ones((2, 3, 1, 1), np.float32), np.nan), "x"


@refused
def groups_that_do_not_divide() -> tuple[Odd, str]:
    """The standard's checker takes it."""
    return _one_layer(np.ones((4, 1, 1, 1), np.float32), group=2), "layer"


@refused
def initializer_given_twice() -> tuple[Odd, str]:
    """Which one is meant? ONNX' checker says it; some loaders take the last."""
    odd = _one_layer(np.ones((2, 3, 1, 1), np.float32))
    odd.model.graph.initializer.append(tensor("weight", np.zeros((2, 3, 1, 1))))
    return odd, "weight"


@refused
def contents_shorter_than_their_shape() -> tuple[Odd, str]:
    """Read as it is, it would be what lies behind it in memory."""
    odd = _one_layer(np.ones((2, 3, 1, 1), np.float32))
    odd.model.graph.initializer[0].dims[0] = 1 << 40
    return odd, "weight"


@refused
def node_that_nothing_feeds() -> tuple[Odd, str]:
    """onnxslim writes such models (OnnxSlim#21)."""
    odd = _one_layer(np.ones((2, 3, 1, 1), np.float32))
    odd.model.graph.node.append(onnx.helper.make_node("Relu", ["nowhere"], ["z"], name="lost"))
    odd.model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    return odd, "nowhere"

"""Networks to measure with, built by hand: random weights of the published shapes, nothing downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17

MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                (6, 320, 1, 1))  # fmt: skip
"""(expansion, channels, blocks, first stride), table 2 of Sandler et al. 2018."""

RESNET_50 = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""(bottleneck channels, blocks, first stride), table 1 of He et al. 2015; the stride is in the 3x3 (v1.5)."""


class NetworkBuilder:
    """Appends nodes to one chain of values. Weights keep the variance of what passes through (He et al. 2015b)."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node under a name of its own; returns the name of its output."""
        name = f"{op_type.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        return name

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        """An initializer; returns its name."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        """A convolution (bias included, as after folding batch normalisation) that keeps the size at stride 1."""
        inputs, outputs = channels
        shape = (outputs, inputs // group, kernel, kernel)
        spread = (2 / (inputs // group * kernel * kernel)) ** 0.5
        weight = (self._rng.standard_normal(shape) * spread).astype(np.float32)
        bias = (self._rng.standard_normal(outputs) * 0.05).astype(np.float32)
        return self.node("Conv", x, self.constant(weight), self.constant(bias), kernel_shape=[kernel] * 2,
                         strides=[stride] * 2, pads=[kernel // 2] * 4, group=group)  # fmt: skip

    def relu6(self, x: str) -> str:
        """min(max(x, 0), 6)."""
        bounds = (self.constant(np.float32(0)[...]), self.constant(np.float32(6)[...]))
        return self.node("Clip", x, *bounds)

    def classifier(self, x: str, channels: int, classes: int) -> str:
        """Mean over the image, then a dense layer."""
        weight = (self._rng.standard_normal((classes, channels)) / channels**0.5).astype(np.float32)
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.node("Gemm", flat, self.constant(weight), self.constant(np.zeros(classes, np.float32)), transB=1)

    def model(self, name: str, input_shape: list[int | str], output: str, shape: list[int | str]) -> onnx.ModelProto:
        """The finished model with input x and one output."""
        ends = [
            helper.make_tensor_value_info(end, TensorProto.FLOAT, dims)
            for end, dims in (("x", input_shape), (output, shape))
        ]
        graph = helper.make_graph(self._nodes, name, ends[:1], ends[1:], self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def mobilenet_v2(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """MobileNetV2 1.0 with random weights."""
    net = NetworkBuilder(seed)
    channels, x = 32, net.relu6(net.conv("x", (3, 32), 3, 2))
    for expansion, outputs, blocks, first_stride in MOBILENET_V2:
        for block in range(blocks):
            stride, hidden = first_stride if block == 0 else 1, channels * expansion
            y = x if expansion == 1 else net.relu6(net.conv(x, (channels, hidden), 1))
            y = net.relu6(net.conv(y, (hidden, hidden), 3, stride, group=hidden))
            y = net.conv(y, (hidden, outputs), 1)
            x = net.node("Add", x, y) if stride == 1 and channels == outputs else y
            channels = outputs
    x = net.relu6(net.conv(x, (channels, 1280), 1))
    return net.model("mobilenet_v2", ["N", 3, size, size], net.classifier(x, 1280, classes), ["N", classes])


def resnet_50(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """ResNet-50 v1.5 with random weights."""
    net = NetworkBuilder(seed)
    x = net.node("Relu", net.conv("x", (3, 64), 7, 2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, first_stride in RESNET_50:
        for block in range(blocks):
            stride, outputs = first_stride if block == 0 else 1, 4 * width
            y = net.node("Relu", net.conv(x, (channels, width), 1))
            y = net.node("Relu", net.conv(y, (width, width), 3, stride))
            y = net.conv(y, (width, outputs), 1)
            shortcut = x if channels == outputs else net.conv(x, (channels, outputs), 1, stride)
            x, channels = net.node("Relu", net.node("Add", y, shortcut)), outputs
    return net.model("resnet_50", ["N", 3, size, size], net.classifier(x, channels, classes), ["N", classes])


def block_chain(blocks: int, channels: int = 8, seed: int = 0) -> onnx.ModelProto:
    """A chain of ``blocks`` convolution + batch normalisation + ReLU: three nodes and five constants each."""
    net, x = NetworkBuilder(seed), "x"
    for _ in range(blocks):
        x = net.conv(x, (channels, channels), 1)
        moments = [net.constant(np.full(channels, v, np.float32)) for v in (1.0, 0.1, 0.05, 1.0)]
        x = net.node("Relu", net.node("BatchNormalization", x, *moments))
    return net.model("block_chain", [1, channels, 4, 4], x, [1, channels, 4, 4])

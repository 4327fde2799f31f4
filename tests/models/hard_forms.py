"""Models whose form or contents real tools got wrong: one function per defect, named after it."""

from __future__ import annotations

import numpy as np

from tests.models.hard_folds import Built, hard, image, norm, statistics
from tests.models.odd_builder import INT64, Draw, model, node, tensor


@hard
def same_padding_and_ceil_mode() -> Built:
    """SAME_UPPER puts the odd pixel at the end, also for a transposed convolution. ORT#9370, ORT#11927, onnx#2788."""
    d = Draw(15)
    nodes = [
        node("Conv", ["x", "w"], ["y0"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Conv", ["x", "w"], ["y1"], auto_pad="SAME_LOWER", strides=[2, 2]),
        node("ConvTranspose", ["x", "t"], ["y2"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("ConvTranspose", ["x", "t"], ["y3"], auto_pad="SAME_LOWER", strides=[2, 2]),
        node("MaxPool", ["x"], ["y4"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("AveragePool", ["x"], ["y5"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 0, 0]),
    ]  # fmt: skip
    weights = [d.weight("w", 2, 2, 2, 2), d.weight("t", 2, 2, 3, 3)]
    return model(nodes, {"x": [1, 2, 5, 5]}, {f"y{i}": None for i in range(6)}, weights), {"x": image(1, 2, 5, 5)}


@hard
def softmax_before_opset_13() -> Built:
    """Over all axes from the given one on, as if they were one."""
    nodes = [node("Softmax", ["x"], ["y"]), node("LogSoftmax", ["x"], ["z"], axis=2)]
    shape = [2, 3, 2, 2]
    return model(nodes, {"x": shape}, dict.fromkeys("yz", shape), [], opset=11), {"x": image(*shape)}


@hard
def zero_times_not_a_number() -> Built:
    """x·0 is no 0: not where x is NaN or infinite."""
    nodes = [node("Mul", ["x", "zero"], ["m"]), node("Add", ["m", "x"], ["y"])]
    built = model(nodes, {"x": [5]}, {"y": [5], "m": [5]}, [tensor("zero", 0.0)])
    return built, {"x": np.float32([1, np.nan, np.inf, -np.inf, 0])}


@hard
def integers_past_what_a_float_holds() -> Built:
    """Folded in their own type: 2^53 + 1 is no float64."""
    large = np.asarray([2**53 + 1, -(2**62) - 1])
    nodes = [node("Add", ["a", "one"], ["s"]), node("Sub", ["s", "x"], ["y"])]
    built = model(
        nodes, {"x": (INT64, [2])}, {"y": (INT64, [2])}, [tensor("a", large, np.int64), tensor("one", 1, np.int64)]
    )
    return built, {"x": np.asarray([1, 2])}


@hard
def empty_tensors() -> Built:
    """No element to fold, to pool or to join."""
    d = Draw(16)
    nodes = [
        node("Conv", ["x", "w"], ["c"]), norm("c", "n", "bn"), node("Relu", ["n"], ["y"]),
        node("Concat", ["x", "none"], ["z"], axis=1),
    ]  # fmt: skip
    weights = [d.weight("w", 3, 2, 1, 1), *statistics(d, "bn", 3), tensor("none", np.zeros((0, 0, 4, 4)))]
    return model(nodes, {"x": [0, 2, 4, 4]}, {"y": None, "z": None}, weights), {"x": image(0, 2, 4, 4)}


@hard
def names_that_are_none() -> Built:
    """Nodes of one name or none, tensors in every script, a value called as what a tool would make of another."""
    d = Draw(17)
    nodes = [
        node("Conv", ["特征 输入", "größe/w"], ["w.quant"]), node("Relu", ["w.quant"], ["w.quant.quant"], name="😀"),
        node("Conv", ["w.quant.quant", "größe/w"], ["y\n1"]),
    ]  # fmt: skip
    shape = [1, 2, 3, 3]
    return model(nodes, {"特征 输入": shape}, {"y\n1": shape}, [d.weight("größe/w", 2, 2, 1, 1)]), {
        "特征 输入": image(*shape)
    }

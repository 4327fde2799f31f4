"""Odd models on images: a generator, detectors, segmentation, layouts and borders."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import NodeProto, TensorProto

from tests.models.odd_builder import INT64, SAMPLES, Draw, Odd, model, node, odd, tensor


@odd
def gan_generator() -> Odd:
    """Transposed convolutions and batch normalisation up to an image."""
    d = Draw(3)
    nodes, weights, last, channels = [], [], "z", (8, 12, 6, 3)
    for i, (before, after) in enumerate(pairwise(channels)):
        pads, strides = ([0] * 4, [1, 1]) if i == 0 else ([1] * 4, [2, 2])
        nodes.append(node("ConvTranspose", [last, f"w{i}"], [f"c{i}"], name=f"up{i}", pads=pads, strides=strides))
        weights.append(d.weight(f"w{i}", before, after, 4, 4))
        last = f"c{i}"
        if i < 2:
            names = [f"{p}{i}" for p in ("scale", "bias", "mean", "var")]
            nodes += [node("BatchNormalization", [last, *names], [f"n{i}"]), node("Relu", [f"n{i}"], [f"r{i}"])]
            weights += [tensor(n, np.abs(d.rng.standard_normal(after)) + 0.5) for n in names]
            last = f"r{i}"
    nodes.append(node("Tanh", [last], ["y"]))
    return Odd(model(nodes, {"z": ["n", 8, 1, 1]}, {"y": ["n", 3, 16, 16]}, weights), d.batches(z=(8, 1, 1)), int8=3)


def _detector() -> tuple[Draw, list[NodeProto], list[TensorProto]]:
    d = Draw(4)
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="backbone", strides=[4, 4], pads=[1, 1, 1, 1]),
        node("LeakyRelu", ["c1"], ["l1"], alpha=0.1), node("Conv", ["l1", "w2", "b2"], ["c2"], name="head"),
        node("Transpose", ["c2"], ["t"], perm=[0, 2, 3, 1]), node("Reshape", ["t", "rows"], ["r"]),
        node("Split", ["r", "parts"], ["box", "logits"], axis=2), node("Sigmoid", ["logits"], ["scores"]),
        node("Transpose", ["scores"], ["by_class"], perm=[0, 2, 1]), node("Exp", ["box"], ["boxes"]),
        node("NonMaxSuppression", ["boxes", "by_class", "most", "iou", "least"], ["selected"]),
    ]  # fmt: skip
    weights = [
        d.weight("w1", 16, 3, 5, 5), d.weight("b1", 16), d.weight("w2", 7, 16, 1, 1), d.weight("b2", 7),
        tensor("rows", [1, -1, 7], np.int64), tensor("parts", [4, 3], np.int64), tensor("most", [10], np.int64),
        tensor("iou", [0.5]), tensor("least", [0.45]),
    ]  # fmt: skip
    return d, nodes, weights


@odd
def detector_with_nms() -> Odd:
    """Boxes picked inside the model; its first output is of integers."""
    d, nodes, weights = _detector()
    outputs = {"selected": (INT64, ["k", 3]), "scores": [1, 64, 3]}
    return Odd(model(nodes, {"x": [1, 3, 32, 32]}, outputs, weights), d.batches(x=(3, 32, 32)), int8=2)


@odd
def detector_with_a_layer_behind_nms() -> Odd:
    """The shape of what a layer reads depends on the numbers, and differs between the float and the integer model."""
    d, nodes, weights = _detector()
    nodes += [
        node("Gather", ["selected", "two"], ["which"], axis=1), node("Gather", ["boxes", "which"], ["g"], axis=1),
        node("Squeeze", ["g", "first"], ["kept"]), node("MatMul", ["kept", "w3"], ["embedded"], name="embed"),
    ]  # fmt: skip
    weights += [d.weight("w3", 4, 6), tensor("two", 2, np.int64), tensor("first", [0], np.int64)]
    outputs = {"embedded": None, "scores": [1, 64, 3]}
    built = model(nodes, {"x": [1, 3, 32, 32]}, outputs, weights)
    return Odd(built, d.batches(x=(3, 32, 32)), int8=3, picked=("embedded",))


@odd
def segmentation_with_resize() -> Odd:
    """Any height and width: the sizes of both upsamplings are computed from the input's shape."""
    d = Draw(5)
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="down", strides=[2, 2], pads=[1, 1, 1, 1]), node("Relu", ["c1"], ["r1"]),
        node("GlobalAveragePool", ["r1"], ["pool"]), node("Conv", ["pool", "w2"], ["p"], name="context"),
        node("Shape", ["r1"], ["s1"]), node("Slice", ["s1", "two", "four"], ["hw1"]),
        node("Concat", ["nc", "hw1"], ["to1"], axis=0),
        node("Resize", ["p", "", "", "to1"], ["wide"], mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Concat", ["r1", "wide"], ["both"], axis=1), node("Conv", ["both", "w3"], ["o"], name="classify"),
        node("Shape", ["x"], ["s"]), node("Slice", ["s", "two", "four"], ["hw"]),
        node("Concat", ["nc", "hw"], ["to"], axis=0),
        node("Resize", ["o", "", "", "to"], ["y"], mode="linear", coordinate_transformation_mode="align_corners"),
    ]  # fmt: skip
    weights = [
        d.weight("w1", 8, 3, 3, 3), d.weight("w2", 4, 8, 1, 1), d.weight("w3", 4, 12, 1, 1),
        tensor("two", [2], np.int64), tensor("four", [4], np.int64), tensor("nc", [1, 4], np.int64),
    ]  # fmt: skip
    built = model(nodes, {"x": [1, 3, "h", "w"]}, {"y": [1, 4, "h", "w"]}, weights, opset=13)
    return Odd(built, d.batches(x=(3, 16, 12)), int8=3)


@odd
def channel_shuffle() -> Odd:
    """ShuffleNet: half the channels go through, then both halves are interleaved by two reshapes."""
    d = Draw(6)
    nodes = [
        node("Split", ["x"], ["l", "r"], axis=1), node("Conv", ["r", "w1"], ["c1"], name="point"),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], name="depth", group=4, pads=[1, 1, 1, 1]),
        node("Concat", ["l", "c2"], ["cat"], axis=1), node("Reshape", ["cat", "split"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3, 4]), node("Reshape", ["t", "join"], ["m"]),
        node("Conv", ["m", "w3"], ["y"], name="mix", group=2),
    ]  # fmt: skip
    weights = [
        d.weight("w1", 4, 4, 1, 1), d.weight("w2", 4, 1, 3, 3), d.weight("w3", 6, 4, 1, 1),
        tensor("split", [-1, 2, 4, 6, 6], np.int64), tensor("join", [-1, 8, 6, 6], np.int64),
    ]  # fmt: skip
    return Odd(model(nodes, {"x": ["n", 8, 6, 6]}, {"y": ["n", 6, 6, 6]}, weights), d.batches(x=(8, 6, 6)), int8=3)


@odd
def nhwc_sandwich() -> Odd:
    """As converters from TensorFlow write it: a transpose on either side of every convolution."""
    d = Draw(7)
    to_nchw, to_nhwc = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
    nodes = [
        node("Transpose", ["x"], ["x1"], **to_nchw),
        node("Conv", ["x1", "w1", "b1"], ["c1"], name="first", pads=[0, 0, 1, 1], strides=[2, 2]),
        node("Transpose", ["c1"], ["t1"], **to_nhwc), node("Clip", ["t1", "low", "high"], ["r1"]),
        node("Transpose", ["r1"], ["t2"], **to_nchw),
        node("Conv", ["t2", "w2"], ["c2"], name="depth", group=8, pads=[1, 1, 1, 1]),
        node("Transpose", ["c2"], ["t3"], **to_nhwc), node("Clip", ["t3", "low", "high"], ["r2"]),
        node("ReduceMean", ["r2"], ["m"], axes=[1, 2], keepdims=0), node("MatMul", ["m", "w3"], ["f"], name="dense"),
        node("Add", ["f", "b3"], ["y"]),
    ]  # fmt: skip
    weights = [
        d.weight("w1", 8, 3, 3, 3), d.weight("b1", 8), d.weight("w2", 8, 1, 3, 3), d.weight("w3", 8, 5),
        d.weight("b3", 5), tensor("low", 0.0), tensor("high", 6.0),
    ]  # fmt: skip
    built = model(nodes, {"x": ["n", 12, 12, 3]}, {"y": ["n", 5]}, weights, opset=13, ir=7)
    return Odd(built, d.batches(x=(12, 12, 3)), int8=3)


@odd
def style_transfer() -> Odd:
    """Reflected borders and instance normalisation, on pixels from 0 to 255."""
    d = Draw(15)
    pads = tensor("border", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    nodes = [
        node("Pad", ["x", "border"], ["p1"], mode="reflect"), node("Conv", ["p1", "w1"], ["c1"], name="first"),
        node("InstanceNormalization", ["c1", "s", "b"], ["n1"]), node("Relu", ["n1"], ["r1"]),
        node("Pad", ["r1", "border"], ["p2"], mode="reflect"), node("Conv", ["p2", "w2"], ["y"], name="second"),
    ]  # fmt: skip
    weights = [d.weight("w1", 8, 3, 3, 3), d.weight("w2", 3, 8, 3, 3), d.weight("s", 8), d.weight("b", 8), pads]
    samples = [{"x": d.rng.uniform(0, 255, (1, 3, 9, 9)).astype(np.float32)} for _ in range(SAMPLES)]
    return Odd(model(nodes, {"x": ["n", 3, "h", "w"]}, {"y": ["n", 3, "h", "w"]}, weights, opset=11), samples, int8=2)


@odd
def tracker_with_computed_kernel() -> Odd:
    """SiamFC: the features of the template are the kernel that runs over those of the image."""
    d = Draw(14)
    nodes = [
        node("Conv", ["z", "w"], ["cz"], name="template"), node("Relu", ["cz"], ["k"]),
        node("Conv", ["x", "w"], ["cx"], name="image"), node("Relu", ["cx"], ["f"]),
        node("Conv", ["f", "k"], ["y"], name="match"),
    ]  # fmt: skip
    inputs = {"z": [1, 3, 6, 6], "x": [1, 3, 12, 12]}
    built = model(nodes, inputs, {"y": [1, 1, 7, 7]}, [d.weight("w", 4, 3, 3, 3)])
    samples = d.batches(z=(3, 6, 6), x=(3, 12, 12))
    return Odd(built, samples, int8=2, reasons={"match": "the weight is computed, not constant"})

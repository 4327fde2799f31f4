"""Odd models on sequences and records: recurrence, control flow, audio, tokens, strings."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.models.odd_builder import (
    BOOL,
    INT32,
    INT64,
    SAMPLES,
    STRING,
    Draw,
    F,
    Odd,
    declared,
    model,
    node,
    odd,
    tensor,
)


@odd
def lstm_and_if() -> Odd:
    """Audio: a convolution, an If on the length, a bidirectional LSTM."""
    d = Draw(1)
    long = helper.make_graph(
        [node("Slice", ["f", "zero", "four", "time"], ["cut"])], "long", [], [declared("cut", F, None)],
        [tensor("zero", [0], np.int64), tensor("four", [4], np.int64), tensor("time", [2], np.int64)],
    )  # fmt: skip
    short = helper.make_graph(
        [node("Mul", ["f", "half"], ["less"])], "short", [], [declared("less", F, None)], [tensor("half", 0.5)]
    )
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="front", pads=[1, 1]), node("Relu", ["c"], ["f"]),
        node("Shape", ["f"], ["shape"]), node("Gather", ["shape", "two"], ["length"]),
        node("Greater", ["length", "limit"], ["is_long"]),
        node("If", ["is_long"], ["g"], then_branch=long, else_branch=short),
        node("Transpose", ["g"], ["seq"], perm=[2, 0, 1]),
        node("LSTM", ["seq", "W", "R", "B"], ["", "h"], name="lstm", hidden_size=8, direction="bidirectional"),
        node("Transpose", ["h"], ["ht"], perm=[1, 0, 2]), node("Reshape", ["ht", "flat"], ["r"]),
        node("Gemm", ["r", "wo", "bo"], ["y"], name="head", transB=1),
    ]  # fmt: skip
    weights = [
        d.weight("w", 6, 1, 3), d.weight("W", 2, 32, 6), d.weight("R", 2, 32, 8), d.weight("B", 2, 64),
        d.weight("wo", 3, 16), d.weight("bo", 3), tensor("two", 2, np.int64), tensor("limit", 4, np.int64),
        tensor("flat", [-1, 16], np.int64),
    ]  # fmt: skip
    built = model(nodes, {"x": ["n", 1, "t"]}, {"y": ["n", 3]}, weights)
    return Odd(built, d.batches(x=(1, 10)), int8=2, notes=("lstm: left as it came: LSTM is a carried op",))


@odd
def streaming_state() -> Odd:
    """A state whose batch axis comes second, and a scalar: no axis of the inputs counts samples."""
    d = Draw(2)
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="front", strides=[2]), node("Relu", ["c"], ["f"]),
        node("Transpose", ["f"], ["seq"], perm=[2, 0, 1]),
        node("GRU", ["seq", "W", "R", "", "", "state"], ["", "next"], name="gru", hidden_size=8),
        node("Squeeze", ["next", "axis"], ["h"]), node("Gemm", ["h", "wo"], ["o"], name="head"),
        node("Cast", ["rate"], ["r"], to=F), node("Div", ["r", "base"], ["scale"]), node("Mul", ["o", "scale"], ["y"]),
    ]  # fmt: skip
    weights = [
        d.weight("w", 6, 1, 4), d.weight("W", 1, 24, 6), d.weight("R", 1, 24, 8), d.weight("wo", 8, 2),
        tensor("axis", [0], np.int64), tensor("base", 16000),
    ]  # fmt: skip
    inputs = {"x": ["batch", 1, "t"], "state": [1, "batch", 8], "rate": (INT64, [])}
    feeds = [
        {"x": d.rng.standard_normal((2, 1, 12)).astype(np.float32), "rate": np.array(16000),
         "state": d.rng.standard_normal((1, 2, 8)).astype(np.float32)} for _ in range(SAMPLES)
    ]  # fmt: skip
    built = model(nodes, inputs, {"y": ["batch", 2], "next": [1, "batch", 8]}, weights)
    return Odd(built, feeds, int8=2, notes=("gru: left as it came: GRU is a carried op",))


@odd
def dilated_audio() -> Odd:
    """WaveNet: causal padding, dilated 1-d convolutions, a gate of tanh and sigmoid, a skip."""
    d = Draw(8)
    nodes = [
        node("Conv", ["x", "w0"], ["h"], name="first"), node("Pad", ["h", "past", "zero"], ["p"]),
        node("Conv", ["p", "w1"], ["c"], name="dilated", dilations=[4]), node("Split", ["c"], ["a", "b"], axis=1),
        node("Tanh", ["a"], ["ta"]), node("Sigmoid", ["b"], ["sb"]), node("Mul", ["ta", "sb"], ["gate"]),
        node("Conv", ["gate", "w2"], ["o"], name="out"), node("Add", ["o", "h"], ["y"]),
    ]  # fmt: skip
    weights = [
        d.weight("w0", 8, 1, 1), d.weight("w1", 16, 8, 2), d.weight("w2", 8, 8, 1),
        tensor("past", [0, 0, 4, 0, 0, 0], np.int64), tensor("zero", 0.0),
    ]  # fmt: skip
    return Odd(model(nodes, {"x": ["n", 1, "t"]}, {"y": ["n", 8, "t"]}, weights), d.batches(x=(1, 24)), int8=3)


@odd
def tokens_mask_and_features() -> Odd:
    """Inputs of three types; the embedding is the head's weight too."""
    d = Draw(11)
    nodes = [
        node("Gather", ["E", "tokens"], ["e"]), node("Unsqueeze", ["mask", "last"], ["m"]),
        node("Where", ["m", "e", "zero"], ["kept"]), node("ReduceSum", ["kept", "time"], ["s"], keepdims=0),
        node("Concat", ["s", "features"], ["cat"], axis=1), node("MatMul", ["cat", "w1"], ["h"], name="hidden"),
        node("Add", ["h", "b1"], ["hb"]), node("Tanh", ["hb"], ["t"]),
        node("Gemm", ["t", "E"], ["y"], name="head", transB=1),
    ]  # fmt: skip
    weights = [
        d.weight("E", 20, 12), d.weight("w1", 16, 12), d.weight("b1", 12), tensor("zero", 0.0),
        tensor("last", [2], np.int64), tensor("time", [1], np.int64),
    ]  # fmt: skip
    inputs = {"tokens": (INT32, ["n", 5]), "mask": (BOOL, ["n", 5]), "features": ["n", 4]}
    samples = [
        {"tokens": d.rng.integers(0, 20, (1, 5), np.int32), "mask": d.rng.random((1, 5)) < 0.7,
         "features": d.rng.standard_normal((1, 4)).astype(np.float32)} for _ in range(SAMPLES)
    ]  # fmt: skip
    return Odd(model(nodes, inputs, {"y": ["n", 20]}, weights), samples, int8=2)


@odd
def scan_recurrence() -> Odd:
    """A recurrence as a Scan with a matrix product in its body."""
    d = Draw(13)
    step = helper.make_graph(
        [node("MatMul", ["h", "Wr"], ["m"]), node("Add", ["m", "xt"], ["a"]), node("Tanh", ["a"], ["next"])], "step",
        [declared("h", F, ["n", 8]), declared("xt", F, ["n", 8])], [declared("next", F, ["n", 8])],
    )  # fmt: skip
    nodes = [
        node("MatMul", ["x", "Wx"], ["px"], name="inward"), node("Transpose", ["px"], ["pt"], perm=[1, 0, 2]),
        node("Shape", ["x"], ["s"]), node("Slice", ["s", "zero", "one"], ["n"]),
        node("Concat", ["n", "width"], ["hs"], axis=0), node("ConstantOfShape", ["hs"], ["h0"]),
        node("Scan", ["h0", "pt"], ["last"], name="scan", body=step, num_scan_inputs=1),
        node("MatMul", ["last", "Wo"], ["y"], name="outward"),
    ]  # fmt: skip
    weights = [
        d.weight("Wx", 6, 8), d.weight("Wr", 8, 8), d.weight("Wo", 8, 3), tensor("zero", [0], np.int64),
        tensor("one", [1], np.int64), tensor("width", [8], np.int64),
    ]  # fmt: skip
    built = model(nodes, {"x": ["n", "t", 6]}, {"y": ["n", 3]}, weights)
    return Odd(built, d.batches(x=(5, 6)), int8=2, notes=("scan: left as it came: a layer in the body of Scan",))


@odd
def strings_and_trees() -> Odd:
    """A classifier of scikit-learn: strings in, no tensor that could be quantized."""
    nodes = [
        node("OneHotEncoder", ["s"], ["e"], domain="ai.onnx.ml", cats_strings=[b"a", b"b", b"c"], zeros=1),
        node("Reshape", ["e", "flat"], ["f"]),
        node("LinearClassifier", ["f"], ["label", "scores"], domain="ai.onnx.ml", classlabels_ints=[0, 1],
             coefficients=[1.0, -2.0, 0.5, -1.0, 2.0, -0.5], intercepts=[0.25, -0.25]),
    ]  # fmt: skip
    built = model(
        nodes, {"s": (STRING, ["n", 1])}, {"label": (INT64, ["n"]), "scores": ["n", 2]},
        [tensor("flat", [-1, 3], np.int64)], domains={"ai.onnx.ml": 1},
    )  # fmt: skip
    samples = [{"s": np.array([[text]], object)} for text in "abcabdca"]
    return Odd(built, samples, int8=0, notes=("nothing to quantize: the model has no layer with weights",))

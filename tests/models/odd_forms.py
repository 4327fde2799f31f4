"""Odd forms of ordinary layers: weights as inputs, shared, in functions, quantized by other tools."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tests.models.odd_builder import Draw, Odd, model, node, odd, tensor


@odd
def weights_as_inputs() -> Odd:
    """Older exporters list every initializer as an input; the user feeds none of them."""
    d = Draw(9)
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]), node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["y"], name="second"),
    ]  # fmt: skip
    weights = [d.weight("w1", 8, 3, 3, 3), d.weight("b1", 8), d.weight("w2", 4, 8, 1, 1)]
    inputs = {"x": ["n", 3, 8, 8], "w1": [8, 3, 3, 3], "b1": [8], "w2": [4, 8, 1, 1]}
    built = model(nodes, inputs, {"y": ["n", 4, 8, 8]}, weights, opset=9, ir=4)
    return Odd(built, d.batches(x=(3, 8, 8)), int8=2, notes=("inputs with defaults are constants now: w1, b1, w2",))


@odd
def shared_weights() -> Odd:
    """One weight in two layers, and read as data besides; an output that is also the input."""
    d = Draw(10)
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="near", pads=[1, 1, 1, 1]), node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w"], ["b"], name="far", pads=[2, 2, 2, 2], dilations=[2, 2]),
        node("Add", ["b", "x"], ["c"]), node("ReduceMax", ["w"], ["m"], keepdims=0), node("Mul", ["c", "m"], ["y"]),
    ]  # fmt: skip
    shape = ["n", 6, 7, 7]
    built = model(nodes, {"x": shape}, {"y": shape, "a": shape, "x": shape}, [d.weight("w", 6, 6, 3, 3)], opset=11)
    return Odd(built, d.batches(x=(6, 7, 7)), int8=2)


@odd
def local_functions() -> Odd:
    """Layers inside a function of the model's own domain, called twice."""
    d = Draw(12)
    body = [
        node("Conv", ["a", "k"], ["t"], pads=[1, 1, 1, 1]), node("Sigmoid", ["t"], ["s"]),
        node("Mul", ["t", "s"], ["o"]),
    ]  # fmt: skip
    swish = helper.make_function("local", "SwishConv", ["a", "k"], ["o"], body, [helper.make_opsetid("", 17)])
    nodes = [
        node("SwishConv", ["x", "w1"], ["a"], domain="local"), node("SwishConv", ["a", "w2"], ["b"], domain="local"),
        node("GlobalAveragePool", ["b"], ["g"]), node("Flatten", ["g"], ["y"]),
    ]  # fmt: skip
    weights = [d.weight("w1", 8, 3, 3, 3), d.weight("w2", 8, 8, 3, 3)]
    built = model(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 8]}, weights, domains={"local": 1}, functions=[swish])
    return Odd(built, d.batches(x=(3, 8, 8)), int8=2)


def _quantizers(x: str, scale: float, zero: int, dtype: type) -> tuple[list[NodeProto], list[TensorProto]]:
    constants = [tensor(f"{x}_scale", scale), tensor(f"{x}_zero", zero, dtype)]
    operands = [f"{x}_scale", f"{x}_zero"]
    return [
        node("QuantizeLinear", [x, *operands], [f"{x}_q"]), node("DequantizeLinear", [f"{x}_q", *operands], [f"{x}_dq"])
    ], constants  # fmt: skip


def _quantized(dtype: type, scales: tuple[float, float]) -> Odd:
    """Two layers as ONNX Runtime's quantizer leaves them; the relu between them is the saturation at zero."""
    d = Draw(16)
    nodes, weights = _quantizers("x", scales[0], 128 if dtype is np.uint8 else 0, dtype)
    between, more = _quantizers("c", scales[1], 0 if dtype is np.uint8 else np.iinfo(dtype).min, dtype)
    w1, w2 = (d.rng.integers(-127, 128, s).astype(np.int8) for s in ((6, 3, 3, 3), (4, 6, 1, 1)))
    nodes += [
        node("DequantizeLinear", ["w1", "w1_scale"], ["w1_dq"]), node("Conv", ["x_dq", "w1_dq"], ["c"], name="first"),
        *between, node("DequantizeLinear", ["w2", "w2_scale"], ["w2_dq"]),
        node("Conv", ["c_dq", "w2_dq"], ["y"], name="second"),
    ]  # fmt: skip
    weights += [
        *more, tensor("w1", w1, np.int8), tensor("w2", w2, np.int8), tensor("w1_scale", 2.0**-9),
        tensor("w2_scale", 2.0**-8),
    ]  # fmt: skip
    opset, ir = (21, 10) if dtype is np.int16 else (17, 8)
    built = model(nodes, {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 4, 4]}, weights, opset=opset, ir=ir)
    kept = "its quantizers came with the model: nothing was calibrated"
    return Odd(built, d.batches(x=(3, 6, 6)), int8=2, notes=(kept,))


@odd
def quantized_in_uint8() -> Odd:
    """The target computes in int8: all integers move by 128."""
    return _quantized(np.uint8, (0.03125, 0.03125))


@odd
def quantized_in_int16() -> Odd:
    """Too wide for the target: the layers return to float, the saturation that was a relu stays."""
    made = _quantized(np.int16, (2.0**-13, 2.0**-13))
    reason = "activations stored as i16"
    return Odd(made.model, made.samples, 0, made.notes, {"first": reason, "second": reason})


@odd
def attention_without_weights() -> Odd:
    """Both sides of every matrix product are computed; the record has no place for such layers."""
    d = Draw(17)
    nodes = [
        node("MatMul", ["q", "k"], ["scores"], name="scores"), node("Softmax", ["scores"], ["shares"]),
        node("MatMul", ["shares", "v"], ["y"], name="mix"),
    ]  # fmt: skip
    inputs = {"q": ["n", 2, 6, 8], "k": ["n", 2, 8, 6], "v": ["n", 2, 6, 8]}
    built = model(nodes, inputs, {"y": ["n", 2, 6, 8]}, [])
    return Odd(built, d.batches(q=(2, 6, 8), k=(2, 8, 6), v=(2, 6, 8)), int8=2)


@odd
def group_norm_of_opset_21() -> Odd:
    """A block of a diffusion model; a newer opset has to stay, older ones lack the op."""
    d = Draw(18)
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        node("GroupNormalization", ["c1", "scale", "bias"], ["g"], num_groups=4), node("Sigmoid", ["g"], ["s"]),
        node("Mul", ["g", "s"], ["a"]), node("Conv", ["a", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "x"], ["y"]),
    ]  # fmt: skip
    weights = [d.weight("w1", 8, 8, 3, 3), d.weight("w2", 8, 8, 3, 3), d.weight("scale", 8), d.weight("bias", 8)]
    built = model(nodes, {"x": ["n", 8, 6, 6]}, {"y": ["n", 8, 6, 6]}, weights, opset=21, ir=10)
    return Odd(built, d.batches(x=(8, 6, 6)), int8=2)

"""Cases against ONNX Runtime's integer operators, where the formula is theirs: one op each, nothing optimised.

On CPUs without VNNI the products of some pairs of types saturate in 16 bits, so :func:`trusted` tries all pairs on
extreme values first, against NumPy's 64-bit integers, and cases use the pairs that pass.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import helper

from amctc.onnx_bridge.sessions import open_session
from amctc.ops import ascend, nn, quant
from amctc.types import F32, I8, I16, U8, U16, Array, QuantizedType, ScalarType
from tools.integer_oracles.cases import Comparison, Generator, Given, Row, any_profile, integers, profile_of, run_op
from tools.integer_oracles.layers import Window, drawn_groups

OPSET, IR_VERSION = 21, 10
SIGNS = (np.uint8, np.int8)


def run_onnx(op_type: str, feeds: Mapping[str, Array], result: type | np.dtype[Any], **attributes: Any) -> Array:
    """The result of one ONNX node whose operands are ``feeds``, in their order."""
    feeds = {n: np.asarray(a) for n, a in feeds.items()}
    codes = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in feeds.items()}
    node = helper.make_node(op_type, [*feeds], ["y"], **attributes)
    given = [helper.make_tensor_value_info(n, codes[n], a.shape) for n, a in feeds.items()]
    output = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(result)), None)
    graph = helper.make_graph([node], op_type, given, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    answer: Array = open_session(model.SerializeToString(), optimise=False).run(None, feeds)[0]
    return answer


def stored_as(q: Array, dtype: type) -> Array:
    """int8 values as they are, or 128 above, as uint8: differences to a zero point are the same."""
    return (q.astype(np.int16) + (0 if dtype is np.int8 else 128)).astype(dtype)


@functools.cache
def trusted(op_type: str) -> tuple[tuple[type, type], ...]:
    """The pairs of storage types (data, weight) for which the runtime multiplies exactly, by a test on extremes."""
    shapes = ((1, 16, 3, 3), (4, 16, 3, 3)) if "Conv" in op_type else ((8, 300), (300, 8))
    rng = np.random.default_rng(0)
    x, w = (rng.choice(np.array([-128, 127, 126], np.int8), shape) for shape in shapes)
    passing = []
    for pair in ((a, b) for a in SIGNS for b in SIGNS):
        feeds = {"x": stored_as(x, pair[0]), "w": stored_as(w, pair[1]), **_zeros(pair, 0)}
        exact = (
            np.einsum("nchw,ochw->no", *(a.astype(np.int64) for a in (x, w))) if x.ndim == 4 else x.astype(np.int64) @ w
        )
        if np.array_equal(run_onnx(op_type, feeds, np.int32).reshape(exact.shape), exact):
            passing.append(pair)
    assert passing, f"the runtime multiplies no pair of types exactly in {op_type}"
    return tuple(passing)


def _zeros(pair: tuple[type, type], offset: int) -> dict[str, Array]:
    return {"x_zero": stored_as(np.array(offset), pair[0]), "w_zero": stored_as(np.array(0), pair[1])}


def _pick(rng: Generator, op_type: str) -> tuple[type, type]:
    pairs = trusted(op_type)
    return pairs[int(rng.integers(len(pairs)))]


def _window_attributes(window: Window, group: int = 1) -> dict[str, Any]:
    return {"strides": window.strides, "pads": window.pads, "dilations": window.dilations, "group": group}


def conv_integer(rng: Generator) -> Comparison:
    """AscendConv and ConvInteger, padding included."""
    window, pair = Window(rng), _pick(rng, "ConvInteger")
    group, per_group, outputs = drawn_groups(rng)
    x = integers(rng, (int(rng.integers(1, 3)), group * per_group, *window.sizes))
    w, offset = integers(rng, (group * outputs, per_group, *window.kernel)), int(rng.integers(-128, 128))
    feeds = {"x": stored_as(x, pair[0]), "w": stored_as(w, pair[1]), **_zeros(pair, offset)}
    expected = run_onnx("ConvInteger", feeds, np.int32, **_window_attributes(window, group))
    kind = ascend.Conv(window.strides, window.pads, window.dilations, group, offset)
    actual = run_op(kind, [Given(x), Given(w, True)], any_profile(rng))
    return Comparison(actual, expected, f"{kind} of {list(x.shape)} by {list(w.shape)}, {pair}")


def matmul_integer(rng: Generator) -> Comparison:
    """AscendMatMul and the product of two computed operands, and MatMulInteger: stacks that broadcast."""
    pair, depth, columns = _pick(rng, "MatMulInteger"), int(rng.choice([1, 5, 64, 300, 1500])), int(rng.integers(1, 9))
    leading = tuple(rng.integers(1, 4, rng.integers(0, 3)).tolist())
    x, constant = integers(rng, (*leading, int(rng.integers(1, 6)), depth)), bool(rng.random() < 0.5)
    stack = () if constant else tuple(n if rng.random() < 0.5 else 1 for n in leading)
    w, offset = integers(rng, (*stack, depth, columns)), int(rng.integers(-128, 128)) if constant else 0
    feeds = {"x": stored_as(x, pair[0]), "w": stored_as(w, pair[1]), **_zeros(pair, offset)}
    expected = run_onnx("MatMulInteger", feeds, np.int32)
    kind = ascend.MatMul(False, offset) if constant else ascend.BatchMatMul()
    actual = run_op(kind, [Given(x), Given(w, constant)], any_profile(rng))
    return Comparison(actual, expected, f"{kind} of {list(x.shape)} by {list(w.shape)}, {pair}")


class _Product(NamedTuple):
    """A drawn layer: its op here and its attributes there, its integers, and where its data's zero is."""

    kind: ascend.Conv | ascend.MatMul
    attributes: dict[str, Any]
    x: Array
    w: Array
    bias: Array | None
    channels: int

    @staticmethod
    def drawn(rng: Generator, op_type: str) -> _Product:
        """A convolution, or a matrix product, with every offset."""
        offset = int(rng.integers(-128, 128))
        if op_type == "QLinearMatMul":
            x, w = integers(rng, (4, 33)), integers(rng, (33, int(rng.integers(1, 9))))
            return _Product(ascend.MatMul(False, offset), {}, x, w, None, w.shape[1])
        window, (group, per_group, outputs) = Window(rng), drawn_groups(rng)
        x = integers(rng, (1, group * per_group, *window.sizes))
        w = integers(rng, (group * outputs, per_group, *window.kernel))
        bias = rng.integers(-4000, 4000, len(w)).astype(np.int32) if rng.random() < 0.5 else None
        kind = ascend.Conv(window.strides, window.pads, window.dilations, group, offset)
        return _Product(kind, _window_attributes(window, group), x, w, bias, len(w))

    def accumulators(self, rng: Generator) -> Array:
        """The int32 sums, on any target."""
        bias = None if self.bias is None else Given(self.bias, True)
        return run_op(self.kind, [Given(self.x), Given(self.w, True), bias], any_profile(rng))


def _scales(rng: Generator, count: int, reach: float, exact: bool) -> tuple[np.float32, Array, np.float32]:
    """Scales of data, weight and result that bring sums as large as ``reach`` to some hundred steps.

    ``exact``: of 5, 6 and 1 significant bits, so that float32 and the multiplier's 11 bits hold what they give.
    """
    if exact:
        x, w = rng.integers(16, 32) * 2.0**-9, rng.integers(32, 64, count) * 2.0**-12
        y = 2.0 ** np.round(np.log2(reach * x * w.mean() / 200))
    else:
        x, w = rng.uniform(0.01, 0.1), rng.uniform(1e-3, 1e-2, count)
        y = reach * x * w.mean() / rng.uniform(60, 400)
    return np.float32(x), w.astype(np.float32), np.float32(y)


def qlinear(rng: Generator, op_type: str, exact: bool) -> Comparison:
    """A layer and AscendRequant by deq_scale · quant_scale (N18), and the QLinear operator.

    Its multiplier is x_scale · w_scale / y_scale in float32. Both are one number where float32 holds the product and
    the quotient in 11 bits (so that N12 drops none), and the offset is an int8 (so that N17's first clip cannot show).
    """
    layer = _Product.drawn(rng, op_type)
    acc, zero = layer.accumulators(rng), int(rng.integers(-128, 128))
    per_channel = op_type == "QLinearConv" and bool(rng.random() < 0.5)
    reach = max(1.0, float(np.abs(acc.astype(np.float64)).max(initial=1)))
    x_scale, w_scale, y_scale = _scales(rng, layer.channels if per_channel else 1, reach, exact)
    pairs = [p for p in trusted(op_type.replace("QLinear", "") + "Integer") if p != (np.int8, np.uint8)]
    pair = (np.int8, np.int8) if per_channel else pairs[int(rng.integers(len(pairs)))]
    zeros = _zeros(pair, layer.kind.offset_x)
    feeds = {
        "x": stored_as(layer.x, pair[0]), "x_scale": x_scale, "x_zero": zeros["x_zero"],
        "w": stored_as(layer.w, pair[1]), "w_scale": w_scale if per_channel else w_scale[0],
        "w_zero": np.zeros(layer.channels, np.int8) if per_channel else zeros["w_zero"],
        "y_scale": y_scale, "y_zero": stored_as(np.array(zero), pair[0]),
        **({} if layer.bias is None else {"b": layer.bias}),
    }  # fmt: skip
    answer = run_onnx(op_type, feeds, pair[0], **layer.attributes)
    expected = (answer.astype(np.int16) - (0 if pair[0] is np.int8 else 128)).astype(np.int8)
    step = Given((x_scale * w_scale) * (np.float32(1) / y_scale), True)
    actual = run_op(ascend.Requant(1, zero), [Given(acc), step], any_profile(rng))
    what = f"{op_type} of {list(layer.x.shape)} by {list(layer.w.shape)}, scales {x_scale} {w_scale} {y_scale}, {pair}"
    return Comparison(actual, expected, what)


INTEGER_TYPES = (I8, U8, I16, U16)


def _quantized_type(rng: Generator, shape: Sequence[int], *storages: ScalarType) -> QuantizedType:
    """Per tensor or per channel, any zero point, scales of ordinary size or down to subnormal numbers."""
    storage = storages[int(rng.integers(len(storages)))]
    axis = int(rng.integers(len(shape))) if rng.random() < 0.5 else None
    count = 1 if axis is None else shape[axis]
    low, high = storage.integer_range
    least = -148 if rng.random() < 0.1 else -12
    scales = np.exp2(rng.uniform(least, 6, count)).astype(np.float32)
    if rng.random() < 0.4:
        scales = np.exp2(np.floor(np.log2(scales))).astype(np.float32)  # so that ties are met
    zeros = rng.integers(low, high + 1, count) if rng.random() < 0.7 else np.full(count, min(max(0, low), high))
    return QuantizedType(storage, F32, tuple(map(float, scales)), tuple(map(int, zeros)), axis, low, high)


def _parameters(to: QuantizedType) -> dict[str, Array]:
    shape = () if to.axis is None else (-1,)
    return {"scale": to.scale_array.reshape(shape), "zero": to.zero_point_array.astype(to.dtype).reshape(shape)}


def quantize_linear(rng: Generator) -> Comparison:
    """Our quantizer and QuantizeLinear: ties, saturation, infinities, per channel."""
    shape = tuple(rng.integers(1, 6, rng.integers(1, 5)).tolist())
    to = _quantized_type(rng, shape, *INTEGER_TYPES)
    around = tuple(len(to.scales) if i == to.axis else 1 for i in range(len(shape)))
    steps = rng.integers(-(2**to.bits), 2**to.bits, shape) / 2 * float(rng.choice([1, 1, 0.3, 1e4]))
    x = (steps * to.scale_array.astype(np.float64).reshape(around)).astype(np.float32)
    if rng.random() < 0.1:
        x[rng.random(shape) < 0.3] = float(rng.choice([np.inf, -np.inf, 3e38, -0.0, 1e-45]))
    axis = {} if to.axis is None else {"axis": to.axis}
    expected = run_onnx("QuantizeLinear", {"x": x, **_parameters(to)}, to.dtype, **axis)
    actual = run_op(quant.Quantize(to), [Given(x)], profile_of("ascend910b1"))
    return Comparison(actual, expected, f"{to} of {list(shape)}")


def dequantize_linear(rng: Generator) -> Comparison:
    """Our dequantizer and DequantizeLinear."""
    shape = tuple(rng.integers(1, 6, rng.integers(1, 5)).tolist())
    to = _quantized_type(rng, shape, *INTEGER_TYPES)
    q = rng.integers(to.low, to.high + 1, shape).astype(to.dtype)
    axis = {} if to.axis is None else {"axis": to.axis}
    expected = run_onnx("DequantizeLinear", {"x": q, **_parameters(to)}, np.float32, **axis)
    actual = run_op(quant.Dequantize(), [Given(q, elem=to)], profile_of("ascend910b1"))
    return Comparison(actual, expected, f"{to} of {list(shape)}")


def max_pool(rng: Generator) -> Comparison:
    """int8 MaxPool: pads, dilations, windows that overhang in ceil_mode."""
    window = Window(rng)
    pads = tuple(min(p, k - 1) for p, k in zip(window.pads, window.kernel * 2, strict=True))
    x, ceil = integers(rng, (2, 2, *window.sizes)), bool(rng.random() < 0.4)
    expected = run_onnx(
        "MaxPool", {"x": x}, np.int8, kernel_shape=window.kernel, strides=window.strides, pads=pads,
        dilations=window.dilations, ceil_mode=int(ceil),
    )  # fmt: skip
    kind = nn.MaxPool(window.strides, pads, window.dilations, window.kernel, ceil)
    return Comparison(run_op(kind, [Given(x)], any_profile(rng)), expected, f"{kind} of {list(x.shape)}")


def ascend_quantizer(rng: Generator, exact: bool) -> Comparison:
    """AscendQuant in float32 and QuantizeLinear: equal for powers of two without offset, else a step apart (N5)."""
    scale = float(2.0 ** int(rng.integers(-12, 6))) if exact else float(np.float32(rng.uniform(1e-3, 2.0)))
    zero = 0 if exact else int(rng.integers(-128, 128))
    x = (rng.integers(-300, 300, 60) / 2 * scale).astype(np.float32)
    feeds = {"x": x, "scale": np.float32(scale).reshape(()), "zero": np.array(zero, np.int8)}
    expected = run_onnx("QuantizeLinear", feeds, np.int8)
    profile = profile_of(str(rng.choice(["ascend910b1", "ascend950"])))
    kind = ascend.Quant(float(np.float32(1) / np.float32(scale)), zero)
    return Comparison(run_op(kind, [Given(x)], profile), expected, f"{kind} on {profile.name}")


ROWS = (
    Row("N7 N8", "ConvInteger", conv_integer),
    Row("N7 N8", "MatMulInteger", matmul_integer),
    Row("N17 N18", "QLinearConv, multiplier of 11 bits", lambda r: qlinear(r, "QLinearConv", True)),
    Row("N17 N18", "QLinearMatMul, multiplier of 11 bits", lambda r: qlinear(r, "QLinearMatMul", True), 0.5),
    Row("N17 N18", "QLinearConv, any multiplier", lambda r: qlinear(r, "QLinearConv", False), 0.5, 1),
    Row("N5", "QuantizeLinear", quantize_linear, 2.0),
    Row("N5", "DequantizeLinear", dequantize_linear),
    Row("N26", "MaxPool of int8", max_pool),
    Row("N2 N5", "AscendQuant and QuantizeLinear, powers of two", lambda r: ascend_quantizer(r, True), 0.5),
    Row("N2 N5", "AscendQuant and QuantizeLinear, any scale", lambda r: ascend_quantizer(r, False), 0.5, 1),
)

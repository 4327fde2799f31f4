"""quantize-weights: numbers by hand, dead channels, the rescue of N9, and how scaling and order carry over."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import InputError, UsageError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data
from amctc.ops import nn, quant
from amctc.types import F32, I4, I8, Array, QuantizedType, TensorType

RNG = np.random.default_rng(14)
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def quantized(x: Value, scale: float = 0.5, zero_point: int = -3) -> Value:
    to = QuantizedType.per_tensor(float(np.float32(scale)), zero_point)
    return apply(quant.Dequantize(), apply(quant.Quantize(to), x))


def layer(w: Array, b: Array | None = None, *, kind: nn.Layer = POINTWISE, scale: float = 0.5, zero: int = -3) -> Graph:
    """A layer on quantized data of the right size for ``w``."""
    if isinstance(kind, nn.Conv):
        shape: tuple[int | str, ...] = ("N", w.shape[1] * kind.group, *([4] * (w.ndim - 2)))
    elif isinstance(kind, nn.ConvTranspose):
        shape = ("N", w.shape[0], *([4] * (w.ndim - 2)))
    else:
        shape = (2, w.shape[1] if isinstance(kind, nn.Gemm) and kind.trans_b else w.shape[-2])
    x = GraphInput("x", TensorType(shape, F32))
    operands = [quantized(x, scale, zero), const(w, name="w")] + ([] if b is None else [const(b, name="b")])
    return Graph((x,), (apply(kind, *operands, name="y", origins=(Origin("layer", "Conv"),)),), ("y",))


def the_layer(graph: Graph) -> Op:
    (found,) = (op for op in graph.ops if isinstance(op.kind, nn.Layer))
    return found


def weight_of(graph: Graph) -> tuple[Array, QuantizedType]:
    dequantized = the_layer(graph).operands[1]
    assert dequantized is not None
    assert isinstance(dequantized.producer.kind, quant.Dequantize)
    stored = dequantized.producer.operands[0]
    data, elem = constant_data(stored), stored.type.elem
    assert data is not None
    assert isinstance(elem, QuantizedType)
    return data.read(), elem


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------- by hand


def test_per_channel_by_hand(run) -> None:
    w = np.float32([[1.27, -0.635], [0.0254, -2.56], [0.5, 1.0]]).reshape(3, 2, 1, 1)
    integers, elem = weight_of(run("quantize-weights", layer(w)).graph)
    # max / 127, but / 128 where the largest magnitude is negative (N10).
    expected = [np.float32(1.27 / 127), np.float32(2.56 / 128), np.float32(1.0 / 127)]
    np.testing.assert_allclose(elem.scales, expected, rtol=1e-7)
    assert integers.reshape(3, 2).tolist() == [[127, -64], [1, -128], [64, 127]]  # -63.5 and 63.5: ties to even
    assert (elem.axis, elem.storage, set(elem.zero_points)) == (0, I8, {0})


def test_per_tensor_by_hand(run) -> None:
    w = np.float32([[1.27, -0.635], [0.0254, -2.56]]).reshape(2, 2, 1, 1)
    integers, elem = weight_of(run("quantize-weights{per-channel=false}", layer(w)).graph)
    assert elem.axis is None
    assert elem.scales == (float(np.float32(0.02)),)
    assert integers.ravel().tolist() == [64, -32, 1, -128]  # 63.5 and -31.75 and 1.27


def test_four_bits_by_hand(run) -> None:
    w = np.float32([[0.7, -0.35], [0.1, -0.8]]).reshape(2, 2, 1, 1)
    integers, elem = weight_of(run("quantize-weights{bits=4}", layer(w)).graph)
    np.testing.assert_allclose(elem.scales, [0.1, 0.1], rtol=1e-6)
    assert (elem.storage, elem.low, elem.high) == (I4, -8, 7)
    assert integers.ravel().tolist()[0] == 7
    assert integers.ravel().tolist()[2:] == [1, -8]


KINDS: dict[str, tuple[nn.Layer, tuple[int, ...], int]] = {
    "conv": (POINTWISE, (3, 2, 1, 1), 0),
    "depthwise": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 4), (4, 1, 3, 3), 0),
    "transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1)), (2, 3, 1, 1), 1),
    "grouped transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 2), (4, 3, 2, 2), 1),
    "gemm": (nn.Gemm(), (3, 5), 1),
    "gemm transposed": (nn.Gemm(trans_b=True), (5, 3), 0),
    "matmul": (nn.MatMul(), (3, 5), 1),
    "stacked matmul": (nn.MatMul(), (2, 3, 5), 2),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_axis_of_the_scales(name: str, per_channel: bool, run) -> None:
    kind, shape, axis = KINDS[name]
    w = weights(*shape)
    text = "quantize-weights" + ("" if per_channel else "{per-channel=false}")
    graph = run(text, layer(w, kind=kind)).graph
    integers, elem = weight_of(graph)
    assert elem.axis == (axis if per_channel else None)
    scale = np.asarray(elem.scales).reshape([-1 if i == axis and per_channel else 1 for i in range(w.ndim)])
    assert np.abs(integers * scale - w).max() <= scale.max() / 2 * (1 + 1e-6), "inside the range: half a step (P15)"
    rows = np.moveaxis(np.abs(integers.astype(int)), axis, 0).reshape(shape[axis] if per_channel else 1, -1)
    assert (rows.max(axis=1) >= 127).all(), "the whole range is used"
    assert the_layer(graph).kind == kind


def test_only_layers_with_quantized_data(run) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    graph = Graph((x,), (apply(nn.MatMul(), x, const(weights(3, 4))),), ("y",))
    assert run("quantize-weights", graph).graph is graph


def test_running_twice_changes_nothing(run) -> None:
    graph = run("quantize-weights", layer(weights(3, 2, 1, 1), weights(3))).graph
    assert run("quantize-weights", graph).graph is graph


def test_shared_weights_are_quantized_for_each_layer(run) -> None:
    """Two layers with activations of different scales may need different weight scales (N9)."""
    x, w = GraphInput("x", TensorType((2, 3), F32)), const(weights(3, 4), name="w")
    a, b = (apply(nn.MatMul(), quantized(x, s), w) for s in (0.5, 1e-9))
    result = run("quantize-weights", Graph((x,), (a, b), ("a", "b"))).graph
    stored = {op.operands[1].producer.operands[0] for op in result.ops if isinstance(op.kind, nn.Layer)}
    assert len(stored) == 2


def test_names(run) -> None:
    op = the_layer(run("quantize-weights", layer(weights(3, 2, 1, 1))).graph)
    assert op.operands[1].producer.operands[0].name == "w.quant"
    assert op.result.name == "y"
    unnamed = Graph(
        (), (apply(nn.MatMul(), quantized(const(np.ones((1, 2), np.float32))), const(weights(2, 2))),), ("y",)
    )
    name = the_layer(run("quantize-weights", unnamed).graph).operands[1].producer.operands[0].name
    assert "None" not in name


# -------------------------------------------------------------------------------------- metamorphic relations


@pytest.mark.parametrize("power", [-10, -1, 1, 12])
@pytest.mark.parametrize("name", KINDS)
def test_power_of_two_rescale_keeps_the_integers(name: str, power: int, run) -> None:
    """P13: W · 2^k on x · 2^-k gives the same int8 weights."""
    kind, shape, _ = KINDS[name]
    w = weights(*shape)
    before, elem = weight_of(run("quantize-weights", layer(w, kind=kind)).graph)
    after, scaled = weight_of(
        run("quantize-weights", layer(np.ldexp(w, power), kind=kind, scale=0.5 * 2.0**-power)).graph
    )
    np.testing.assert_array_equal(before, after)
    assert scaled.scales == tuple(s * 2.0**power for s in elem.scales)


@pytest.mark.parametrize("name", ["conv", "depthwise", "gemm", "gemm transposed", "matmul"])
def test_channel_permutation_commutes(name: str, run) -> None:
    """P12: permuting output channels permutes integers and scales."""
    kind, shape, axis = KINDS[name]
    w, b, order = weights(*shape), weights(shape[axis]), RNG.permutation(shape[axis])
    before, elem = weight_of(run("quantize-weights", layer(w, b, kind=kind)).graph)
    after, permuted = weight_of(run("quantize-weights", layer(np.take(w, order, axis), b[order], kind=kind)).graph)
    np.testing.assert_array_equal(np.take(before, order, axis), after)
    assert permuted.scales == tuple(elem.scales[i] for i in order)


# -------------------------------------------------------------------------------------- dead and overflowing


def test_dead_channel_keeps_its_bias_fine(run) -> None:
    """N10: scale 1.0 would round the bias 0.3 to a multiple of 0.5."""
    w, b = weights(3, 2, 1, 1), np.float32([1.0, 0.3, 2.0])
    w[1] = 0
    result = run("quantize-weights,quantize-bias", layer(w, b))
    integers, elem = weight_of(result.graph)
    assert not integers[1].any()
    assert elem.scales[1] * 0.5 < 1e-6
    bias = the_layer(result.graph).operands[2].producer.operands[0]
    stored = constant_data(bias).read()
    assert stored[1] * bias.type.elem.scales[1] == pytest.approx(0.3, rel=1e-6)
    assert "1 channels have no weights" in [n.text for n in result.notes]


def test_dead_channel_without_bias(run) -> None:
    w = weights(2, 2, 1, 1)
    w[1] = 0
    for b in (None, np.float32([1.0, 0.0])):
        integers, elem = weight_of(run("quantize-weights", layer(w, b)).graph)
        assert elem.scales[1] == 1.0
        assert not integers[1].any()


def test_dead_tensor(run) -> None:
    integers, elem = weight_of(
        run("quantize-weights{per-channel=false}", layer(np.zeros((2, 2, 1, 1), np.float32))).graph
    )
    assert elem.scales == (1.0,)
    assert not integers.any()


@pytest.mark.parametrize("per_channel", [True, False])
def test_scale_is_raised_where_the_bias_overflows(per_channel: bool, run) -> None:
    """N9: bias / (scale_w · scale_d) is 1e9 / (1/127 · 0.5) = 2.5e11 without the rescue."""
    w, b = np.float32([[1.0, -0.5], [1.0, 0.25]]).reshape(2, 2, 1, 1), np.float32([1e9, 1.0])
    text = f"quantize-weights{{per-channel={str(per_channel).lower()}}},quantize-bias"
    result = run(text, layer(w, b))
    _, elem = weight_of(result.graph)
    bias = the_layer(result.graph).operands[2].producer.operands[0]
    stored = constant_data(bias).read()
    assert 2**30 < stored[0] < 2**31 - 1
    assert stored[0] * bias.type.elem.scales[0] == pytest.approx(1e9, rel=1e-6)
    assert elem.scales[0] == pytest.approx(1e9 / 0.5 / 2**31, rel=1e-3), "just enough"
    if per_channel:
        assert elem.scales[1] == pytest.approx(1 / 127)
    assert [n.text for n in result.notes] == [
        "weight scale raised in 1 channels: the int32 accumulator would overflow (N9)"
    ]


def test_no_note_without_need(run) -> None:
    assert run("quantize-weights", layer(weights(3, 2, 1, 1), weights(3))).notes == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float, run) -> None:
    w = weights(3, 2, 1, 1)
    w[1, 1] = bad
    with pytest.raises(InputError, match=r"^layer: the weight"):
        run("quantize-weights", layer(w))


# -------------------------------------------------------------------------------------------------------------- int4


@pytest.mark.parametrize(
    ("kind", "shape", "bits", "reason"),
    [
        (POINTWISE, (3, 2, 1, 1), 4, ""),
        (POINTWISE, (2, 3, 1, 1), 8, "an odd number of input channels, 3"),
        (nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 2), (4, 2, 1, 1), 8, "a grouped convolution"),
        (nn.Gemm(), (4, 3), 4, ""),
        (nn.Gemm(), (3, 4), 8, "an odd number of input channels, 3"),
        (nn.Gemm(trans_b=True), (3, 4), 4, ""),
        (nn.Gemm(trans_b=True), (4, 3), 8, "an odd number of input channels, 3"),
        (nn.MatMul(), (4, 3), 4, ""),
        (nn.MatMul(), (3, 4), 8, "an odd number of input channels, 3"),
        (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1)), (4, 3, 1, 1), 4, ""),
        (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1)), (3, 4, 1, 1), 8, "an odd number of input channels, 3"),
    ],
)
def test_what_cannot_be_packed_in_pairs_takes_eight_bits(
    kind: nn.Layer, shape: tuple[int, ...], bits: int, reason: str, run
) -> None:
    """N4: int4 is packed two to a byte along Cin."""
    result = run("quantize-weights{bits=4}", layer(weights(*shape), kind=kind))
    _, elem = weight_of(result.graph)
    assert elem.storage.bits == bits
    assert [n.text for n in result.notes] == ([f"weights stored in 8 bits, not 4: {reason} (N4)"] if reason else [])


def test_targets_without_int4(run) -> None:
    result = run("quantize-weights{bits=4}", layer(weights(2, 2, 1, 1)), target="ascend310")
    storage = weight_of(result.graph)[1].storage
    assert (storage == I8) == any("ascend310 stores no int4" in n.text for n in result.notes)


@pytest.mark.parametrize("bits", [2, 5, 16])
def test_bits_are_checked(bits: int, run) -> None:
    with pytest.raises(UsageError, match="weights are stored in 4 or 8 bits"):
        run(f"quantize-weights{{bits={bits}}}", layer(weights(2, 2, 1, 1)))


@pytest.mark.parametrize(
    ("kind", "shape", "bias"),
    [
        (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 2), (4, 3, 1, 1), (6,)),
        (nn.Gemm(), (3, 4), (2, 4)),
        (nn.Gemm(), (3, 4), (2, 1)),
        (nn.Gemm(), (3, 4), (1, 4)),
        (nn.Gemm(), (3, 4), ()),
    ],
)
def test_biases_of_other_shapes(kind: nn.Layer, shape: tuple[int, ...], bias: tuple[int, ...], run, real) -> None:
    """Quantizers that came with a model may sit before layers that ``legalize`` will return to float."""
    graph = layer(weights(*shape), np.asarray(RNG.standard_normal(bias), np.float32), kind=kind)
    result = run("quantize-weights,quantize-bias", graph).graph
    x = weights(*(2 if isinstance(d, str) else d for d in graph.inputs[0].type.dims))
    np.testing.assert_allclose(real(graph, x=x)["y"], real(result, x=x)["y"], atol=0.3)

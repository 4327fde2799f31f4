"""quantize-weights-only: which weights, their integers and scales, what is left in float and why."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import AmctcError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.ops import nn, quant
from amctc.types import F32, I4, I8, Array, QuantizedType, TensorType

RNG = np.random.default_rng(22)
X = GraphInput("x", TensorType(("N", 64), F32))


def product(x: Value, w: Array, name: str = "fc", kind: nn.Layer | None = None) -> Value:
    op_type = "MatMul" if kind is None else "Gemm"
    return apply(kind or nn.MatMul(), x, const(w, name=f"{name}.weight"), name=f"{name}.out",
                 origins=(Origin(name, op_type),))  # fmt: skip


def drawn(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def one(value: Value, x: GraphInput = X) -> Graph:
    return Graph((x,), (value,), ("y",))


def stored(graph: Graph) -> dict[str, tuple[QuantizedType, Array]]:
    """By layer: the type and the integers of its weight, where it has some."""
    found = {}
    for op in graph.ops:
        real = op.operands[1].producer if isinstance(op.kind, nn.Layer) else None
        if real is not None and isinstance(real.kind, quant.Dequantize):
            data = constant_data(real.operands[0])
            assert data is not None
            found[op.origins[0].name] = (real.operands[0].type.elem, data.read())
    return found


def test_per_channel_by_hand(run) -> None:
    x = GraphInput("x", TensorType(("N", 2), F32))
    w = np.float32([[1.27, -1.28], [-0.5, 0.64]])
    result = run("quantize-weights-only", one(product(x, w), x)).graph
    elem, integers = stored(result)["fc"]
    assert elem == QuantizedType.per_axis([np.float32(0.01), np.float32(0.01)], 1)
    assert integers.tolist() == [[127, -128], [-50, 64]]
    assert [op.result.name for op in result.ops][:2] == ["fc.weight.quant", "fc.weight.quant.dequant"]


def test_the_channels_of_a_transposed_weight(run) -> None:
    w = drawn(10, 64)
    plain = stored(run("quantize-weights-only", one(product(X, w.T))).graph)["fc"]
    transposed = stored(run("quantize-weights-only", one(product(X, w, kind=nn.Gemm(trans_b=True)))).graph)["fc"]
    assert (plain[0].axis, transposed[0].axis) == (1, 0)
    assert plain[0].scales == transposed[0].scales
    np.testing.assert_array_equal(plain[1], transposed[1].T)


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("bits", [4, 8])
def test_groups(bits: int, symmetric: str, run, real) -> None:
    w = drawn(80, 6) * np.repeat(np.float32([1, 10, 100]), [32, 32, 16])[:, None]
    x = GraphInput("x", TensorType(("N", 80), F32))
    result = run(f"quantize-weights-only{{bits={bits} group=32 symmetric={symmetric}}}", one(product(x, w), x)).graph
    elem, integers = stored(result)["fc"]
    assert (elem.block, elem.axis, len(elem.scales), elem.storage) == (32, 0, 18, I8 if bits == 8 else I4)
    assert any(elem.zero_points) == (symmetric == "false")
    scales = np.repeat(np.reshape(elem.scales, (3, 6)), [32, 32, 16], axis=0)
    zeros = np.repeat(np.reshape(elem.zero_points, (3, 6)), [32, 32, 16], axis=0)
    expected = (integers - zeros) * scales
    assert (np.abs(expected - w) <= scales * (1 + 2.0**-16)).all()
    feeds = np.eye(80, dtype=np.float32)
    np.testing.assert_allclose(real(result, x=feeds)["y"], expected, rtol=2.0**-22)


def test_a_weight_of_fewer_channels_has_one_group(run) -> None:
    elem, _ = stored(run("quantize-weights-only{group=64}", one(product(X, drawn(64, 3)))).graph)["fc"]
    assert (elem.block, elem.axis, len(elem.scales)) == (0, 1, 3)


def test_no_samples_and_nothing_else(run) -> None:
    """Convolutions and data stay as they are."""
    image = GraphInput("x", TensorType((1, 4, 4, 4), F32))
    pointwise = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), image, const(drawn(4, 4, 1, 1)))
    graph = one(pointwise, image)
    untouched = run("quantize-weights-only", graph)
    assert untouched.graph is graph
    assert [n.text for n in untouched.notes] == ["left in float: a convolution"]
    result = run("quantize-weights-only", one(product(X, drawn(64, 4)))).graph
    assert not any(isinstance(op.kind, quant.Quantize) for op in result.ops)


def test_a_shared_weight_is_stored_once(run) -> None:
    w = const(drawn(64, 64))
    inner = apply(nn.MatMul(), X, w, origins=(Origin("a", "MatMul"),))
    graph = one(apply(nn.MatMul(), inner, w, origins=(Origin("b", "MatMul"),)))
    result = run("quantize-weights-only", graph).graph
    assert set(stored(result)) == {"a", "b"}
    assert sum(isinstance(op.kind, quant.Dequantize) for op in result.ops) == 1


def test_integer_layers_are_left_to_their_own_pass(run) -> None:
    samples = [{"x": drawn(4, 64)}]
    graph = one(product(product(X, drawn(64, 64), "a"), drawn(64, 4), "b"))
    result = run("observe,place-qdq{skip=b},quantize-weights-only,quantize-weights", graph, samples).graph
    found = stored(result)
    assert set(found) == {"a", "b"}
    assert all(e.storage == I8 for e, _ in found.values())


@pytest.mark.parametrize(
    ("graph", "target", "reason"),
    [
        (one(product(X, drawn(64, 4))), "ascend910a", "ascend910a computes no integer weights under float data"),
        (one(product(X, drawn(3, 64, 4))), "ascend910b1", "the constant side is no matrix"),
        (one(product(X, drawn(64))), "ascend910b1", "the constant side is no matrix"),
        (one(apply(nn.MatMul(), X, apply(nn.Transpose((1, 0)), X))), "ascend910b1", "it is computed, not constant"),
    ],
)
def test_what_stays_is_noted(graph: Graph, target: str, reason: str, run) -> None:
    result = run("quantize-weights-only", graph, target=target)
    assert result.graph is graph
    assert [n.text for n in result.notes] == [f"left in float: {reason}"]


def test_skip(run) -> None:
    graph = one(product(product(X, drawn(64, 64), "block.a"), drawn(64, 4), "head"))
    result = run('quantize-weights-only{skip="block*"}', graph)
    assert set(stored(result.graph)) == {"head"}
    assert [(n.layer, n.text) for n in result.notes] == [("block.a", "left in float: skipped on request")]
    with pytest.raises(UsageError, match="skip 'haed' matches no layer"):
        run("quantize-weights-only{skip=haed}", graph)


def test_four_bits_come_in_pairs(run) -> None:
    x = GraphInput("x", TensorType(("N", 3), F32))
    result = run("quantize-weights-only{bits=4}", one(product(x, drawn(3, 4)), x))
    assert stored(result.graph)["fc"][0].storage == I8
    assert [n.text for n in result.notes] == [
        "weights stored in 8 bits, not 4: an odd number of input channels, 3 (N4)"
    ]


@pytest.mark.parametrize("option", ["bits=5", "group=16", "group=-32", "group=33"])
def test_options_are_checked(option: str, run) -> None:
    with pytest.raises(UsageError, match=option.split("=")[0]):
        run(f"quantize-weights-only{{{option}}}", one(product(X, drawn(64, 4))))


def test_a_weight_that_is_no_number_is_named(run) -> None:
    with pytest.raises(AmctcError, match="fc"):
        run("quantize-weights-only", one(product(X, np.full((64, 2), np.nan, np.float32))))


def test_a_layer_of_quantized_data_keeps_its_weight(run) -> None:
    """It is for quantize-weights; the layer behind it, whose data are float, is not."""
    data = apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(0.5)), X))
    inner = apply(nn.MatMul(), data, const(drawn(64, 8)), origins=(Origin("integer", "MatMul"),))
    outer = apply(nn.MatMul(), inner, const(drawn(8, 4)), origins=(Origin("float", "MatMul"),))
    assert list(stored(run("quantize-weights-only", one(outer)).graph)) == ["float"]

"""Preconditions that drawn graphs meet too seldom: each test has the graph that one of them is there for.

``tools/mutation/guards.py`` switches them off one at a time and wants a test to fail.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.numerics.fixed_point import pack_dequant
from amctc.ops import ascend, nn
from amctc.rewrite import Rewrite, RewriteLog, apply_rewrites
from amctc.schema import OpKind
from amctc.targets import DEFAULT_TARGET, load_profile
from amctc.types import BF16, F32, I8, I32, Array, Dim, ScalarType, TensorType
from amctc_passes.quantize.points import quantizable_ops
from amctc_patterns import moves, requant

RNG = np.random.default_rng(40)


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def data(*dims: Dim, elem: ScalarType = F32) -> GraphInput:
    return GraphInput("x", TensorType(dims, elem))


def graph_of(value: Value, x: GraphInput) -> Graph:
    return Graph((x,), (value,), ("y",))


def layer(kind: nn.Layer, x: Value, w: Array) -> Value:
    return apply(kind, x, const(w), origins=(Origin("layer", type(kind).__name__),))


# ------------------------------------------------------------------------------------------- fold-batch-norm, recompose


def test_a_product_with_a_vector_has_no_channels_to_normalise(run) -> None:
    """[2, 3, 4] · [4] is [2, 3]: its axis 1 is normalised, and no axis of the weight runs along it."""
    x = data(2, 3, 4)
    parameters = (const(np.abs(weights(3))) for _ in range(4))
    graph = graph_of(apply(nn.BatchNorm(), apply(nn.MatMul(), x, const(weights(4))), *parameters), x)
    assert run("fold-batch-norm", graph).graph is graph


def normalised(x: Value, *, first_kept: bool = True, second_kept: bool = True, one: Value | None = None) -> Value:
    """(x - mean) / √(variance + ε), or times ``one`` over the root."""
    centred = apply(nn.Sub(), x, apply(nn.ReduceMean((-1,), first_kept), x))
    variance = apply(nn.ReduceMean((-1,), second_kept), apply(nn.Pow(2.0), centred))
    deviation = apply(nn.Sqrt(), apply(nn.Add(), variance, const(np.float32(1e-5))))
    if one is None:
        return apply(nn.Div(), centred, deviation)
    return apply(nn.Mul(), centred, apply(nn.Div(), one, deviation))


@pytest.mark.parametrize("kept", [(True, False), (False, True), (False, False)])
def test_means_without_their_axis_go_along_another(kept: tuple[bool, bool], run) -> None:
    """On a square matrix the types agree: row i is less the mean of row j."""
    x = data(3, 3)
    graph = graph_of(normalised(x, first_kept=kept[0], second_kept=kept[1]), x)
    assert run("recompose", graph).graph is graph


@pytest.mark.parametrize("ones", [(2, 1, 1), (1, 1, 1)])
def test_a_one_that_broadcasts_is_no_number(ones: tuple[int, ...], run) -> None:
    x = data(3, 4)
    graph = graph_of(normalised(x, one=const(np.ones(ones, np.float32))), x)
    assert run("recompose", graph).graph is graph


def test_nothing_is_normalised_over_empty_axes(run) -> None:
    """ONNX Runtime refuses a LayerNormalization of no elements, and computes the formula."""
    x = data(2, 0)
    graph = graph_of(normalised(x), x)
    assert run("recompose", graph).graph is graph


@pytest.mark.parametrize("kind", [nn.Mul(), nn.Add()])
def test_an_unknown_axis_takes_no_scale_of_another(kind: nn.Mul | nn.Add, run) -> None:
    """Over [4, C] a scalar cannot be spread: [4] would lie along C."""
    x = data("N", 4, "C")
    norm = apply(nn.LayerNorm(-2), x, const(np.ones(1, np.float32)))
    graph = graph_of(apply(kind, norm, const(np.float32(2.0))), x)
    assert run("recompose", graph).graph is graph


# ------------------------------------------------------------------------------------------------------- merge-reshapes


SQUEEZED = (nn.Unsqueeze((0,)), nn.Squeeze((0,)))


@pytest.mark.parametrize(
    ("dims", "first", "second", "why"),
    [
        (("N", "M"), *SQUEEZED, "2 sizes of the result are not known"),
        ((4, 0, 1), nn.Flatten(2), nn.Unsqueeze((2,)), "the result is empty: -1 would not be determined"),
        # An axis of unknown size, squeezed: nothing but the squeeze says that it is 1.
        (("N", None), nn.Squeeze((1,)), nn.Unsqueeze((1,)), "a symbol of the result would be lost"),
    ],
)
def test_shapes_that_one_reshape_cannot_say(dims: tuple[Dim, ...], first: OpKind, second: OpKind, why: str) -> None:
    x = data(*dims)
    graph, log = graph_of(apply(second, apply(first, x)), x), RewriteLog()
    assert apply_rewrites(graph, [moves.merge_reshapes], log) is graph
    assert list(log.declined.values()) == [why]


# ------------------------------------------------------------------------------------------------- weights that decline


def reasons(run, text: str, graph: Graph, **context: str) -> list[str]:
    result = run(text, graph, **context)
    assert result.graph is graph
    return [note.text for note in result.notes]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mask-weights", "left dense: its weight is empty"),
        ("mask-n-of-m", "left dense: its weight is empty"),
        ("split-low-rank", "left whole: its weight is empty"),
    ],
)
def test_an_empty_weight(text: str, reason: str, run) -> None:
    x = data("N", 4)
    assert reasons(run, text, graph_of(layer(nn.MatMul(), x, weights(4, 0)), x)) == [reason]


def test_bfloat16_has_no_singular_values(run) -> None:
    x = data("N", 64, elem=BF16)
    graph = graph_of(layer(nn.MatMul(), x, weights(64, 64).astype(BF16.dtype)), x)
    assert reasons(run, "split-low-rank", graph) == ["left whole: NumPy has no singular values of bfloat16"]


@pytest.mark.parametrize(
    ("kind", "dims", "shape"),
    [(nn.MatMul(), ("N", 64), (64, 64)), (nn.Conv((1,), (1, 1), (1,)), ("N", 64, 9), (64, 64, 3))],
)
def test_the_existing_tool_splits_images_only(
    kind: nn.Layer, dims: tuple[Dim, ...], shape: tuple[int, ...], run
) -> None:
    x = data(*dims)
    graph = graph_of(layer(kind, x, weights(*shape)), x)
    assert reasons(run, "split-low-rank{evbmf}", graph) == [
        "left whole: the existing tool splits 2-d convolutions only"
    ]


def test_a_target_without_int8_adds_in_float() -> None:
    narrow = replace(load_profile(DEFAULT_TARGET), name="narrow", storage=frozenset())
    x = data("N", 3)
    graph = graph_of(apply(nn.Add(), x, x, origins=(Origin("total", "Add"),)), x)
    (found,) = quantizable_ops(graph, narrow, ["total"])
    assert found.obstacle == "narrow does not compute in int8"


# --------------------------------------------------------------------------------------------------------- fuse-requant


def left_alone(rule: Rewrite, value: Value, *inputs: GraphInput, also: Value | None = None) -> bool:
    """Whether the rule declines; ``also`` is a second output."""
    outputs = (value,) if also is None else (value, also)
    graph = Graph(inputs, outputs, ("y", "z")[: len(outputs)])
    return apply_rewrites(graph, [rule]) is graph


ACC = GraphInput("acc", TensorType((1, 2, 3, 3), I32))
IMAGE = GraphInput("q", TensorType((1, 2, 4, 4), I8))
POOL = ascend.SumPool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2), 0)


def test_leaky_relu_on_a_target_that_does_not_fuse_it() -> None:
    real = apply(ascend.Dequant(1), ACC, const(np.float32([0.01, 0.02])))
    leaky = apply(ascend.Quant(10.0, 0), apply(nn.LeakyRelu(0.1), real))
    assert not left_alone(requant.fuse_requant, leaky, ACC)
    assert left_alone(requant.fuse_requant_without_leaky, leaky, ACC)
    plain = apply(ascend.Quant(10.0, 0), apply(nn.Relu(), real))
    assert not left_alone(requant.fuse_requant_without_leaky, plain, ACC)


def averaged(scale: Value, sums: Value) -> Value:
    return apply(ascend.Dequant(1, divisor=POOL.area), sums, scale)


def test_only_the_dequantizer_of_an_average_becomes_one() -> None:
    sums, one = apply(POOL, IMAGE), const(np.float32([0.5]))
    shifted = const(pack_dequant(np.float32([0.5]), np.asarray([3])))
    assert not left_alone(requant.average_in_float, averaged(one, sums), IMAGE)
    assert left_alone(requant.average_in_float, averaged(const(np.float32([0.5, 0.25])), sums), IMAGE)
    assert left_alone(requant.average_in_float, averaged(shifted, sums), IMAGE)
    assert left_alone(requant.average_in_float, averaged(one, sums), IMAGE, also=sums)


def test_a_concatenation_that_others_read_keeps_its_quantizer_behind() -> None:
    x = data(1, 4, 3)
    joined = apply(nn.Concat(1), x, x)
    quantized = apply(ascend.Quant(10.0, 0), joined)
    assert not left_alone(requant.quantize_before_concat(4), quantized, x)
    assert left_alone(requant.quantize_before_concat(4), quantized, x, also=joined)
    along = apply(ascend.Quant(10.0, 0), apply(nn.Concat(2), x, x))
    assert left_alone(requant.quantize_before_concat(4), along, x)

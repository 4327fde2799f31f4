"""fold-affine, constants before a layer: what the layer takes, and what its borders would see."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.ops import nn
from amctc.types import F16, F32, Array, TensorType
from tests.unit.passes.inspection import close, left, read

RNG = np.random.default_rng(7)
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
ARITHMETIC = (nn.Add(), nn.Sub(), nn.Mul(), nn.Div())


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "first", "weight", "bias"),
    [
        # [3, 5]·x' + 1 with x' from x and c = [2, -4]
        (nn.Add(), False, [3, 5], 1 + 6 - 20),
        (nn.Sub(), False, [3, 5], 1 - 6 + 20),
        (nn.Sub(), True, [-3, -5], 1 + 6 - 20),
        (nn.Mul(), False, [6, -20], 1),
        (nn.Div(), False, [1.5, -1.25], 1),
    ],
)
def test_numbers_before_a_layer(kind: nn.Add, first: bool, weight: list[float], bias: float, run, find) -> None:
    x = GraphInput("x", TensorType((1, 2, 1, 1), F32))
    c = const(np.float32([2, -4]).reshape(2, 1, 1))
    inner = apply(kind, c, x) if first else apply(kind, x, c)
    y = apply(POINTWISE, inner, const(np.float32([3, 5]).reshape(1, 2, 1, 1)), const(np.float32([1])))
    conv = find(run("fold-affine", Graph((x,), (y,), ("y",))).graph, nn.Conv)
    assert conv.operands[0] is x
    np.testing.assert_array_equal(read(conv.operands[1]).ravel(), weight)
    np.testing.assert_array_equal(read(conv.operands[2]), [bias])


def beneath(kind: object, shape: tuple[int, ...], constant: tuple[int, ...]) -> dict[str, tuple[GraphInput, Value]]:
    """Layers on the op ``kind`` of an input of ``shape`` and a constant."""
    x = GraphInput("x", TensorType(shape, F32))
    c = const(np.asarray(weights(*constant), np.float32) + np.float32(0.5))
    inner = apply(kind, x, c)
    if len(shape) == 2:
        return {
            "gemm": (x, apply(nn.Gemm(0.5, 3.0), inner, const(weights(4, 5)), const(weights(1, 5)))),
            "gemm of a transpose": (x, apply(nn.Gemm(2.0, trans_a=True, trans_b=True), inner, const(weights(5, 6)))),
            "matmul": (x, apply(nn.MatMul(), inner, const(weights(4, 5)), const(weights(5)))),
        }
    transposed = nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1), 2)
    return {
        "conv": (x, apply(nn.Conv((1, 2), (0, 0, 0, 0), (1, 1)), inner, const(weights(5, 4, 2, 3)))),
        "grouped": (x, apply(nn.Conv((1, 1), (0, 0, 0, 0), (2, 1), 2), inner, const(weights(6, 2, 2, 2)))),
        "depthwise": (
            x,
            apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 4, nn.Relu()), inner, const(weights(8, 1, 3, 3))),
        ),
        "pointwise transpose": (x, apply(transposed, inner, const(weights(4, 3, 1, 1)), const(weights(6)))),
    }


IMAGE, ROWS = (2, 4, 5, 6), (6, 4)


@pytest.mark.parametrize("kind", ARITHMETIC, ids=lambda k: k.op_name)
@pytest.mark.parametrize("name", ["conv", "grouped", "depthwise", "pointwise transpose"])
@pytest.mark.parametrize("constant", [(4, 1, 1), (1, 4, 1, 1), (1, 1, 1), (1,), ()])
def test_folds_into_the_convolution_after(name: str, constant: tuple[int, ...], kind: nn.Add, run, real) -> None:
    x, y = beneath(kind, IMAGE, constant)[name]
    graph = Graph((x,), (y,), ("y",))
    result = run("fold-affine", graph).graph
    assert left(result) == [y.producer.kind.op_name]
    close(real, graph, result, x=weights(*IMAGE))


@pytest.mark.parametrize("kind", ARITHMETIC, ids=lambda k: k.op_name)
@pytest.mark.parametrize(
    ("name", "constant", "folds"),
    [
        ("gemm", (4,), True), ("gemm", (1, 4), True), ("gemm", (), True), ("gemm", (6, 1), False),
        ("gemm of a transpose", (6, 1), True), ("gemm of a transpose", (1,), True),
        ("gemm of a transpose", (4,), False), ("matmul", (4,), True), ("matmul", (6, 1), False),
    ],
)  # fmt: skip
def test_folds_into_the_product_after(
    name: str, constant: tuple[int, ...], folds: bool, kind: nn.Add, run, real
) -> None:
    x, y = beneath(kind, ROWS, constant)[name]
    graph = Graph((x,), (y,), ("y",))
    result = run("fold-affine", graph).graph
    assert (result is not graph) == folds
    close(real, graph, result, x=weights(*ROWS))


PADDED = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1))
STRIDED = nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1))
CROPPED = nn.ConvTranspose((1, 1), (1, 0, 0, 0), (1, 1))
EXTENDED = nn.ConvTranspose((1, 1), (0, 0, 0, 0), (2, 2), 1, (1, 1))
UNEVEN = {
    "padded": (PADDED, (3, 4, 3, 3)), "strided transpose": (STRIDED, (4, 3, 1, 1)),
    "cropped transpose": (CROPPED, (4, 3, 1, 1)), "wide transpose": (nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1)),
    (4, 3, 2, 1)), "output padding": (EXTENDED, (4, 3, 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNEVEN)
def test_a_shift_that_borders_would_see_stays_but_a_scale_folds(name: str, run, real) -> None:
    kind, shape = UNEVEN[name]
    x, c = GraphInput("x", TensorType(IMAGE, F32)), const(weights(4, 1, 1))
    shifted = Graph((x,), (apply(kind, apply(nn.Add(), x, c), const(weights(*shape))),), ("y",))
    assert run("fold-affine", shifted).graph is shifted
    scaled = Graph((x,), (apply(kind, apply(nn.Mul(), x, c), const(weights(*shape))),), ("y",))
    result = run("fold-affine", scaled).graph
    assert left(result) == [kind.op_name]
    close(real, scaled, result, x=weights(*IMAGE))


def test_normalised_images_fold_up_to_the_shift(run, real) -> None:
    """(x/255 - mean)/std in front of a padded convolution: the subtraction stays, the divisions do not."""
    x = GraphInput("x", TensorType((1, 4, 5, 6), F32))
    mean, std = const(weights(4, 1, 1)), const(RNG.uniform(0.2, 0.3, (4, 1, 1)).astype(np.float32))
    y = apply(nn.Div(), apply(nn.Sub(), apply(nn.Div(), x, const(np.float32(255))), mean), std)
    graph = Graph((x,), (apply(PADDED, y, const(weights(3, 4, 3, 3))),), ("y",))
    result = run("fold-affine", graph).graph
    assert left(result) == ["nn.div", "nn.sub", "nn.conv"]
    close(real, graph, result, x=RNG.integers(0, 256, (1, 4, 5, 6)).astype(np.float32))
    bare = Graph((x,), (apply(POINTWISE, y, const(weights(3, 4, 1, 1))),), ("y",))
    assert left(run("fold-affine", bare).graph) == ["nn.conv"]


def test_stacked_weights_have_no_common_bias(run, real) -> None:
    x = GraphInput("x", TensorType((2, 4, 3), F32))
    w = const(weights(2, 3, 5))
    shifted = Graph((x,), (apply(nn.MatMul(), apply(nn.Add(), x, const(weights(3))), w),), ("y",))
    assert run("fold-affine", shifted).graph is shifted
    scaled = Graph((x,), (apply(nn.MatMul(), apply(nn.Mul(), x, const(weights(3))), w),), ("y",))
    close(real, scaled, run("fold-affine", scaled).graph, x=weights(2, 4, 3))
    assert left(run("fold-affine", scaled).graph) == ["nn.matmul"]


def test_a_product_with_a_vector_takes_a_scale_of_its_input(run, real) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    graph = Graph((x,), (apply(nn.MatMul(), apply(nn.Mul(), x, const(weights(3))), const(weights(3))),), ("y",))
    result = run("fold-affine", graph).graph
    assert left(result) == ["nn.matmul"]
    close(real, graph, result, x=weights(2, 3))
    shifted = Graph((x,), (apply(nn.MatMul(), apply(nn.Add(), x, const(weights(3))), const(weights(3))),), ("y",))
    assert run("fold-affine", shifted).graph is shifted


def test_between_two_layers_the_first_takes_it(run, find) -> None:
    x = GraphInput("x", TensorType((1, 3), F32))
    first, second = const(weights(3, 4)), const(weights(4, 2))
    scaled = apply(nn.Mul(), apply(nn.MatMul(), x, first), const(weights(4)))
    result = run("fold-affine", Graph((x,), (apply(nn.MatMul(), scaled, second),), ("y",))).graph
    assert left(result) == ["nn.matmul", "nn.matmul"]
    assert result.ops[-1].operands[1] is second


@pytest.mark.parametrize("kind", ARITHMETIC, ids=lambda k: k.op_name)
def test_several_readers_stay(kind: nn.Add, run) -> None:
    x, c = GraphInput("x", TensorType((2, 3), F32)), const(weights(3) + np.float32(4))
    layer = apply(nn.MatMul(), x, const(weights(3, 3)))
    after = Graph((x,), (apply(kind, layer, c), layer), ("y", "layer"))
    assert run("fold-affine", after).graph is after
    inner = apply(kind, x, c)
    before = Graph((x,), (apply(nn.MatMul(), inner, const(weights(3, 3))), inner), ("y", "inner"))
    assert run("fold-affine", before).graph is before


def test_activation_of_the_layer_after_is_kept(run, find, real) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    inner = apply(nn.Sub(), const(weights(3)), x)
    graph = Graph((x,), (apply(nn.Gemm(activation=nn.Clip(0.0, 6.0)), inner, const(weights(3, 4))),), ("y",))
    result = run("fold-affine", graph).graph
    assert find(result, nn.Gemm).kind.activation == nn.Clip(0.0, 6.0)
    close(real, graph, result, x=weights(2, 3))


def test_a_computed_bias_and_one_per_row_take_a_scale_only(run, real) -> None:
    x, b = GraphInput("x", TensorType((2, 3), F32)), GraphInput("b", TensorType((2, 4), F32))
    scaled, shifted = (apply(k, x, const(weights(3))) for k in (nn.Mul(), nn.Add()))
    graph = Graph((x, b), (apply(nn.Gemm(1.0, 2.0), scaled, const(weights(3, 4)), b),), ("y",))
    result = run("fold-affine", graph).graph
    assert left(result) == ["nn.gemm"]
    close(real, graph, result, x=weights(2, 3), b=weights(2, 4))
    stays = Graph((x, b), (apply(nn.Gemm(1.0, 2.0), shifted, const(weights(3, 4)), b),), ("y",))
    assert run("fold-affine", stays).graph is stays


@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan])
def test_division_by_zero_and_constants_that_are_not_finite_stay(bad: float, run) -> None:
    x = GraphInput("x", TensorType((2, 3), F32))
    c = const(np.float32([1, bad, 2]))
    graph = Graph((x,), (apply(nn.Div(), apply(nn.MatMul(), x, const(weights(3, 3))), c),), ("y",))
    assert run("fold-affine", graph).graph is graph
    graph = Graph((x,), (apply(nn.MatMul(), apply(nn.Div(), x, c), const(weights(3, 3))),), ("y",))
    assert run("fold-affine", graph).graph is graph


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(("factor", "folds"), [(300.0, False), (2.0**-14, False), (0.5, True), (0.0, True)])
def test_float16_range(side: str, factor: float, folds: bool, run) -> None:
    """400·300 is past the largest float16, 400·2^-14 has bits left; 2^-8·2^-14 has not, though 400 hides it."""
    x = GraphInput("x", TensorType((1, 1), F16))
    w, c = const(np.float16([[400.0 if factor > 1 else 2.0**-8]])), const(np.float16(factor))
    y = (apply(nn.MatMul(), apply(nn.Mul(), x, c), w) if side == "before"
         else apply(nn.Mul(), apply(nn.MatMul(), x, w), c))  # fmt: skip
    graph = Graph((x,), (y,), ("y",))
    assert (run("fold-affine", graph).graph is not graph) == folds


def test_empty_layers_fold_or_stay_without_an_error(run) -> None:
    for rows, columns in ((0, 3), (3, 0), (0, 0)):
        x = GraphInput("x", TensorType((2, rows), F32))
        inner = apply(nn.Add(), x, const(np.ones((rows,), np.float32)))
        y = apply(nn.Mul(), apply(nn.MatMul(), inner, const(np.ones((rows, columns), np.float32))), const(weights(1)))
        result = run("fold-affine", Graph((x,), (y,), ("y",))).graph
        assert result.outputs[0].type.dims == (2, columns)


def test_large_weights_are_deferred(run, find) -> None:
    x, w = GraphInput("x", TensorType((1, 256), F32)), const(weights(256, 128))
    graph = Graph((x,), (apply(nn.MatMul(), apply(nn.Mul(), x, const(weights(256))), w),), ("y",))
    layer = find(run("fold-affine", graph).graph, nn.MatMul)
    assert type(constant_data(layer.operands[1])).__name__ == "DeferredData"

"""Constraints and result types of the target's layers; the accumulator of an average pool."""

from __future__ import annotations

from typing import Any

import pytest

from amctc.errors import TypeConstraintError
from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.types import F16, F32, I4, I8, I32, U8, U64, Dim, ScalarType, TensorType

WINDOW: dict[str, Any] = {"strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
IMAGE, WEIGHT, BIAS = (TensorType(s, e) for s, e in (((1, 4, 5, 5), I8), ((4, 3, 2, 2), I8), ((6,), I32)))


def t(*shape: Dim, elem: ScalarType = I8) -> TensorType:
    return TensorType(shape, elem)


def test_result_types() -> None:
    transposed = ascend.ConvTranspose(**WINDOW, group=2, output_padding=(1, 0))
    assert transposed.infer(IMAGE, WEIGHT, BIAS) == (t(1, 6, 11, 10, elem=I32),)
    assert ascend.BatchMatMul().infer(t(2, 3, 4), t("N", 1, 4, 5)) == (t("N", 2, 3, 5, elem=I32),)
    assert ascend.SumPool(**WINDOW, kernel=(2, 3)).infer(IMAGE) == (t(1, 4, 2, 2, elem=I32),)
    assert ascend.DynamicQuant().infer(t("N", 2, 4, elem=F16)) == (t("N", 2, 4), t("N", 2, elem=F32))
    acc, step = t("N", 2, 4, elem=I32), t("N", 2, elem=F32)
    assert ascend.DequantRows(F16).infer(acc, t(4, elem=F32), step, None) == (t("N", 2, 4, elem=F16),)
    product = ascend.WeightQuantMatMul(group=2)
    parameters = t(3, 7, elem=F32), t(3, 7, elem=I32), t(7, elem=F16)
    assert product.infer(t("N", 6, elem=F16), t(6, 7, elem=I4), *parameters) == (t("N", 7, elem=F16),)


BROKEN: dict[str, tuple[OpKind, tuple[TensorType | None, ...], int]] = {
    "float data": (ascend.ConvTranspose(**WINDOW, group=2), (t(1, 4, 5, 5, elem=F32), WEIGHT), 5),
    "unsigned weight": (ascend.ConvTranspose(**WINDOW, group=2), (IMAGE, t(4, 3, 2, 2, elem=U8)), 5),
    "channels": (ascend.ConvTranspose(**WINDOW), (t(1, 5, 5, 5), WEIGHT), 3),
    "bias length": (ascend.ConvTranspose(**WINDOW), (IMAGE, WEIGHT, BIAS), 4),
    "offset": (ascend.ConvTranspose(**WINDOW, offset_x=128), (IMAGE, WEIGHT), 8),
    "dilation": (ascend.ConvTranspose((1, 1), (0,) * 4, (1, 2)), (IMAGE, WEIGHT), 9),
    "output padding": (ascend.ConvTranspose(**WINDOW, output_padding=(2, 0)), (IMAGE, WEIGHT), 7),
    "one output padding": (ascend.ConvTranspose(**WINDOW, output_padding=(1,)), (IMAGE, WEIGHT), 7),
    "a vector": (ascend.BatchMatMul(), (t(4), t(4, 5)), 1),
    "inner dimensions": (ascend.BatchMatMul(), (t(3, 4), t(5, 4)), 3),
    "leading axes": (ascend.BatchMatMul(), (t(2, 3, 4), t(3, 4, 5)), 3),
    "int4 side": (ascend.BatchMatMul(), (t(3, 4), t(4, 5, elem=I4)), 5),
    "product bias": (ascend.BatchMatMul(), (t(3, 4), t(4, 5), t(4, elem=I32)), 4),
    "rank of pooled data": (ascend.SumPool(**WINDOW, kernel=(2, 2)), (t(4, 4),), 1),
    "kernel": (ascend.SumPool(**WINDOW, kernel=(2,)), (IMAGE,), 2),
    "pads": (ascend.SumPool((1, 1), (2, 0, 0, 0), (1, 1), (2, 2)), (IMAGE,), 3),
    "window": (ascend.SumPool(**WINDOW, kernel=(6, 2)), (IMAGE,), 6),
    "dilated pool": (ascend.SumPool((1, 1), (0,) * 4, (2, 1), (2, 2)), (IMAGE,), 8),
    "a window of too many positions": (ascend.SumPool((1,), (0, 0), (1,), (1 << 24,)), (t(1, 1, 1 << 24),), 8),
    "scales of groups": (ascend.WeightQuantMatMul(group=4), (t(2, 6, elem=F32), t(6, 7), t(3, 7, elem=F32)), 6),
    "a scale for all groups": (ascend.WeightQuantMatMul(group=4), (t(2, 6, elem=F32), t(6, 7), t(1, elem=F32)), 6),
    "scales of the wrong axis": (ascend.WeightQuantMatMul(), (t(2, 6, elem=F32), t(6, 7), t(6, elem=F32)), 6),
    "offsets of another shape": (
        ascend.WeightQuantMatMul(), (t(2, 6, elem=F32), t(6, 7), t(7, elem=F32), t(1, elem=I32)), 6,
    ),
    "a bias of another type": (
        ascend.WeightQuantMatMul(), (t(2, 6, elem=F16), t(6, 7), t(7, elem=F32), None, t(7, elem=F32)), 5,
    ),
    "integer data": (ascend.WeightQuantMatMul(), (t(2, 6), t(6, 7), t(7, elem=F32)), 5),
    "turned weight": (ascend.WeightQuantMatMul(True), (t(2, 6, elem=F32), t(6, 7), t(6, elem=F32)), 3),
    "integer rows": (ascend.DynamicQuant(), (t(3, 4),), 1),
    "a row alone": (ascend.DynamicQuant(), (t(4, elem=F32),), 2),
    "rows of a float": (ascend.DequantRows(), (t(3, 4, elem=F32), t(4, elem=F32), t(3, elem=F32)), 1),
    "an accumulated row": (ascend.DequantRows(), (t(4, elem=I32), t(4, elem=F32), t(elem=F32)), 1),
    "packed scales of rows": (ascend.DequantRows(), (t(3, 4, elem=I32), t(4, elem=U64), t(3, elem=F32)), 2),
    "integer bias of rows": (
        ascend.DequantRows(), (t(3, 4, elem=I32), t(1, elem=F32), t(3, elem=F32), t(4, elem=I32)), 2,
    ),
    "scales of columns": (ascend.DequantRows(), (t(3, 4, elem=I32), t(3, elem=F32), t(3, elem=F32)), 3),
    "steps of columns": (ascend.DequantRows(), (t(3, 4, elem=I32), t(1, elem=F32), t(4, elem=F32)), 4),
    "bias of rows": (ascend.DequantRows(), (t(3, 4, elem=I32), t(1, elem=F32), t(3, elem=F32), t(3, elem=F32)), 5),
    "rows to int8": (ascend.DequantRows(I8), (t(3, 4, elem=I32), t(1, elem=F32), t(3, elem=F32)), 6),
    "divisor": (ascend.Dequant(1, divisor=0), (t(1, 4, elem=I32), t(4, elem=F32)), 5),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_constraints(name: str) -> None:
    kind, operands, number = BROKEN[name]
    with pytest.raises(TypeConstraintError) as caught:
        kind.infer(*operands)
    assert caught.value.rule == f"{kind.op_name}.C{number}"


def pool(**fields: Any) -> nn.AveragePool:
    return nn.AveragePool(**{**WINDOW, "kernel": (2, 2), **fields})


@pytest.mark.parametrize(
    ("kind", "size", "divides"),
    [
        (pool(), "H", True),
        (pool(pads=(1, 0, 0, 0)), 5, False),
        (pool(pads=(1, 0, 0, 0), count_include_pad=True), "H", True),
        (pool(ceil_mode=True), 4, True),
        (pool(ceil_mode=True), 5, False),
        (pool(ceil_mode=True), "H", False),  # nobody knows
        (pool(ceil_mode=True, pads=(0, 0, 1, 1), count_include_pad=True), 5, True),
        (pool(ceil_mode=True, pads=(1, 1, 1, 1), count_include_pad=True), 5, True),  # the last is dropped
        (pool(dilations=(2, 1)), 5, False),
    ],
)
def test_the_sum_of_an_average_pool(kind: nn.AveragePool, size: Dim, divides: bool) -> None:
    """Only where every window counts all its positions does one division serve them all."""
    x = t(1, 3, size, size)
    sums = ascend.SumPool.of(kind, x, 7)
    assert (sums is not None) == divides
    if sums is not None:
        assert (sums.area, sums.offset_x) == (4, 7)
        assert sums.infer(x)[0].dims == kind.infer(t(1, 3, size, size, elem=F32))[0].dims

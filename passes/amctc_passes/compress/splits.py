"""The ways a layer splits into two of lower rank: what a rank costs, what it loses, and the two layers.

Sources: Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions", 2014, scheme 2 (k×1 and
1×k); Zhang et al., "Accelerating very deep convolutional networks for classification and detection", 2015 (SVD of the
weight). The arithmetic is in :mod:`amctc.numerics.low_rank`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from amctc.ir import LAYER_OP_TYPES, Op, Origin, Origins, Value, apply
from amctc.numerics.low_rank import Factors, full_rank, singular_values, split_matrix, split_pointwise, split_spatial
from amctc.ops import nn
from amctc.types import Array, Dim

Method = Literal["spatial", "pointwise", "auto"]
Form = Literal["vertical", "horizontal", "pointwise", "matrix"]
Splittable = nn.Conv | nn.Gemm | nn.MatMul


@dataclass(frozen=True)
class Split:
    """One way to split a layer.

    ``full`` and ``per_rank`` are multiply-accumulates per position of the result: of the layer as it is, and of the two
    for each rank. ``most`` is the largest rank.
    """

    form: Form
    full: float
    per_rank: float
    most: int

    def singular(self, weight: Array) -> NDArray[np.float64]:
        """Singular values, falling, of the matrix that the split factors."""
        if self.form == "matrix":
            return singular_values(weight, "matrix")
        if self.form == "pointwise":
            return singular_values(_columns(weight), "pointwise")
        return singular_values(weight, "spatial", vertical_first=self.form == "vertical")

    def factors(self, weight: Array, kind: Splittable, rank: int) -> Factors:
        """The weights of the first and the last layer, in the form in which ``kind`` has them."""
        if self.form == "matrix":
            left, right = split_matrix(weight, rank)
            return Factors(right, left) if isinstance(kind, nn.Gemm) and kind.trans_b else Factors(left, right)
        if self.form == "pointwise":
            first, last = split_pointwise(_columns(weight), rank)
            flat = (1,) * (weight.ndim - 2)
            return Factors(first.reshape(rank, -1, *flat), last.reshape(-1, rank, *weight.shape[2:]))
        return split_spatial(weight, rank, vertical_first=self.form == "vertical")

    def kinds(self, kind: Splittable, kernel: tuple[int, ...]) -> tuple[Splittable, Splittable]:
        """The two layers' attributes: the activation and the factors of a Gemm stay on the last.

        Stride, padding and dilation go with their axis; those of a 1×1 kernel to the first layer, so that the last
        sees the smaller result.
        """
        if isinstance(kind, nn.Gemm):
            return nn.Gemm(trans_a=kind.trans_a, trans_b=kind.trans_b), replace(kind, trans_a=False)
        if isinstance(kind, nn.MatMul):
            return nn.MatMul(), kind
        everything = range(len(kernel)) if math.prod(kernel) == 1 else ()
        first = {"vertical": (0,), "horizontal": (1,)}.get(self.form, tuple(everything))
        last = tuple(i for i in range(len(kernel)) if i not in first)
        return replace(_windowed(kind, first), activation=None), _windowed(kind, last)

    def title(self, kernel: tuple[int, ...]) -> str:
        """What the layer becomes, in words."""
        if self.form == "matrix":
            return "two products"
        ones = (1,) * len(kernel)
        first, last = {
            "vertical": ((*kernel[:1], 1), (1, *kernel[1:])), "horizontal": ((1, *kernel[1:]), (*kernel[:1], 1)),
        }.get(self.form, (ones, kernel))  # fmt: skip
        return " and ".join("×".join(map(str, k)) for k in (first, last))


def splits(op: Op, method: Method) -> Iterator[Split]:
    """The ways that ``method`` allows for a layer with a constant weight; a matrix has one, whatever the method."""
    kind, x, w = op.kind, op.operands[0], op.operands[1]
    assert x is not None
    assert w is not None
    shape = tuple(d for d in w.type.dims if isinstance(d, int))
    if not isinstance(kind, nn.Conv):
        yield Split("matrix", math.prod(shape), sum(shape), min(shape))
        return
    outputs, inputs, *kernel = shape
    full, taps = math.prod(shape), math.prod(kernel)
    steps = [_step(*sizes) for sizes in zip(x.type.dims[2:], op.result.type.dims[2:], kind.strides, strict=True)]
    if method != "pointwise" and len(kernel) == 2 and min(kernel) > 1:
        (height, width), (down, across) = kernel, steps
        sides = outputs, inputs, height, width
        yield Split("vertical", full, inputs * height * across + outputs * width, full_rank(sides))
        most = full_rank(sides, vertical_first=False)
        yield Split("horizontal", full, inputs * width * down + outputs * height, most)
    if method != "spatial":
        area = 1.0 if taps == 1 else math.prod(steps)
        yield Split("pointwise", full, inputs * area + outputs * taps, min(inputs, outputs * taps))


def obstacle(op: Op) -> str | None:
    """Why a layer with a constant weight does not split at all; ``None`` when it can."""
    kind, w = op.kind, op.operands[1]
    assert w is not None
    if isinstance(kind, nn.ConvTranspose):
        return "a transposed convolution"
    if isinstance(kind, nn.Conv) and kind.group != 1:
        return "a grouped convolution"
    if isinstance(kind, nn.MatMul) and w.type.rank != 2:
        return "the constant side is no matrix"
    return None if w.type.num_elements else "its weight is empty"


def pieces(op: Op, names: tuple[str, str]) -> tuple[Origins, Origins]:
    """Origins of the two layers: those of ``op`` with the layer itself under a new name.

    What was fused into the layer stays with the last, where the bias and the activation are.
    """
    at = next((i for i, o in enumerate(op.origins) if o.op_type in LAYER_OP_TYPES), None)
    if at is None:
        of_type = type(op.kind).__name__
        return (Origin(names[0], of_type),), (Origin(names[1], of_type), *op.origins)
    of_type = op.origins[at].op_type
    return (Origin(names[0], of_type),), (*op.origins[:at], Origin(names[1], of_type), *op.origins[at + 1 :])


def built(
    op: Op,
    operands: tuple[Value | None, ...],
    split: Split,
    weights: tuple[Value, Value],
    origins: tuple[Origins, Origins],
) -> Value:
    """The result of the last of the two layers over ``operands``, with the weights of both."""
    kind, w = op.kind, op.operands[1]
    assert isinstance(kind, Splittable)
    assert w is not None
    first, last = split.kinds(kind, tuple(d for d in w.type.dims[2:] if isinstance(d, int)))
    name = None if op.result.name is None else f"{op.result.name}/0"
    inner = apply(first, operands[0], weights[0], name=name, origins=origins[0])
    return apply(last, inner, weights[1], *operands[2:], name=op.result.name, origins=origins[1])


def _columns(weight: Array) -> Array:
    """A kernel of any number of axes as [O, I, taps, 1]."""
    return weight.reshape(*weight.shape[:2], -1, 1)


def _step(size: Dim, result: Dim, stride: int) -> float:
    """Positions of the data per position of the result along an axis: the stride where the sizes are unknown."""
    return size / result if isinstance(size, int) and isinstance(result, int) and result else float(stride)


def _windowed(kind: nn.Conv, axes: tuple[int, ...]) -> nn.Conv:
    """The window of ``kind`` along ``axes``, that of a 1×1 convolution along the others."""
    count = len(kind.strides)
    return replace(
        kind,
        strides=tuple(s if i in axes else 1 for i, s in enumerate(kind.strides)),
        pads=tuple(p if i % count in axes else 0 for i, p in enumerate(kind.pads)),
        dilations=tuple(d if i in axes else 1 for i, d in enumerate(kind.dilations)),
    )

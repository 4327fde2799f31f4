"""nn ops that reduce axes to one number."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.pointwise import same_float
from amctc.ops.shapes import normalized_axes
from amctc.schema import OpKind, Trait, register
from amctc.types import TensorType


@dataclass(frozen=True)
class Reduction(OpKind):
    """What every reduction has: the axes, negative ones from the end, and whether they stay with size 1."""

    axes: tuple[int, ...]
    keepdims: bool = True

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 at least one axis, all in range and once each."""
        (x,) = operands
        elem = same_float(self, 1, x)
        assert x is not None
        self.require(len(self.axes) >= 1, 2, "no axis to reduce")
        axes = normalized_axes(self.axes, x.rank, f"{self.op_name}.C2")
        kept = (1 if i in axes else d for i, d in enumerate(x.dims) if self.keepdims or i not in axes)
        return (TensorType(tuple(kept), elem),)


@register("nn.reduce_mean", "x")
@dataclass(frozen=True)
class ReduceMean(Reduction):
    """The mean over ``axes`` (ONNX ReduceMean; the axes are an attribute before opset 18)."""


@register("nn.reduce_sum", "x")
@dataclass(frozen=True)
class ReduceSum(Reduction):
    """The sum over ``axes`` (ONNX ReduceSum; the axes are an attribute before opset 13)."""


@register("nn.reduce_max", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class ReduceMax(Reduction):
    """The largest element over ``axes`` (ONNX ReduceMax); -inf over no elements, NaN wins."""

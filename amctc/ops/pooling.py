"""nn ops that pool over spatial windows."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.linear import Windowed
from amctc.ops.pointwise import same_float
from amctc.ops.shapes import window_shape
from amctc.schema import OpKind, Trait, register
from amctc.types import Shape, TensorType


@dataclass(frozen=True)
class _Pool(Windowed):
    kernel: tuple[int, ...]
    ceil_mode: bool = False

    def pooled(self, x: TensorType) -> Shape:
        """C1 rank, C2 windows, C3 pads smaller than the kernel, C6 the window fits."""
        self.require(x.rank >= 3, 1, f"{x} has no spatial axes")
        spatial = x.rank - 2
        self.require(len(self.kernel) == spatial and min(self.kernel) >= 1, 2,
                     f"kernel {list(self.kernel)} on {spatial} axes")  # fmt: skip
        self.check_windows(spatial)
        extents = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)] * 2
        self.require(all(p < e for p, e in zip(self.pads, extents, strict=True)), 3,
                     f"pads {list(self.pads)} reach past the kernel {list(self.kernel)}")  # fmt: skip
        sizes = window_shape(x.dims[2:], self.kernel, self.strides, self.pads, self.dilations, f"{self.op_name}.C6",
                             self.ceil_mode)  # fmt: skip
        return *x.dims[:2], *sizes


@register("nn.max_pool", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest element of each window (ONNX MaxPool); padding never wins. Works on any ordered element type."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """Constraints of pooling; C4: a quantized operand has one scale."""
        (x,) = operands
        assert x is not None
        self.require(getattr(x.elem, "axis", None) is None, 4, "per-channel scales under a pool")
        return (TensorType(self.pooled(x), x.elem),)


@register("nn.average_pool", "x")
@dataclass(frozen=True)
class AveragePool(_Pool):
    """Mean of each window (ONNX AveragePool); ``count_include_pad`` counts padding as zeros."""

    count_include_pad: bool = False

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """Constraints of pooling; C5: floating point."""
        (x,) = operands
        elem = same_float(self, 5, x)
        assert x is not None
        return (TensorType(self.pooled(x), elem),)


@register("nn.global_average_pool", "x")
@dataclass(frozen=True)
class GlobalAveragePool(OpKind):
    """Mean over all spatial axes, each kept with size 1."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 at least one spatial axis, C5 floating point."""
        (x,) = operands
        elem = same_float(self, 5, x)
        assert x is not None
        self.require(x.rank >= 3, 1, f"{x} has no spatial axes")
        return (TensorType((*x.dims[:2], *(1 for _ in x.dims[2:])), elem),)


@register("nn.global_max_pool", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class GlobalMaxPool(OpKind):
    """The largest element over all spatial axes, each kept with size 1. Works on any ordered element type."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 at least one spatial axis, all with elements; C4 one scale."""
        (x,) = operands
        assert x is not None
        self.require(x.rank >= 3 and 0 not in x.dims[2:], 1, f"{x} has nothing to pool")
        self.require(getattr(x.elem, "axis", None) is None, 4, "per-channel scales under a pool")
        return (TensorType((*x.dims[:2], *(1 for _ in x.dims[2:])), x.elem),)

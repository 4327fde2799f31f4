"""nn.resize: resampling by nearest neighbour or linear interpolation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from amctc.ops.layout import one_scale
from amctc.ops.shapes import normalized_axes
from amctc.schema import OpKind, register
from amctc.types import Dim, TensorType

MODES = ("nearest", "linear")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@register("nn.resize", "x")
@dataclass(frozen=True)
class Resize(OpKind):
    """``axes`` resampled to ``sizes``, or by ``scales`` (ONNX Resize, opset 11); the other is empty.

    ``coordinates`` says where a result element lies in the operand (coordinate_transformation_mode); ``rounding`` which
    neighbour is the nearest (nearest_mode). Linear interpolation runs along one axis after the other. Cubic
    interpolation, regions of interest and antialiasing have no form here.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point for linear, C2 axes and known modes, C3 a positive size or scale per axis, C4 one scale."""
        (x,) = operands
        assert x is not None
        known = self.mode in MODES and self.coordinates in COORDINATES and self.rounding in ROUNDINGS
        self.require(known, 2, f"{self.mode}, {self.coordinates}, {self.rounding}")
        self.require(self.mode == "nearest" or x.is_float, 1, f"linear interpolation of {x.elem}")
        axes = normalized_axes(self.axes, x.rank, f"{self.op_name}.C2")
        one_of = sorted((len(self.sizes), len(self.scales))) == [0, len(axes)] and len(axes) >= 1
        positive = all(0 < s < math.inf for s in (*self.sizes, *self.scales))
        self.require(one_of and positive, 3, f"sizes {[*self.sizes]} and scales {[*self.scales]} for {len(axes)} axes")
        one_scale(self, x)
        dims: list[Dim] = [*x.dims]
        for i, axis in enumerate(axes):
            self.require(dims[axis] != 0, 3, f"{x} has no elements to resample")
            dims[axis] = self.sizes[i] if self.sizes else scaled_dim(dims[axis], self.scales[i])
        return (TensorType(tuple(dims), x.elem),)


def scaled_dim(size: Dim, scale: float) -> Dim:
    """floor(size · scale), the product in float32 as ONNX computes it."""
    return int(np.floor(np.float32(size) * np.float32(scale))) if isinstance(size, int) else None

"""The layers of the ``ascend`` dialect: integers in, int32 accumulators out (N7, N8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from amctc.ops.linear import ConvWindow, Windowed, transposed_shape, unpack
from amctc.ops.pooling import AveragePool
from amctc.ops.shapes import broadcast, window_output, window_shape
from amctc.schema import OpKind, Trait, register
from amctc.types import I4, I8, I32, ScalarType, TensorType, dims_agree


def one_of(kind: OpKind, number: int, operand: TensorType | None, *allowed: ScalarType) -> None:
    """Constraint C``number``: the element type of an operand, if present, is one of ``allowed``."""
    if operand is not None:
        kind.require(operand.elem in allowed, number, f"{operand.elem} is none of {', '.join(map(str, allowed))}")


def _check_integers(kind: OpKind, x: TensorType, w: TensorType, b: TensorType | None) -> None:
    """C5: int8 data, int8 or int4 weight, int32 bias."""
    one_of(kind, 5, x, I8)
    one_of(kind, 5, w, I8, I4)
    one_of(kind, 5, b, I32)


def _check_offset(kind: OpKind, offset_x: int, number: int = 7) -> None:
    kind.require(-128 <= offset_x <= 127, number, f"offset_x {offset_x}")


@register("ascend.conv", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class Conv(ConvWindow):
    """int8 convolution with int32 accumulation (N7, N8): Σ w·(x - offset_x) + b, padding counts as offset_x."""

    offset_x: int = 0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """Constraints of convolution; C5: int8 data and weight, int32 bias; C7: offset_x is an int8."""
        x, w, b = unpack(operands)
        _check_integers(self, x, w, b)
        _check_offset(self, self.offset_x)
        return (TensorType(self.conv_shape(x, w, b), I32),)


@register("ascend.conv_transpose", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class ConvTranspose(ConvWindow):
    """int8 transposed convolution, w ``[C, O/group, kernel…]`` (N7, N8): Σ w·(x - offset_x) + b over real inputs.

    The zeros that the stride inserts, and the padding, count as offset_x, so they add nothing.
    """

    output_padding: tuple[int, ...] = ()
    offset_x: int = 0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """Constraints of transposed convolution; C5 and C8 (offset_x) as of :class:`Conv`; C9: dilation 1.

        C7 also bounds output padding by the stride, as ONNX Runtime does.
        """
        x, w, b = unpack(operands)
        _check_integers(self, x, w, b)
        _check_offset(self, self.offset_x, 8)
        shape = transposed_shape(self, x, w, b, self.output_padding)
        bounded = all(0 <= e < s for e, s in zip(self.output_padding, self.strides, strict=False))
        self.require(bounded, 7, f"output padding {[*self.output_padding]} for strides {[*self.strides]}")
        self.require(set(self.dilations) == {1}, 9, f"dilations {[*self.dilations]}")
        return (TensorType(shape, I32),)


@register("ascend.matmul", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class MatMul(OpKind):
    """int8 matrix product, int32 accumulation (N7, N8): x ``[…, K]``, w ``[K, N]`` or, ``trans_b``, ``[N, K]``."""

    trans_b: bool = False
    offset_x: int = 0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 ranks, C3 inner dimensions, C4 bias length, C5 element types, C7 offset_x is an int8."""
        x, w, b = unpack(operands)
        _check_integers(self, x, w, b)
        self.require(x.rank >= 1 and w.rank == 2, 1, f"x {x} and w {w}")
        inner, columns = w.dims[::-1] if self.trans_b else w.dims
        self.require(dims_agree(x.dims[-1], inner), 3, f"inner dimensions {x.dims[-1]} and {inner}")
        self.require(b is None or (b.rank == 1 and dims_agree(b.dims[0], columns)), 4, f"bias {b} for {columns}")
        _check_offset(self, self.offset_x)
        return (TensorType((*x.dims[:-1], columns), I32),)


@register("ascend.batch_matmul", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class BatchMatMul(OpKind):
    """int8 product of two computed matrices, int32 accumulation (N7): ``[…, M, K]`` by ``[…, K, N]``, plus ``b [N]``.

    Both sides are symmetric: with offsets, each would need the sums of the other, which only constants have.
    """

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 ranks of at least 2, C3 inner dimensions and leading axes, C4 bias length, C5 element types."""
        x, w, b = unpack(operands)
        one_of(self, 5, x, I8)
        one_of(self, 5, w, I8)
        one_of(self, 5, b, I32)
        self.require(x.rank >= 2 and w.rank >= 2, 1, f"{x} or {w} is no matrix")
        self.require(dims_agree(x.dims[-1], w.dims[-2]), 3, f"inner dimensions {x.dims[-1]} and {w.dims[-2]}")
        columns = w.dims[-1]
        self.require(b is None or (b.rank == 1 and dims_agree(b.dims[0], columns)), 4, f"bias {b} for {columns}")
        batch = broadcast(x.dims[:-2], w.dims[:-2], f"{self.op_name}.C3")
        return (TensorType((*batch, x.dims[-2], columns), I32),)


LARGEST_AREA = (1 << 31) // 255
"""Positions of int8 data whose differences to an offset, 255 at most, add up inside int32."""


@register("ascend.sum_pool", "x")
@dataclass(frozen=True)
class SumPool(Windowed):
    """The accumulator of int8 AveragePool (N26): Σ (x - offset_x) over each window, padding counts as offset_x.

    The division by the number of positions, :attr:`area`, is left to the scale of the dequantizer.
    """

    kernel: tuple[int, ...]
    offset_x: int = 0

    @property
    def area(self) -> int:
        """Positions of a window."""
        return math.prod(self.kernel)

    @staticmethod
    def of(kind: AveragePool, x: TensorType, offset_x: int = 0) -> SumPool | None:
        """The accumulator of an average pool over ``x``; ``None`` where one division does not serve all windows.

        That is: where padding is not counted, or where, in ``ceil_mode``, a window may reach past the padding.
        """
        spatial, kernel = x.rank - 2, kind.kernel
        uneven = any(kind.pads) and not kind.count_include_pad
        if uneven or set(kind.dilations) != {1} or math.prod(kernel) > LARGEST_AREA:
            return None
        for axis, size in enumerate(x.dims[2:] if kind.ceil_mode else ()):
            begin, end, stride = kind.pads[axis], kind.pads[spatial + axis], kind.strides[axis]
            count = window_output(size, kernel[axis], stride, begin, end, 1, True)
            if not isinstance(size, int) or not isinstance(count, int):
                return None
            if (count - 1) * stride + kernel[axis] > size + begin + end:
                return None
        return SumPool(kind.strides, kind.pads, kind.dilations, kernel, offset_x)

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 rank, C2 windows, C3 pads below the kernel, C5 int8, C6 the window fits, C7 offset_x, C8 dilation 1.

        C8 also bounds :attr:`area`, so that no sum leaves int32.
        """
        (x,) = operands
        assert x is not None
        one_of(self, 5, x, I8)
        _check_offset(self, self.offset_x)
        self.require(x.rank >= 3, 1, f"{x} has no spatial axes")
        spatial, kernel = x.rank - 2, self.kernel
        self.require(len(kernel) == spatial and min(kernel) >= 1, 2, f"kernel {[*kernel]} on {spatial} axes")
        self.check_windows(spatial)
        self.require(all(p < k for p, k in zip(self.pads, kernel * 2, strict=True)), 3,
                     f"pads {[*self.pads]} reach past the kernel {[*kernel]}")  # fmt: skip
        self.require(set(self.dilations) == {1} and self.area <= LARGEST_AREA, 8,
                     f"dilations {[*self.dilations]}, {self.area} positions")  # fmt: skip
        sizes = window_shape(x.dims[2:], kernel, self.strides, self.pads, self.dilations, f"{self.op_name}.C6")
        return (TensorType((*x.dims[:2], *sizes), I32),)


Layer = Conv | ConvTranspose | MatMul | BatchMatMul
"""The op kinds that multiply integers."""


def weight_input_axis(kind: Layer) -> int:
    """Axis of the weight that runs over input channels (for a grouped Conv: within one group)."""
    if isinstance(kind, Conv):
        return 1
    return int(kind.trans_b) if isinstance(kind, MatMul) else 0

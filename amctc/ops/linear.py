"""nn ops that own a weight: convolutions and matrix products, each with an optional fused activation.

``fuse-activation`` moves the activation that follows a layer into it, because the target computes both in one
instruction (N12, N17); every other pass can ignore the field.
"""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.pointwise import Activation, same_float
from amctc.ops.shapes import broadcast, transposed_output, window_shape
from amctc.schema import OpKind, Trait, register
from amctc.types import Dim, Shape, TensorType, dims_agree


@dataclass(frozen=True)
class Windowed(OpKind):
    """What every op that slides a window has: a stride and dilation per spatial axis, begins then ends of pads."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def check_windows(self, spatial: int) -> None:
        """C2: one entry per spatial axis (two for pads), all in range."""
        strides, pads, dilations = self.strides, self.pads, self.dilations
        self.require(len(strides) == spatial and len(dilations) == spatial and len(pads) == 2 * spatial, 2,
                     lambda: f"strides {[*strides]}, dilations {[*dilations]}, pads {[*pads]} on {spatial} axes",
                     )  # fmt: skip
        self.require(min((*strides, *dilations)) >= 1 and min(pads) >= 0, 2,
                     "strides and dilations are at least 1, pads at least 0")  # fmt: skip


@dataclass(frozen=True)
class ConvWindow(Windowed):
    """Shape inference that float and integer convolutions share."""

    group: int = 1

    def conv_shape(self, x: TensorType, w: TensorType, b: TensorType | None) -> Shape:
        """C1 ranks, C2 windows, C3 channels divide by group, C4 bias length, C6 the window fits."""
        self.require(x.rank >= 3 and x.rank == w.rank, 1, lambda: f"x {x} and w {w} need one rank of at least 3")
        self.check_windows(x.rank - 2)
        out, per_group, *kernel = w.dims
        self.check_groups(x.dims[1], per_group)
        divides = not isinstance(out, int) or out % self.group == 0
        self.require(divides, 3, lambda: f"{out} channels in {self.group} groups")
        self.check_bias(b, out)
        if not all(isinstance(k, int) for k in kernel):
            return x.dims[0], out, *(None for _ in kernel)
        sizes = tuple(k for k in kernel if isinstance(k, int))
        self.require(min(sizes) >= 1, 6, lambda: f"an empty kernel {list(sizes)}")
        rule = f"{self.op_name}.C6"
        return x.dims[0], out, *window_shape(x.dims[2:], sizes, self.strides, self.pads, self.dilations, rule)

    def check_groups(self, channels: Dim, per_group: Dim) -> None:
        """C3: the weight covers the data's channels, group by group."""
        fits = not isinstance(per_group, int) or dims_agree(channels, per_group * self.group)
        self.require(self.group >= 1 and fits, 3,
                     lambda: f"{channels} channels, {per_group} per group, {self.group} groups")  # fmt: skip

    def check_bias(self, b: TensorType | None, out: Dim) -> None:
        """C4: the bias has one element per output channel."""
        if b is not None:
            self.require(b.rank == 1 and dims_agree(b.dims[0], out), 4,
                         lambda: f"bias {b} for {out} output channels")  # fmt: skip


def transposed_shape(
    kind: ConvWindow, x: TensorType, w: TensorType, b: TensorType | None, output_padding: tuple[int, ...]
) -> Shape:
    """Shape of a transposed convolution: C1 ranks, C2 windows, C3 groups, C4 bias, C6 sizes, C7 output padding."""
    kind.require(x.rank >= 3 and x.rank == w.rank, 1, lambda: f"x {x} and w {w} need one rank of at least 3")
    spatial = x.rank - 2
    kind.check_windows(spatial)
    channels, per_group, *kernel = w.dims
    kind.require(dims_agree(x.dims[1], channels), 3, f"{x.dims[1]} channels in the data, {channels} in the weight")
    kind.require(kind.group >= 1 and (not isinstance(channels, int) or channels % kind.group == 0), 3,
                 f"{channels} channels in {kind.group} groups")  # fmt: skip
    kind.require(len(output_padding) in (0, spatial), 7, "one output padding per spatial axis")
    out = per_group * kind.group if isinstance(per_group, int) else None
    kind.check_bias(b, out)
    extra = output_padding or (0,) * spatial
    sizes = tuple(
        transposed_output(d, k, kind.strides[i], kind.pads[i], kind.pads[spatial + i], kind.dilations[i], extra[i])
        if isinstance(k, int) else None
        for i, (d, k) in enumerate(zip(x.dims[2:], kernel, strict=True))
    )  # fmt: skip
    kind.require(all(not isinstance(d, int) or d >= 0 for d in sizes), 6, f"a negative size in {list(sizes)}")
    return x.dims[0], out, *sizes


def unpack(operands: tuple[TensorType | None, ...]) -> tuple[TensorType, TensorType, TensorType | None]:
    """(data, weight, bias or None) of a layer whose arity has been checked."""
    x, w, b = (*operands, None)[:3]
    assert x is not None
    assert w is not None
    return x, w, b


@register("nn.conv", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class Conv(ConvWindow):
    """Convolution (ONNX Conv): x ``[N, C, spatial…]``, w ``[O, C/group, kernel…]``, b ``[O]``."""

    activation: Activation | None = None

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 to C4 and C6 of :class:`ConvWindow`; C5: one floating-point element type."""
        elem = same_float(self, 5, *operands)
        return (TensorType(self.conv_shape(*unpack(operands)), elem),)


@register("nn.conv_transpose", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class ConvTranspose(ConvWindow):
    """Transposed convolution (ONNX ConvTranspose): w ``[C, O/group, kernel…]``, b ``[O]``."""

    output_padding: tuple[int, ...] = ()
    activation: Activation | None = None

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 ranks, C2 windows, C3 groups, C4 bias, C5 element types, C7 output padding."""
        elem = same_float(self, 5, *operands)
        return (TensorType(transposed_shape(self, *unpack(operands), self.output_padding), elem),)


@register("nn.gemm", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class Gemm(OpKind):
    """alpha·op(x)·op(w) + beta·b (ONNX Gemm), op transposing where told; b broadcasts to the result."""

    alpha: float = 1.0
    beta: float = 1.0
    trans_a: bool = False
    trans_b: bool = False
    activation: Activation | None = None

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 rank 2, C3 inner dimensions agree, C4 the bias broadcasts to the result, C5 element types."""
        elem = same_float(self, 5, *operands)
        x, w, b = unpack(operands)
        self.require(x.rank == 2 and w.rank == 2, 1, f"{x} and {w} are no matrices")
        rows, inner = x.dims[::-1] if self.trans_a else x.dims
        inner_w, columns = w.dims[::-1] if self.trans_b else w.dims
        self.require(dims_agree(inner, inner_w), 3, f"inner dimensions {inner} and {inner_w}")
        shape: Shape = (rows, columns)
        if b is not None:
            joined = broadcast(b.dims, shape, f"{self.op_name}.C4")
            self.require(len(joined) == 2 and all(map(dims_agree, joined, shape)), 4, f"bias {b} for {list(shape)}")
        return (TensorType(shape, elem),)


@register("nn.matmul", "x w b?", Trait.LINEAR_LAYER)
@dataclass(frozen=True)
class MatMul(OpKind):
    """Matrix product over the last two axes, leading axes broadcast (ONNX MatMul), plus an optional bias ``[O]``.

    ONNX MatMul has no bias; folding puts one here, and it is exported as an Add.
    """

    activation: Activation | None = None

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 rank at least 1, C3 inner dimensions agree, C4 bias length, C5 element types."""
        elem = same_float(self, 5, *operands)
        x, w, b = unpack(operands)
        self.require(x.rank >= 1 and w.rank >= 1, 1, f"{x} or {w} is a scalar")
        inner_w, columns = (w.dims[0], None) if w.rank == 1 else (w.dims[-2], w.dims[-1])
        self.require(dims_agree(x.dims[-1], inner_w), 3, f"inner dimensions {x.dims[-1]} and {inner_w}")
        batch = broadcast(x.dims[:-2], w.dims[:-2], f"{self.op_name}.C3")
        shape = (*batch, *x.dims[-2:-1], *(() if w.rank == 1 else (columns,)))
        if b is not None:
            self.require(w.rank >= 2 and b.rank == 1 and dims_agree(b.dims[0], columns), 4, f"bias {b} for {columns}")
        return (TensorType(shape, elem),)


Layer = Conv | ConvTranspose | Gemm | MatMul
"""The op kinds with a weight."""


def weight_channel_axis(kind: Layer, weight: TensorType) -> int:
    """Axis of the weight that runs over output channels (for ConvTranspose: within one group)."""
    if isinstance(kind, Conv):
        return 0
    if isinstance(kind, ConvTranspose):
        return 1
    if isinstance(kind, Gemm):
        return 0 if kind.trans_b else 1
    return weight.rank - 1


def weight_input_axis(kind: Layer, weight: TensorType) -> int:
    """Axis of the weight that runs over input channels (for a grouped Conv: within one group)."""
    if isinstance(kind, Conv):
        return 1
    if isinstance(kind, ConvTranspose):
        return 0
    if isinstance(kind, Gemm):
        return 1 if kind.trans_b else 0
    return max(weight.rank - 2, 0)


def result_channel_axis(kind: Layer, rank: int) -> int:
    """Axis of the result that runs over output channels."""
    return 1 if isinstance(kind, Conv | ConvTranspose) else rank - 1

"""nn ops whose result holds chosen elements of their operands; they work on every element type."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.layout import one_scale
from amctc.ops.shapes import broadcast, normalized_axes, sliced_dim
from amctc.schema import OpKind, Trait, register
from amctc.types import BOOL, I32, I64, Dim, ScalarType, TensorType


@register("nn.split", "x")
@dataclass(frozen=True)
class Split(OpKind):
    """x cut along ``axis`` into parts of ``sizes``, one result each (ONNX Split; an operand from opset 13)."""

    axis: int
    sizes: tuple[int, ...]

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 the axis exists, C3 at least one size and their sum is the dimension, C4 one scale."""
        (x,) = operands
        assert x is not None
        (axis,) = normalized_axes((self.axis,), x.rank, f"{self.op_name}.C2")
        fits = len(self.sizes) >= 1 and min(self.sizes) >= 0
        self.require(fits and (not isinstance(x.dims[axis], int) or sum(self.sizes) == x.dims[axis]), 3,
                     f"parts of {list(self.sizes)} of a dimension of {x.dims[axis]}")  # fmt: skip
        one_scale(self, x)
        return tuple(TensorType((*x.dims[:axis], size, *x.dims[axis + 1 :]), x.elem) for size in self.sizes)


@register("nn.slice", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class Slice(OpKind):
    """Every ``steps``-th element from ``starts`` up to ``ends`` along ``axes`` (ONNX Slice, opset 10).

    Negative positions count from the end, positions outside are clamped, a negative step goes backwards.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    axes: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 axes in range and once each, C3 a start, end and non-zero step for each, C4 one scale."""
        (x,) = operands
        assert x is not None
        axes = normalized_axes(self.axes, x.rank, f"{self.op_name}.C2")
        lengths = {len(self.starts), len(self.ends), len(self.axes), len(self.steps)}
        self.require(len(lengths) == 1 and 0 not in self.steps, 3,
                     f"starts {[*self.starts]}, ends {[*self.ends]}, steps {[*self.steps]}")  # fmt: skip
        one_scale(self, x)
        dims: list[Dim] = [*x.dims]
        for axis, start, end, step in zip(axes, self.starts, self.ends, self.steps, strict=True):
            dims[axis] = sliced_dim(dims[axis], start, end, step)
        return (TensorType(tuple(dims), x.elem),)


@register("nn.gather", "x indices")
@dataclass(frozen=True)
class Gather(OpKind):
    """The slices of x at ``indices`` along ``axis`` (ONNX Gather): their shape takes the place of the axis.

    A negative index counts from the end; one outside is an error when it is met.
    """

    axis: int = 0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 the axis exists, C4 x has one scale, C5 indices are int32 or int64."""
        x, indices = operands
        assert x is not None
        assert indices is not None
        (axis,) = normalized_axes((self.axis,), x.rank, f"{self.op_name}.C2")
        one_scale(self, x)
        self.require(indices.elem in (I32, I64), 5, f"indices {indices}")
        return (TensorType((*x.dims[:axis], *indices.dims, *x.dims[axis + 1 :]), x.elem),)


@register("nn.where", "condition a b", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Where(OpKind):
    """a where the condition holds, b elsewhere, with broadcasting (ONNX Where, opset 9)."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 shapes broadcast, C4 a and b have one element type, C5 a bool condition."""
        condition, a, b = operands
        assert condition is not None
        assert a is not None
        assert b is not None
        one_scale(self, a, b)
        self.require(condition.elem == BOOL, 5, f"condition {condition}")
        rule = f"{self.op_name}.C2"
        return (TensorType(broadcast(condition.dims, broadcast(a.dims, b.dims, rule), rule), a.elem),)


PAD_MODES = ("constant", "reflect", "edge")


@register("nn.pad", "x")
@dataclass(frozen=True)
class Pad(OpKind):
    """x extended on every axis by ``pads``, all begins, then all ends (ONNX Pad; an operand from opset 11).

    ``constant`` fills with ``value`` and crops where a pad is negative; ``reflect`` mirrors at the outermost elements,
    ``edge`` repeats them. A constant would have to be the zero point of a quantized operand, which changes as
    quantizers move: there only the other two modes are allowed.
    """

    pads: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 the element type holds the value, C2 a known mode and two pads per axis, C3 they fit, C4 one scale."""
        (x,) = operands
        assert x is not None
        self.require(self.mode in PAD_MODES, 2, f"mode {self.mode!r} is none of {', '.join(PAD_MODES)}")
        self.require(len(self.pads) == 2 * x.rank, 2, f"pads {[*self.pads]} for {x}")
        one_scale(self, x)
        if self.mode == "constant":
            self._check_value(x)
        return (TensorType(tuple(map(self._padded, x.dims, self.pads[: x.rank], self.pads[x.rank :])), x.elem),)

    def _check_value(self, x: TensorType) -> None:
        elem = x.elem
        self.require(isinstance(elem, ScalarType) and (elem.is_float or elem.is_integer or elem == BOOL), 1,
                     f"a constant beside the elements of {x}")  # fmt: skip
        if isinstance(elem, ScalarType) and not elem.is_float:
            low, high = elem.integer_range if elem.is_integer else (0, 1)
            self.require(float(self.value).is_integer() and low <= self.value <= high, 1, f"value {self.value} for {x}")

    def _padded(self, size: Dim, begin: int, end: int) -> Dim:
        """C3: cropping leaves something to crop from; there are elements to repeat, and enough of them to mirror."""
        if begin == end == 0:
            return size
        if self.mode != "constant":
            self.require(min(begin, end) >= 0, 3, f"pads {begin} and {end} in mode {self.mode}")
        if not isinstance(size, int):
            return None
        if self.mode == "constant":
            fits = size + begin + end >= 0 and size + min(begin, 0) + min(end, 0) >= 0
        else:
            fits = size > (max(begin, end) if self.mode == "reflect" else 0)
        self.require(fits, 3, f"pads {begin} and {end} of {size} elements in mode {self.mode}")
        return size + begin + end

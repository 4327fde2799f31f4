"""nn ops that move elements without computing on them; they work on every element type."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.shapes import broadcast, concatenated, normalized_axes, reshaped
from amctc.schema import OpKind, Trait, register
from amctc.types import Dim, QuantizedType, ScalarType, TensorType, dims_agree


def one_scale(kind: OpKind, *types: TensorType | None) -> None:
    """C4: quantized operands have one scale and agree on it."""
    elems = {t.elem for t in types if t is not None}
    kind.require(len(elems) == 1, 4, f"operands of different element types {sorted(map(str, elems))}")
    axis = next(iter(elems)).axis if isinstance(next(iter(elems)), QuantizedType) else None  # type: ignore[union-attr]
    kind.require(axis is None, 4, "per-channel scales under an op that moves elements")


@register("nn.identity", "x", Trait.IDENTITY, Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Identity(OpKind):
    """x itself (ONNX Identity, inference Dropout)."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """The operand's type."""
        (x,) = operands
        assert x is not None
        return (x,)


@register("nn.concat", "*xs")
@dataclass(frozen=True)
class Concat(OpKind):
    """Operands joined along one axis (ONNX Concat); a negative axis counts from the end."""

    axis: int

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 at least one operand, C2 the axis exists, C3 shapes agree elsewhere, C4 one element type."""
        types = [t for t in operands if t is not None]
        self.require(len(types) >= 1, 1, "nothing to concatenate")
        rank = types[0].rank
        self.require(-rank <= self.axis < rank, 2, f"axis {self.axis} of rank {rank} operands")
        one_scale(self, *types)
        return (TensorType(concatenated(types, self.axis % rank, f"{self.op_name}.C3"), types[0].elem),)


@register("nn.flatten", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class Flatten(OpKind):
    """Reshape to a matrix: axes before ``axis`` make the rows (ONNX Flatten)."""

    axis: int = 1

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 the axis exists, C4 one scale."""
        (x,) = operands
        assert x is not None
        self.require(-x.rank <= self.axis <= x.rank, 2, f"axis {self.axis} of a rank {x.rank} operand")
        one_scale(self, x)
        axis = self.axis % x.rank if self.axis < 0 else self.axis
        return (TensorType((_product(x.dims[:axis]), _product(x.dims[axis:])), x.elem),)


def _product(dims: tuple[Dim, ...]) -> Dim:
    """Product of dimensions; a lone symbol times ones stays that symbol."""
    others = [d for d in dims if not isinstance(d, int)]
    number = 1
    for d in dims:
        number *= d if isinstance(d, int) else 1
    if not others:
        return number
    return others[0] if len(others) == 1 and number == 1 else None


@register("nn.reshape", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class Reshape(OpKind):
    """Reshape to a constant target (ONNX Reshape): 0 copies a dimension unless ``allow_zero``, -1 is inferred."""

    shape: tuple[int, ...]
    allow_zero: bool = False

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 the target holds as many elements, C4 one scale."""
        (x,) = operands
        assert x is not None
        one_scale(self, x)
        return (TensorType(reshaped(x.dims, self.shape, self.allow_zero, f"{self.op_name}.C2"), x.elem),)


@register("nn.transpose", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class Transpose(OpKind):
    """Axes in another order (ONNX Transpose): result axis i is operand axis ``permutation[i]``."""

    permutation: tuple[int, ...]

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 a permutation of the axes, C4 one scale."""
        (x,) = operands
        assert x is not None
        self.require(sorted(self.permutation) == list(range(x.rank)), 2, f"{list(self.permutation)} permutes no {x}")
        one_scale(self, x)
        return (TensorType(tuple(x.dims[p] for p in self.permutation), x.elem),)


@register("nn.squeeze", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class Squeeze(OpKind):
    """x without ``axes``, each of size 1 (ONNX Squeeze; the axes are an operand from opset 13)."""

    axes: tuple[int, ...]

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 at least one axis, in range and once each, C3 they have size 1, C4 one scale."""
        (x,) = operands
        assert x is not None
        self.require(len(self.axes) >= 1, 2, "no axis")
        axes = normalized_axes(self.axes, x.rank, f"{self.op_name}.C2")
        self.require(all(dims_agree(x.dims[a], 1) for a in axes), 3, f"axes {[*axes]} of {x} are not all 1")
        one_scale(self, x)
        return (TensorType(tuple(d for i, d in enumerate(x.dims) if i not in axes), x.elem),)


@register("nn.unsqueeze", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class Unsqueeze(OpKind):
    """x with new axes of size 1 (ONNX Unsqueeze); ``axes`` are theirs in the result, an operand from opset 13."""

    axes: tuple[int, ...]

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 at least one axis, in range of the result and once each, C4 one scale."""
        (x,) = operands
        assert x is not None
        self.require(len(self.axes) >= 1, 2, "no axis")
        rank = x.rank + len(self.axes)
        axes = normalized_axes(self.axes, rank, f"{self.op_name}.C2")
        one_scale(self, x)
        rest = iter(x.dims)
        return (TensorType(tuple(1 if i in axes else next(rest) for i in range(rank)), x.elem),)


@register("nn.expand", "x", Trait.MONOTONIC)
@dataclass(frozen=True)
class Expand(OpKind):
    """x repeated along axes of size 1 until it has the shape that it and ``shape`` broadcast to (ONNX Expand)."""

    shape: tuple[int, ...]

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C2 the shapes broadcast, C4 one scale."""
        (x,) = operands
        assert x is not None
        self.require(min(self.shape, default=0) >= 0, 2, f"{list(self.shape)} is no shape")
        one_scale(self, x)
        return (TensorType(broadcast(x.dims, self.shape, f"{self.op_name}.C2"), x.elem),)


@register("nn.cast", "x")
@dataclass(frozen=True)
class Cast(OpKind):
    """Conversion to another plain element type (ONNX Cast)."""

    to: ScalarType

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: neither side is quantized."""
        (x,) = operands
        assert x is not None
        self.require(isinstance(x.elem, ScalarType), 1, f"{x.elem} is cast by quantize and dequantize only")
        return (TensorType(x.shape, self.to),)

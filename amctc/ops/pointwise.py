"""nn ops that work element by element: activations, arithmetic, batch normalisation, softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from amctc.ops.shapes import broadcast
from amctc.schema import OpKind, Trait, register
from amctc.types import ScalarType, TensorType, dims_agree


def same_float(kind: OpKind, number: int, *types: TensorType | None) -> ScalarType:
    """Constraint C``number``: all present operands have one plain floating-point element type, which is returned."""
    elems = {t.elem for t in types if t is not None}
    kind.require(len(elems) == 1, number, f"operands of different element types {sorted(map(str, elems))}")
    (elem,) = elems
    kind.require(isinstance(elem, ScalarType) and elem.is_float, number, f"{elem} is no floating-point type")
    assert isinstance(elem, ScalarType)
    kind.require(all(t is None or t.shape is not None for t in types), number, "the rank of an operand is unknown")
    return elem


@dataclass(frozen=True)
class _Unary(OpKind):
    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: a floating-point operand; the result has its type."""
        (x,) = operands
        same_float(self, 1, x)
        assert x is not None
        return (x,)


@register("nn.relu", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Relu(_Unary):
    """max(x, 0)."""


@register("nn.leaky_relu", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class LeakyRelu(_Unary):
    """x where x >= 0, alpha·x elsewhere."""

    alpha: float = 0.01


@register("nn.clip", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Clip(_Unary):
    """min(max(x, low), high) with constant bounds; infinite bounds are open. ``low > high`` gives high (ONNX)."""

    low: float = -math.inf
    high: float = math.inf


Activation: TypeAlias = Relu | LeakyRelu | Clip
"""Activations a layer can carry."""


@register("nn.sigmoid", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Sigmoid(_Unary):
    """1 / (1 + exp(-x))."""


@register("nn.tanh", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Tanh(_Unary):
    """Hyperbolic tangent."""


@register("nn.softmax", "x")
@dataclass(frozen=True)
class Softmax(_Unary):
    """exp(x) over its sum along one axis (ONNX opset 13 meaning)."""

    axis: int = -1

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 the axis exists."""
        (x,) = operands
        assert x is not None
        self.require(-x.rank <= self.axis < x.rank, 2, f"axis {self.axis} of a rank {x.rank} operand")
        return super().infer(x)


@dataclass(frozen=True)
class _Binary(OpKind):
    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: one floating-point element type; C2: shapes broadcast."""
        a, b = operands
        elem = same_float(self, 1, a, b)
        assert a is not None
        assert b is not None
        return (TensorType(broadcast(a.dims, b.dims, f"{self.op_name}.C2"), elem),)


@register("nn.add", "a b", Trait.COMMUTATIVE, Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Add(_Binary):
    """a + b with broadcasting."""


@register("nn.sub", "a b", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Sub(_Binary):
    """a - b with broadcasting."""


@register("nn.mul", "a b", Trait.COMMUTATIVE, Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Mul(_Binary):
    """a · b with broadcasting."""


@register("nn.div", "a b", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Div(_Binary):
    """a / b with broadcasting."""


@register("nn.batch_norm", "x gamma beta mean var")
@dataclass(frozen=True)
class BatchNorm(OpKind):
    """Inference batch normalisation over axis 1: (x - mean) / sqrt(var + eps) · gamma + beta."""

    eps: float = 1e-5

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 rank >= 2, C3 parameters of shape ``[C]``."""
        x, *parameters = operands
        same_float(self, 1, *operands)
        assert x is not None
        self.require(x.rank >= 2, 2, f"{x} has no channel axis")
        for p in parameters:
            assert p is not None
            self.require(p.rank == 1 and dims_agree(p.dims[0], x.dims[1]), 3, f"parameter {p} for {x.dims[1]} channels")
        return (x,)

"""nn ops that work element by element: the activations a layer can carry, and arithmetic with broadcasting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from amctc.ops.shapes import broadcast
from amctc.schema import OpKind, Trait, register
from amctc.types import ScalarType, TensorType


def same_float(kind: OpKind, number: int, *types: TensorType | None) -> ScalarType:
    """Constraint C``number``: all present operands have one plain floating-point element type, which is returned."""
    elems = {t.elem for t in types if t is not None}
    kind.require(len(elems) == 1, number, lambda: f"operands of different element types {sorted(map(str, elems))}")
    (elem,) = elems
    kind.require(isinstance(elem, ScalarType) and elem.is_float, number, lambda: f"{elem} is no floating-point type")
    assert isinstance(elem, ScalarType)
    kind.require(all(t is None or t.shape is not None for t in types), number, "the rank of an operand is unknown")
    return elem


@dataclass(frozen=True)
class Unary(OpKind):
    """What every op of one float operand has that keeps its type."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: a floating-point operand; the result has its type."""
        (x,) = operands
        same_float(self, 1, x)
        assert x is not None
        return (x,)


@register("nn.relu", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Relu(Unary):
    """max(x, 0)."""


@register("nn.leaky_relu", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class LeakyRelu(Unary):
    """x where x >= 0, alpha·x elsewhere."""

    alpha: float = 0.01


@register("nn.clip", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Clip(Unary):
    """min(max(x, low), high) with constant bounds; infinite bounds are open. ``low > high`` gives high (ONNX)."""

    low: float = -math.inf
    high: float = math.inf


Activation: TypeAlias = Relu | LeakyRelu | Clip
"""Activations a layer can carry."""


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


@register("nn.min", "a b", Trait.COMMUTATIVE, Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Min(_Binary):
    """The smaller of a and b with broadcasting (ONNX Min of two operands); NaN wins."""


@register("nn.max", "a b", Trait.COMMUTATIVE, Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Max(_Binary):
    """The larger of a and b with broadcasting (ONNX Max of two operands); NaN wins."""

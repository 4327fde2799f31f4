"""nn ops that are elementary functions of one float operand, element by element."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.pointwise import Unary
from amctc.schema import Trait, register
from amctc.types import TensorType


@register("nn.neg", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Neg(Unary):
    """-x."""


@register("nn.abs", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Abs(Unary):
    """The magnitude of x."""


@register("nn.reciprocal", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Reciprocal(Unary):
    """1 / x; infinite at zero."""


@register("nn.sqrt", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Sqrt(Unary):
    """The square root; NaN below zero."""


@register("nn.exp", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Exp(Unary):
    """The exponential function."""


@register("nn.erf", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Erf(Unary):
    """The error function (ONNX Erf, opset 9)."""


@register("nn.pow", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Pow(Unary):
    """x to a constant power (ONNX Pow with one constant exponent); NaN where that is no real number."""

    exponent: float

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 the exponent is a number."""
        self.require(self.exponent == self.exponent, 2, "the exponent is NaN")
        return super().infer(*operands)

"""nn activations that a layer cannot carry: they follow it as ops of their own."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.pointwise import Unary, same_float
from amctc.ops.shapes import broadcast
from amctc.schema import OpKind, Trait, register
from amctc.types import TensorType, dims_agree


@register("nn.sigmoid", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""


@register("nn.tanh", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Tanh(Unary):
    """Hyperbolic tangent."""


@register("nn.softplus", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Softplus(Unary):
    """ln(1 + exp(x)) (ONNX Softplus)."""


@register("nn.hard_sigmoid", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class HardSigmoid(Unary):
    """max(0, min(1, alpha·x + beta)) (ONNX HardSigmoid)."""

    alpha: float = 0.2
    beta: float = 0.5


@register("nn.hard_swish", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class HardSwish(Unary):
    """x · max(0, min(1, x/6 + 1/2)) (ONNX HardSwish, opset 14)."""


@register("nn.elu", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Elu(Unary):
    """x where x > 0, alpha·(exp(x) - 1) elsewhere (ONNX Elu)."""

    alpha: float = 1.0


@register("nn.gelu", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Gelu(Unary):
    """x/2 · (1 + erf(x/√2)); ``approximate``: x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))).

    ONNX Gelu, opset 20; exported as its formula below.
    """

    approximate: bool = False


@register("nn.silu", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Silu(Unary):
    """x / (1 + exp(-x)) (ONNX Swish with alpha 1, opset 24); exported as x · sigmoid(x) below."""


@register("nn.mish", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Mish(Unary):
    """x · tanh(ln(1 + exp(x))) (ONNX Mish, opset 18); exported as its formula below."""


@register("nn.prelu", "x slope", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class PRelu(OpKind):
    """x where x >= 0, slope·x elsewhere (ONNX PRelu); the slope broadcasts to x."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 one floating-point element type, C3 the slope broadcasts to x."""
        x, slope = operands
        same_float(self, 1, x, slope)
        assert x is not None
        assert slope is not None
        joined = broadcast(slope.dims, x.dims, f"{self.op_name}.C3")
        self.require(len(joined) == x.rank and all(map(dims_agree, joined, x.dims)), 3, f"slope {slope} for {x}")
        return (x,)

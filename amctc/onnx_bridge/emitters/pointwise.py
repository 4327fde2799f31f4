"""Activations that layers do not carry, elementary functions, arithmetic."""

from __future__ import annotations

import math

from amctc.ir import Op
from amctc.onnx_bridge.emitters.nodes import Formula, simple
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.ops import nn
from amctc.schema import OpKind


def _elu(writer: Writer, op: Op) -> None:
    assert isinstance(op.kind, nn.Elu)
    simple("Elu", alpha=op.kind.alpha)(writer, op)


def _hard_sigmoid(writer: Writer, op: Op) -> None:
    assert isinstance(op.kind, nn.HardSigmoid)
    simple("HardSigmoid", alpha=op.kind.alpha, beta=op.kind.beta)(writer, op)


def _pow(writer: Writer, op: Op) -> None:
    assert isinstance(op.kind, nn.Pow)
    f = Formula(writer, op)
    f.step("Pow", f.operands[0], f.number(op.kind.exponent), last=True)


def _gelu(writer: Writer, op: Op) -> None:
    """Below opset 20 its formula, in the order of ONNX's own."""
    kind = op.kind
    assert isinstance(kind, nn.Gelu)
    if writer.opset >= 20:
        simple("Gelu", approximate="tanh" if kind.approximate else "none")(writer, op)
        return
    f = Formula(writer, op)
    (x,) = f.operands
    if kind.approximate:
        cube = f.step("Mul", f.step("Mul", f.step("Mul", x, x), x), f.number(0.044715))
        inner = f.step("Tanh", f.step("Mul", f.step("Add", x, cube), f.number(math.sqrt(2 / math.pi))))
    else:
        inner = f.step("Erf", f.step("Mul", x, f.number(math.sqrt(0.5))))
    half = f.step("Mul", x, f.number(0.5))
    f.step("Mul", half, f.step("Add", inner, f.number(1.0)), last=True)


def _silu(writer: Writer, op: Op) -> None:
    """Swish came with opset 24."""
    if writer.opset >= 24:
        simple("Swish", alpha=1.0)(writer, op)
        return
    f = Formula(writer, op)
    f.step("Mul", f.operands[0], f.step("Sigmoid", f.operands[0]), last=True)


def _mish(writer: Writer, op: Op) -> None:
    """Mish came with opset 18."""
    if writer.opset >= 18:
        simple("Mish")(writer, op)
        return
    f = Formula(writer, op)
    f.step("Mul", f.operands[0], f.step("Tanh", f.step("Softplus", f.operands[0])), last=True)


POINTWISE: dict[type[OpKind], Emitter] = {
    **{
        kind: simple(kind.__name__)
        for kind in (nn.Sigmoid, nn.Tanh, nn.HardSwish, nn.PRelu, nn.Neg, nn.Abs, nn.Reciprocal, nn.Sqrt, nn.Exp,
                     nn.Erf, nn.Softplus, nn.Add, nn.Sub, nn.Mul, nn.Div, nn.Min, nn.Max)
    },
    nn.Elu: _elu, nn.HardSigmoid: _hard_sigmoid, nn.Pow: _pow, nn.Gelu: _gelu, nn.Silu: _silu, nn.Mish: _mish,
}  # fmt: skip

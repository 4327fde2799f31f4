"""Activations, elementary functions and arithmetic."""

from __future__ import annotations

import numpy as np

from amctc.onnx_bridge.converters.node_view import Converted, Converter, NodeView, float_data, floats
from amctc.ops import nn
from amctc.schema import OpKind
from amctc.types import dims_agree


def _unary(kind: type[OpKind]) -> Converter:
    return floats(lambda view: (kind(), view.operands[:1]))


def _binary(kind: type[OpKind]) -> Converter:
    return floats(lambda view: (kind(), view.operands) if "broadcast" not in view.attributes else None)


def _of_two(kind: type[OpKind]) -> Converter:
    """Min and Max take any number of operands; one alone is the result."""

    def convert(view: NodeView) -> Converted:
        if len(view.operands) == 1:
            return nn.Identity(), view.operands
        return (kind(), view.operands) if len(view.operands) == 2 else None

    return floats(convert)


@floats
def _clip(view: NodeView) -> Converted:
    if view.version < 11:
        bounds = [view.attributes.get("min"), view.attributes.get("max")]
    else:
        bounds = []
        for index in (1, 2):
            array = view.array(index)
            if view.operand(index) is not None and (array is None or array.size != 1):
                return None
            bounds.append(None if array is None else array.item())
    low = -np.inf if bounds[0] is None else float(bounds[0])
    high = np.inf if bounds[1] is None else float(bounds[1])
    return None if np.isnan(low) or np.isnan(high) else (nn.Clip(low, high), view.operands[:1])


@floats
def _leaky_relu(view: NodeView) -> Converted:
    return nn.LeakyRelu(float(view.attributes.get("alpha", 0.01))), view.operands


@floats
def _elu(view: NodeView) -> Converted:
    return nn.Elu(float(view.attributes.get("alpha", 1.0))), view.operands


@floats
def _hard_sigmoid(view: NodeView) -> Converted:
    alpha, beta = float(view.attributes.get("alpha", 0.2)), float(view.attributes.get("beta", 0.5))
    return nn.HardSigmoid(alpha, beta), view.operands


@floats
def _gelu(view: NodeView) -> Converted:
    return nn.Gelu(view.attributes.get("approximate", "none") == "tanh"), view.operands


@floats
def _swish(view: NodeView) -> Converted:
    return (nn.Silu(), view.operands) if view.attributes.get("alpha", 1.0) == 1.0 else None


@floats
def _prelu(view: NodeView) -> Converted:
    x, slope = view.type(), view.type(1)
    lead = x.rank - slope.rank
    fits = lead >= 0 and all(s == 1 or dims_agree(s, d) for s, d in zip(slope.dims, x.dims[lead:], strict=True))
    return (nn.PRelu(), view.operands) if fits else None


@float_data
def _pow(view: NodeView) -> Converted:
    """One constant exponent, of any type since opset 12, that does not raise the rank."""
    exponent = view.array(1)
    if exponent is None or exponent.size != 1 or exponent.ndim > view.type().rank or np.isnan(exponent).any():
        return None
    return nn.Pow(float(exponent.item())), view.operands[:1]


POINTWISE: dict[str, Converter] = {
    "Add": _binary(nn.Add), "Sub": _binary(nn.Sub), "Mul": _binary(nn.Mul), "Div": _binary(nn.Div),
    "Min": _of_two(nn.Min), "Max": _of_two(nn.Max), "Pow": _pow, "Clip": _clip, "LeakyRelu": _leaky_relu,
    "Relu": _unary(nn.Relu), "Sigmoid": _unary(nn.Sigmoid), "Tanh": _unary(nn.Tanh), "Elu": _elu,
    "Softplus": _unary(nn.Softplus),
    "HardSigmoid": _hard_sigmoid, "HardSwish": _unary(nn.HardSwish), "Gelu": _gelu, "Swish": _swish,
    "Mish": _unary(nn.Mish), "PRelu": _prelu, "Neg": _unary(nn.Neg), "Abs": _unary(nn.Abs),
    "Reciprocal": _unary(nn.Reciprocal), "Sqrt": _unary(nn.Sqrt), "Exp": _unary(nn.Exp), "Erf": _unary(nn.Erf),
}  # fmt: skip

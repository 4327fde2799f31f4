"""Activations moved into the layer they follow."""

from __future__ import annotations

from dataclasses import replace

from amctc.contract import Exact
from amctc.ir import Value, apply
from amctc.ops import nn
from amctc.pattern import Match, any_value, op
from amctc.rewrite import rewrite
from amctc_patterns.layers import LAYERS

x, w, b = any_value(name="x"), any_value(name="w"), any_value(optional=True, name="b")
biased = op(LAYERS, x, w, b, uses=1)
ACTIVATIONS: tuple[type[nn.Activation], ...] = (nn.Relu, nn.LeakyRelu, nn.Clip)
activated = op(ACTIVATIONS, biased)


@rewrite(activated, effect=Exact())
def fuse_activation(m: Match) -> Value:
    """relu, leaky relu or clip of a layer's result becomes the layer's own activation."""
    return apply(replace(m[biased], activation=m[activated]), *m.values(x, w), m.optional(b))

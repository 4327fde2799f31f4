"""Clips that a quantizer makes superfluous: it saturates before they would (N19)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amctc.contract import Exact
from amctc.ir import Value, apply
from amctc.ops import nn, quant
from amctc.pattern import Match, NoMatch, any_value, op
from amctc.rewrite import rewrite
from amctc_patterns.layers import LAYERS

ZERO_BASED, INT8 = "a clip that begins at 0", "8 bits at most, one scale"

x, w, b = any_value(name="x"), any_value(name="w"), any_value(optional=True, name="b")


def _is_int8(kind: quant.Quantize) -> bool:
    return kind.to.axis is None and kind.to.bits <= 8


clip = op(nn.Clip, x, uses=1, where=lambda k: k.low == 0.0, wanted=ZERO_BASED)
quantized_clip = op(quant.Quantize, clip, where=_is_int8, wanted=INT8)


@rewrite(quantized_clip, effect=Exact())
def relax_clip(m: Match) -> Value:
    """quantize(clip(x, 0, c)) is quantize(relu(x)) where the quantizer saturates below c (N19; relu6 has a c of 6)."""
    require_saturation(m[clip], m[quantized_clip])
    return apply(m[quantized_clip], apply(nn.Relu(), m[x], name=m.value(clip).name))


def _carries_clip(kind: nn.Layer) -> bool:
    return isinstance(kind.activation, nn.Clip) and kind.activation.low == 0.0


clipped = op(LAYERS, x, w, b, uses=1, fused=True, where=_carries_clip, wanted=ZERO_BASED)
quantized_layer = op(quant.Quantize, clipped, where=_is_int8, wanted=INT8)


@rewrite(quantized_layer, effect=Exact())
def relax_fused_clip(m: Match) -> Value:
    """quantize(clip(layer(x), 0, c)) is quantize(relu(layer(x))) on the same terms, the activation in the layer."""
    layer = m[clipped]
    assert isinstance(layer.activation, nn.Clip)
    require_saturation(layer.activation, m[quantized_layer])
    relaxed = apply(replace(layer, activation=nn.Relu()), *m.values(x, w), m.optional(b), name=m.value(clipped).name)
    return apply(m[quantized_layer], relaxed)


def require_saturation(clip: nn.Clip, quantizer: quant.Quantize) -> None:
    """Decline a clip that shows in the integers.

    The target asks for (127 - offset)/scale < 6 in float32, scale = 1/step (N19). Then 6/step rounds to no less than
    the largest code minus the zero point, so all that the clip would cut saturates as 6 does.
    """
    to = quantizer.to
    with np.errstate(divide="ignore", over="ignore"):
        top = np.float32(to.high - to.zero_points[0]) / (np.float32(1.0) / to.scale_array[0])
    if not top < np.float32(clip.high):
        raise NoMatch(f"the quantizer reaches {top:g}, so the clip at {clip.high:g} shows (N19)")

"""Padding by an op of its own, made the padding of the window that reads it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np

from amctc.analysis import value_range
from amctc.contract import Exact
from amctc.ir import Value, apply
from amctc.ops import nn
from amctc.ops.linear import Windowed
from amctc.pattern import Match, NoMatch, OpPattern, any_value, op
from amctc.rewrite import rewrite


def _pads_windows(kind: nn.Pad) -> bool:
    """Whether a convolution or pool could do it: a constant around the spatial axes, nothing cropped."""
    pads = kind.pads
    rank = len(pads) // 2
    others = (*pads[:2], *pads[rank : rank + 2])
    return kind.mode == "constant" and min(pads, default=0) >= 0 and not any(others)


x = any_value(name="x")
zero_pad = op(nn.Pad, x, uses=1, where=lambda k: _pads_windows(k) and k.value == 0, wanted="zeros around spatial axes")

W = TypeVar("W", bound=Windowed)


def joined(pad: nn.Pad, kind: W) -> W:
    """``kind`` with the pads of the Pad before it added to its own."""
    rank = len(pad.pads) // 2
    before = (*pad.pads[2:rank], *pad.pads[rank + 2 :])
    return replace(kind, pads=tuple(a + b for a, b in zip(before, kind.pads, strict=True)))


def pooled(
    m: Match, root: OpPattern[nn.MaxPool] | OpPattern[nn.AveragePool], kind: nn.MaxPool | nn.AveragePool
) -> Value:
    """The pool of unpadded data; declines pads past its kernel, and where ``ceil_mode`` would drop a window.

    However far a dilated kernel reaches, runtimes load no pool whose pads are as large as the kernel's shape.
    """
    if any(p >= k for p, k in zip(kind.pads, kind.kernel * 2, strict=True)):
        raise NoMatch(f"pads {list(kind.pads)} reach past the kernel {list(kind.kernel)}")
    merged = apply(kind, m[x])
    if kind.ceil_mode and (merged.type != m.value(root).type or not merged.type.is_static):
        raise NoMatch("a last window that lies in the padding would be dropped")
    return merged


w, b = any_value(name="w"), any_value(optional=True, name="b")
padded_conv = op(nn.Conv, zero_pad, w, b, fused=True)


@rewrite(padded_conv, effect=Exact())
def fold_pad_into_conv(m: Match) -> Value:
    """conv(pad(x)) with zeros on spatial axes is a conv with larger pads."""
    return apply(joined(m[zero_pad], m[padded_conv]), m[x], m.value(w), m.optional(b))


padded_average = op(nn.AveragePool, zero_pad, where=lambda k: k.count_include_pad or not any(k.pads),
                    wanted="no padding of its own that it does not count")  # fmt: skip


@rewrite(padded_average, effect=Exact())
def fold_pad_into_average_pool(m: Match) -> Value:
    """average_pool(pad(x)) with zeros is an average pool that counts its padding."""
    return pooled(m, padded_average, replace(joined(m[zero_pad], m[padded_average]), count_include_pad=True))


# A padding above zero would need an x above it: no network has that.
low_pad = op(nn.Pad, x, uses=1, where=lambda k: _pads_windows(k) and k.value <= 0, wanted="0 or less around the image")
padded_max = op(nn.MaxPool, low_pad)


@rewrite(padded_max, effect=Exact())
def fold_pad_into_max_pool(m: Match) -> Value:
    """max_pool(pad(x)) is a padded max pool where the padding cannot win: no element of x is below it."""
    kind, data = m[padded_max], m[x].type
    with np.errstate(over="ignore"):
        value = float(np.asarray(m[low_pad].value, data.elem.dtype))
    # A window of a padded pool holds an element unless it is dilated, and then its result is -inf.
    lowest = value_range(m[x]).low if all(d == 1 for d in kind.dilations) and 0 not in data.dims else -math.inf
    if not value <= lowest:
        raise NoMatch(f"the padding of {value:g} may win over x")
    return pooled(m, padded_max, joined(m[low_pad], kind))

"""Sliding windows that fit: every small combination along one axis is enumerated once, then one is chosen."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

from amctc.ops.shapes import transposed_output, window_output
from amctc.testing.source import Source, Unfit
from amctc.types import Dim


class Axis(NamedTuple):
    """A window along one spatial axis. ``extra`` is the output padding of a transposed convolution."""

    size: int
    kernel: int
    stride: int
    begin: int
    end: int
    dilation: int
    extra: int = 0


def draw_window(
    source: Source, size: Dim, kernel: Dim, out: Dim, *, form: str = "conv", ceil_mode: bool = False,
    dilated: bool = True,
) -> Axis:  # fmt: skip
    """A window along one axis, given any of input size, kernel and output size.

    ``form`` is ``conv``, ``pool`` (pads stay below the kernel) or ``transpose``; without ``dilated`` dilation is 1.
    Prefers to keep the size when only the output is known, so that residual connections can be drawn. :class:`Unfit`
    for symbols and where nothing fits.
    """
    if any(isinstance(d, str) for d in (size, kernel, out)):
        raise Unfit("a window needs numbers")
    options = _transposed(size, kernel, out) if form == "transpose" else _options(size, kernel, out, form, ceil_mode)
    options = options if dilated else tuple(o for o in options if o.dilation == 1 and o.extra < o.stride)
    if size is None and out is not None and source.flip(0.6):
        options = tuple(o for o in options if o.size == out) or options
    if size is None and out is None:
        drawn = source.choice((3, 4, 2, 5, 1))
        options = tuple(o for o in options if o.size == drawn) or options
    return source.choice(options)


@functools.lru_cache(maxsize=4096)
def _options(size: int | None, kernel: int | None, out: int | None, form: str, ceil_mode: bool) -> tuple[Axis, ...]:
    found = []
    for n, k, s, d, b, e in itertools.product(
        _candidates(size, range(1, 7)), _candidates(kernel, range(1, 4)), (1, 2, 3), (1, 2), (0, 1, 2), (0, 1, 2)
    ):
        if (k == 1 and d > 1) or (form == "pool" and max(b, e) > d * (k - 1)) or max(b, e) > d * (k - 1) + 1:
            continue
        positions = window_output(n, k, s, b, e, d, ceil_mode)
        if isinstance(positions, int) and positions >= 1 and (out is None or positions == out):
            found.append(Axis(n, k, s, b, e, d))
    return tuple(sorted(found, key=lambda a: (a.stride, a.dilation, a.begin + a.end, a.kernel, a.size)))


@functools.lru_cache(maxsize=4096)
def _transposed(size: int | None, kernel: int | None, out: int | None) -> tuple[Axis, ...]:
    found = []
    for n, k, s, d, b, e, x in itertools.product(
        _candidates(size, range(1, 5)), _candidates(kernel, range(1, 4)), (1, 2, 3), (1, 2), (0, 1), (0, 1), (0, 1)
    ):
        if (k == 1 and d > 1) or x >= max(s, d):
            continue
        positions = transposed_output(n, k, s, b, e, d, x)
        if isinstance(positions, int) and 1 <= positions <= 12 and (out is None or positions == out):
            found.append(Axis(n, k, s, b, e, d, x))
    return tuple(sorted(found, key=lambda a: (a.stride, a.dilation, a.begin + a.end, a.extra, a.kernel, a.size)))


def _candidates(fixed: int | None, otherwise: range) -> tuple[int, ...]:
    return tuple(otherwise) if fixed is None else (fixed,)

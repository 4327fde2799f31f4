"""Padding and sliding windows: the geometry that convolution and pooling share.

Arrays are N, C, spatial… unless a name says ``channels_last`` (N, spatial…, C). Nothing here does arithmetic on
elements, so everything works for every element type.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from amctc.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window over the spatial axes, in the conventions of ONNX Conv and the pools.

    ``kernel``, ``strides``, ``dilations`` have one entry per spatial axis; ``pads`` holds all begins, then all ends.
    Raises :class:`InputError` when the lengths disagree or a number is out of range.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        rank = len(self.kernel)
        if not (len(self.strides) == len(self.dilations) == rank and len(self.pads) == 2 * rank):
            raise InputError(f"window attributes disagree on the number of spatial axes: {self}")
        if min((*self.kernel, *self.strides, *self.dilations), default=1) < 1 or min(self.pads, default=0) < 0:
            raise InputError(f"window with a kernel, stride or dilation below 1 or a negative pad: {self}")

    @property
    def begins(self) -> tuple[int, ...]:
        """Padding before each spatial axis."""
        return self.pads[: len(self.kernel)]

    @property
    def ends(self) -> tuple[int, ...]:
        """Padding after each spatial axis, as given."""
        return self.pads[len(self.kernel) :]

    @property
    def extents(self) -> tuple[int, ...]:
        """How many input positions one window spans along each axis, dilation included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def output_shape(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """The number of windows along each axis (ONNX: floor or ceil of (padded − extent) / stride, plus 1).

        With ``ceil_mode`` a last window that would start in the end padding is dropped (ONNX AveragePool, MaxPool).
        Raises :class:`InputError` when an input is smaller than one window.
        """
        if len(spatial) != len(self.kernel):
            raise InputError(f"a window over {len(self.kernel)} axes was given the spatial shape {tuple(spatial)}")
        counts = []
        for size, extent, stride, begin, end in zip(
            spatial, self.extents, self.strides, self.begins, self.ends, strict=True
        ):
            room = size + begin + end - extent
            if room < 0 or size == 0:
                raise InputError(f"the window {self} does not fit the input {tuple(spatial)}")
            count = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            starts_in_end_padding = (count - 1) * stride >= size + begin
            counts.append(count - 1 if self.ceil_mode and starts_in_end_padding else count)
        return tuple(counts)

    def fitted_ends(self, spatial: Sequence[int], out: Sequence[int]) -> tuple[int, ...]:
        """End padding after which the last window ends exactly at the border; negative where input is left over."""
        return tuple(
            (count - 1) * stride + extent - size - begin
            for count, stride, extent, size, begin in zip(
                out, self.strides, self.extents, spatial, self.begins, strict=True
            )
        )


def pad_axes(x: Array, begins: Sequence[int], ends: Sequence[int], value: float) -> Array:
    """``x`` with its last ``len(begins)`` axes extended by a constant; a negative amount crops.

    Keeps the memory order of ``x`` (channels-last stays so). Returns ``x`` itself when there is nothing to do.
    """
    if not any(begins) and not any(ends):
        return x
    first = x.ndim - len(begins)
    crop = [slice(max(-b, 0), n - max(-e, 0)) for b, e, n in zip(begins, ends, x.shape[first:], strict=True)]
    x = x[trailing(crop)]
    before, after = [max(b, 0) for b in begins], [max(e, 0) for e in ends]
    sizes = [b + n + a for b, n, a in zip(before, x.shape[first:], after, strict=True)]
    padded = np.full_like(x, value, shape=(*x.shape[:first], *sizes))
    padded[trailing(slice(b, b + n) for b, n in zip(before, x.shape[first:], strict=True))] = x
    return padded


def trailing(slices: Iterable[slice]) -> tuple[Any, ...]:
    """The index that applies ``slices`` to the last axes."""
    return (Ellipsis, *slices)


def pad_for(x: Array, window: Window, value: float) -> Array:
    """``x`` (N, C, spatial…) padded with ``value`` so that exactly all windows of ``window`` fit."""
    spatial = x.shape[2:]
    return pad_axes(x, window.begins, window.fitted_ends(spatial, window.output_shape(spatial)), value)


def tap_views(padded: Array, window: Window, out: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Each kernel position with the elements it meets: (tap, view of shape N, C, out…), taps in row-major order."""
    for tap in np.ndindex(*window.kernel):
        yield tap, padded[trailing(tap_slices(tap, window, out))]


def tap_slices(tap: Sequence[int], window: Window, out: Sequence[int]) -> list[slice]:
    """Along each axis, the padded positions that one kernel position meets in all windows."""
    return [
        slice(i * d, i * d + (n - 1) * s + 1, s)
        for i, d, n, s in zip(tap, window.dilations, out, window.strides, strict=True)
    ]


def patch_view(channels_last: Array, window: Window, out: Sequence[int]) -> Array:
    """All patches of a padded (N, spatial…, C) array as a read-only view (N, out…, kernel…, C)."""
    batch, *steps, channel = channels_last.strides
    moves = tuple(step * s for step, s in zip(steps, window.strides, strict=True))
    reaches = tuple(step * d for step, d in zip(steps, window.dilations, strict=True))
    shape = (channels_last.shape[0], *out, *window.kernel, channels_last.shape[-1])
    return as_strided(channels_last, shape, (batch, *moves, *reaches, channel), writeable=False)


def blocks(shape: Sequence[int], capacity: int) -> Iterator[tuple[slice, ...]]:
    """Row-major boxes that cover ``shape``, each of at most ``capacity`` positions (and at least one)."""
    sizes: list[int] = []
    for n in reversed(shape):
        sizes.append(max(1, min(n, capacity // math.prod(sizes))))
    cuts = [
        [slice(i, min(i + size, n)) for i in range(0, n, size)] for n, size in zip(shape, reversed(sizes), strict=True)
    ]
    return itertools.product(*cuts)


def channels_last(x: Array) -> Array:
    """``x`` (N, C, spatial…) as a C-contiguous (N, spatial…, C) array; no copy when its memory already is so."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def channels_first(x: Array) -> Array:
    """The (N, C, spatial…) view of a (N, spatial…, C) array."""
    return np.moveaxis(x, -1, 1)

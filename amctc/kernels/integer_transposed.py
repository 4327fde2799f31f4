"""Exact int32 accumulators of int8 transposed convolutions: one ordinary convolution per residue of the stride.

Output position f (before cropping) meets kernel position t where f = stride · i + t for an input position i. All t of
one output are congruent to f modulo the stride, so the outputs of one residue r are an ordinary convolution, of stride
1, of the data with every stride-th kernel position, flipped: the exactness proofs, the merging of groups and the
depthwise path of :mod:`amctc.kernels.integer_linear` hold as they are. Nothing multiplies the zeros that a stride
inserts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from amctc.errors import InputError
from amctc.kernels.accumulator import Accumulator, Array, Int8, Int32
from amctc.kernels.integer_linear import check_operands, fold_offset, folded_conv, weight_sums
from amctc.kernels.windows import Window, channels_first, pad_axes, trailing


def prepare_conv_transpose(
    weight: Int8,
    bias: Int32 | None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    output_padding: tuple[int, ...] = (),
    group: int = 1,
    offset_x: int = 0,
    wrap: bool = False,
) -> Accumulator:
    """Pack an int8 transposed convolution: weight (I, O/group, kernel…) -> x (N, I, spatial…) -> (N, O, out…).

    ``bias`` is int32 (O). acc = Σ w · (q − offset_x) + bias over the real inputs: what the stride inserts and the
    padding count as ``offset_x``, and the fold of N8, bias − offset_x · Σ w over the whole kernel, takes exactly that
    away again. Dilation is 1, output padding below the stride. The result is channels-last in memory. Raises as
    :func:`~amctc.kernels.integer_linear.prepare_conv`.
    """
    if weight.ndim < 3 or group < 1 or weight.shape[0] % group:
        raise InputError(f"a transposed weight of shape {weight.shape} cannot have {group} groups")
    rank, (inputs, outputs) = weight.ndim - 2, weight.shape[:2]
    extra = output_padding or (0,) * rank
    if any(len(v) != n for v, n in ((strides, rank), (extra, rank), (pads, 2 * rank))):
        raise InputError(f"window attributes disagree on the number of spatial axes: {strides}, {pads}, {extra}")
    check_operands(weight, bias, outputs * group, offset_x)
    grouped = weight.reshape(group, inputs // group, outputs, *weight.shape[2:]).swapaxes(1, 2)
    forward = grouped.reshape(group * outputs, inputs // group, *weight.shape[2:])
    fold_offset(weight_sums(forward), bias, offset_x)  # the bias′ that the target computes must fit (N9)
    axes = tuple(map(_Axis, weight.shape[2:], strides, pads[:rank], pads[rank:], extra))
    return TransposedConv(forward, bias, axes, group, offset_x, wrap)


@dataclass(frozen=True)
class _Axis:
    """A transposed window along one spatial axis."""

    kernel: int
    stride: int
    begin: int
    end: int
    extra: int

    def out(self, size: int) -> int:
        """Output positions of ``size`` inputs (ONNX ConvTranspose)."""
        return self.stride * (size - 1) + self.kernel + self.extra - self.begin - self.end

    def taps(self, residue: int) -> int:
        """How many kernel positions have this residue."""
        return len(range(residue, self.kernel, self.stride))

    def first(self, residue: int) -> int:
        """The first output position of this residue: position + begin ≡ residue modulo the stride."""
        return (residue - self.begin) % self.stride

    def reach(self, residue: int, size: int) -> tuple[int, int]:
        """Positions to add before and after ``size`` inputs (negative: leave out) so that all windows fit exactly."""
        first, taps = self.first(residue), self.taps(residue)
        start = (first + self.begin) // self.stride
        count = len(range(first, self.out(size), self.stride))
        return taps - 1 - start, start + count - size


class TransposedConv(Accumulator):
    """The convolutions of all residues, each writing every stride-th output position."""

    def __init__(
        self, forward: Int8, bias: Int32 | None, axes: tuple[_Axis, ...], group: int, offset_x: int, wrap: bool
    ) -> None:
        self._axes, self._offset_x = axes, offset_x
        self._channels, self._outputs = forward.shape[1] * group, len(forward)
        self._bias = np.zeros(self._outputs, np.int64) if bias is None else bias.astype(np.int64)
        self._parts: dict[tuple[int, ...], Accumulator] = {}
        for residues in _residues(axes):
            if all(a.taps(r) for a, r in zip(axes, residues, strict=True)):
                taps = forward[trailing(slice(r, None, a.stride) for a, r in zip(axes, residues, strict=True))]
                flipped = taps[trailing(slice(None, None, -1) for _ in axes)]
                window = Window(flipped.shape[2:], (1,) * len(axes), (0,) * (2 * len(axes)), (1,) * len(axes))
                folded = self._bias - offset_x * weight_sums(flipped)
                self._parts[residues] = folded_conv(flipped, folded, window, group, offset_x, wrap)
        super().__init__(any(part.overflow_possible for part in self._parts.values()), wrap)

    def __str__(self) -> str:
        return f"{len(self._parts)} convolutions, one per residue of the stride"

    def __call__(self, x: Int8) -> Int32:
        """int8 (N, I, spatial…) -> int32 (N, O, out…), channels-last in memory."""
        if x.dtype != np.int8 or x.ndim != 2 + len(self._axes) or x.shape[1] != self._channels:
            raise InputError(
                f"activations {x.dtype} {x.shape} for a transposed convolution of {self._channels} channels"
            )
        spatial = x.shape[2:]
        out = [a.out(n) for a, n in zip(self._axes, spatial, strict=True)]
        if min(out, default=1) < 1 or 0 in spatial:
            raise InputError(f"a transposed convolution of {spatial} has the output shape {out}")
        acc = np.empty((x.shape[0], *out, self._outputs), np.int32)
        for residues in _residues(self._axes):
            steps = [slice(a.first(r), None, a.stride) for r, a in zip(residues, self._axes, strict=True)]
            target = channels_first(acc)[trailing(steps)]
            if target.size:
                target[...] = self._part(residues, x)
        return channels_first(acc)

    def _part(self, residues: tuple[int, ...], x: Int8) -> Array:
        """What the output positions of these residues hold; the bias alone where no kernel position meets them."""
        part = self._parts.get(residues)
        if part is None:
            return self._bias.reshape(-1, *(1,) * len(self._axes))
        reaches = [a.reach(r, n) for a, r, n in zip(self._axes, residues, x.shape[2:], strict=True)]
        begins, ends = zip(*reaches, strict=True)
        before = part.overflows
        sums = part(pad_axes(x, begins, ends, self._offset_x))
        self.overflows += part.overflows - before
        return sums


def _residues(axes: Sequence[_Axis]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(a.stride) for a in axes))

"""Every layer as a matrix product: its weight as a matrix, the windows of its input as columns.

For group g, ``result[g, o] = Σ_k matrix[g, o, k] · column[g, k] + bias``. A transposed convolution is the convolution
of its input with zeros put in between, its kernel mirrored (Dumoulin and Visin 2016, section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.kernels.windows import Window, pad_axes, tap_slices, trailing
from amctc.ops import nn
from amctc.types import Array

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Contraction:
    """How a layer of ``kind`` with a weight of ``shape`` reads its input."""

    kind: nn.Layer
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Independent products side by side."""
        return self.kind.group if isinstance(self.kind, nn.Conv | nn.ConvTranspose) else 1

    @property
    def length(self) -> int:
        """K, the terms of each sum."""
        kind, shape = self.kind, self.shape
        if isinstance(kind, nn.ConvTranspose):
            return shape[0] // kind.group * math.prod(shape[2:])
        if isinstance(kind, nn.Conv):
            return math.prod(shape[1:])
        return shape[1] if isinstance(kind, nn.Gemm) and kind.trans_b else shape[0]

    @property
    def outputs(self) -> int:
        """O, the sums of all groups."""
        kind, shape = self.kind, self.shape
        if isinstance(kind, nn.ConvTranspose):
            return shape[1] * kind.group
        return shape[0] if isinstance(kind, nn.Conv) or (isinstance(kind, nn.Gemm) and kind.trans_b) else shape[1]

    def matrix(self, weight: Array) -> Array:
        """The weight as [G, O/G, K]."""
        kind = self.kind
        if isinstance(kind, nn.Conv):
            return weight.reshape(kind.group, weight.shape[0] // kind.group, -1)
        if isinstance(kind, nn.ConvTranspose):
            spatial = tuple(range(2, weight.ndim))
            channels, outputs, *kernel = weight.shape
            grouped = np.flip(weight, spatial).reshape(kind.group, channels // kind.group, outputs, *kernel)
            return np.swapaxes(grouped, 1, 2).reshape(kind.group, outputs, -1)
        return (weight if isinstance(kind, nn.Gemm) and kind.trans_b else weight.T)[None]

    def weight(self, matrix: Array) -> Array:
        """The inverse of :meth:`matrix`."""
        kind = self.kind
        if isinstance(kind, nn.Conv):
            return matrix.reshape(self.shape)
        if isinstance(kind, nn.ConvTranspose):
            channels, outputs, *kernel = self.shape
            grouped = matrix.reshape(kind.group, outputs, channels // kind.group, *kernel)
            mirrored = np.swapaxes(grouped, 1, 2).reshape(self.shape)
            return np.asarray(np.flip(mirrored, tuple(range(2, mirrored.ndim))))
        rows: Array = matrix[0]
        return rows if isinstance(kind, nn.Gemm) and kind.trans_b else rows.T

    def positions(self, x: Array) -> int:
        """How many columns one sample of ``x`` gives."""
        if not isinstance(self.kind, nn.Conv | nn.ConvTranspose):
            return math.prod(x.shape[1:-1])
        padded, window = self._padded(x[:1])
        return math.prod(window.output_shape(padded.shape[2:]))

    def columns(self, x: Array, chosen: npt.NDArray[np.int64]) -> Array:
        """The columns [G, K, N·P] at ``chosen`` [N, P] positions of each sample of ``x``."""
        samples = np.arange(len(x)).repeat(chosen.shape[1])
        if not isinstance(self.kind, nn.Conv | nn.ConvTranspose):
            rows = x.reshape(len(x), -1, x.shape[-1])
            return np.ascontiguousarray(rows[samples, chosen.reshape(-1)].T)[None]
        padded, window = self._padded(x)
        out = window.output_shape(padded.shape[2:])
        places = np.unravel_index(chosen.reshape(-1), out)
        starts = [p * s for p, s in zip(places, window.strides, strict=True)]
        found = np.empty((math.prod(window.kernel), samples.size, padded.shape[1]), padded.dtype)
        for i, tap in enumerate(np.ndindex(*window.kernel)):
            at = tuple(b + t * d for b, t, d in zip(starts, tap, window.dilations, strict=True))
            found[i] = np.moveaxis(padded, 1, -1)[(samples, *at)]
        return np.ascontiguousarray(found.transpose(2, 0, 1)).reshape(self.groups, -1, samples.size)

    def mean_columns(self, x: Array) -> tuple[Float64Array, int]:
        """The mean [N, G, K] of the columns of each sample of ``x``, and their number in each."""
        if not isinstance(self.kind, nn.Conv | nn.ConvTranspose):
            rows = x.reshape(len(x), -1, x.shape[-1])
            return rows.mean(axis=1, dtype=np.float64)[:, None], rows.shape[1]
        padded, window = self._padded(x)
        out = window.output_shape(padded.shape[2:])
        axes = tuple(range(2, padded.ndim))
        taps = [
            padded[trailing(tap_slices(tap, window, out))].mean(axis=axes, dtype=np.float64)
            for tap in np.ndindex(*window.kernel)
        ]
        return np.stack(taps, axis=2).reshape(len(x), self.groups, -1), math.prod(out)

    def _padded(self, x: Array) -> tuple[Array, Window]:
        """``x`` with its padding, and the window that slides over it without any."""
        kind = self.kind
        assert isinstance(kind, nn.Conv | nn.ConvTranspose)
        spatial, kernel = len(self.shape) - 2, self.shape[2:]
        begins, ends = kind.pads[:spatial], kind.pads[spatial:]
        if isinstance(kind, nn.Conv):
            window = Window(kernel, kind.strides, (0,) * (2 * spatial), kind.dilations)
            return pad_axes(x, begins, ends, 0.0), window
        stuffed = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], kind.strides, strict=True))),
                           x.dtype)  # fmt: skip
        stuffed[trailing(slice(None, None, s) for s in kind.strides)] = x
        reach = [d * (k - 1) for d, k in zip(kind.dilations, kernel, strict=True)]
        extra = kind.output_padding or (0,) * spatial
        before = [r - b for r, b in zip(reach, begins, strict=True)]
        after = [r - e + o for r, e, o in zip(reach, ends, extra, strict=True)]
        window = Window(kernel, (1,) * spatial, (0,) * (2 * spatial), kind.dilations)
        return pad_axes(stuffed, before, after, 0.0), window

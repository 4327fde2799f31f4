"""What a quantized layer's sums differ by from those of its float twin, and the correction that takes most of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from amctc.ir import Op, Value
from amctc.kernels.tables import activation_kernel
from amctc.numerics.channel_fit import fitted_gains, fitted_offsets
from amctc.numerics.error import sqnr_db
from amctc.ops import nn
from amctc.types import Array
from amctc_passes.quantize.float_twins import FloatTwin
from amctc_passes.quantize.held_back import held_columns
from amctc_passes.weights.layer_inputs import LayerInputs, contraction_of

Float64Array = npt.NDArray[np.float64]


NONE, BIAS, SCALE = range(3)
"""No correction, that of the bias, and that of scale and bias."""


@dataclass(frozen=True)
class Correction:
    """What a layer's sums become: ``gains`` [O] times them plus ``offsets`` [O].

    ``kind`` is one of :data:`NONE`, :data:`BIAS`, :data:`SCALE`; ``before`` and ``after`` are the SQNR in dB of the
    layer's outputs without and with it, on samples that it was not fitted to.
    """

    kind: int
    gains: Float64Array
    offsets: Float64Array
    before: float = math.nan
    after: float = math.nan


@dataclass(frozen=True)
class LayerErrors:
    """Sums of a layer at some positions [O, n], in front of its ``activation`` if it has one.

    ``real`` are in float, ``seen`` quantized; those of the positions ``held`` [n] only judge.
    """

    activation: nn.Activation | None
    real: Array
    seen: Array
    held: npt.NDArray[np.bool_]

    def best(self, *, rescale: bool) -> Correction:
        """The correction that leaves the least noise on what judges; none where nothing does, or sums are not finite.

        Corrections are fitted where the activation follows its input, in float or quantized.
        """
        none = Correction(NONE, np.ones(len(self.real)), np.zeros(len(self.real)))
        finite = np.isfinite(self.real).all() and np.isfinite(self.seen).all()
        if not finite or not self.held.any() or self.held.all():
            return none
        fitted = ~self.held
        counted = self._followed()[:, fitted]
        real, seen = self.real[:, fitted], self.seen[:, fitted]
        tried = [none, Correction(BIAS, none.gains, fitted_offsets(real, seen, counted))]
        if rescale:
            tried.append(Correction(SCALE, *fitted_gains(real, seen, counted)))
        ratios = [self._sqnr(correction) for correction in tried]
        best = int(np.argmax(ratios))
        return replace(tried[best], before=ratios[NONE], after=ratios[best])

    def _followed(self) -> npt.NDArray[np.bool_]:
        low, high = _bounds(self.activation)
        return np.asarray(((self.real > low) & (self.real < high)) | ((self.seen > low) & (self.seen < high)))

    def _sqnr(self, correction: Correction) -> float:
        activate = activation_kernel(self.activation)
        real = activate(self.real[:, self.held])
        seen = activate(correction.gains[:, None] * self.seen[:, self.held] + correction.offsets[:, None])
        return sqnr_db(real, seen)


def layer_errors(
    op: Op, data: Value | None, weight: Array, bias: Array | None, twin: FloatTwin, quantized: LayerInputs,
    real: LayerInputs, activation: nn.Activation | None,
) -> LayerErrors:  # fmt: skip
    """The errors of ``op`` on ``data``, with its ``weight`` and ``bias`` in real numbers, beside its ``twin``."""
    contraction, seen = contraction_of(op), 0
    sums: tuple[list[Array], list[Array]] = [], []
    held: list[npt.NDArray[np.bool_]] = []
    matrices = [contraction.matrix(w).astype(np.float32) for w in (twin.weight.read(), weight)]
    others = real.batches(op, twin.data, contraction, 0)
    for x, columns in quantized.batches(op, data, contraction, 0):
        both = next(others)[1], columns
        if both[0].shape != columns.shape:  # how many positions there are hangs on the data, as of boxes that are left
            nothing = np.zeros((contraction.outputs, 0), np.float32)
            return LayerErrors(activation, nothing, nothing, np.zeros(0, np.bool_))
        for kept, matrix, read in zip(sums, matrices, both, strict=True):
            kept.append((matrix @ read).reshape(contraction.outputs, -1))
        held.append(held_columns(seen, len(x), columns.shape[2]))
        seen += len(x)
    biases = (None if twin.bias is None else twin.bias.read(), bias)
    found = [np.concatenate(kept, axis=1) + _column(b) for kept, b in zip(sums, biases, strict=True)]
    return LayerErrors(activation, found[0], found[1], np.concatenate(held))


def _column(bias: Array | None) -> Array:
    return np.zeros((1, 1), np.float32) if bias is None else bias.reshape(-1, 1).astype(np.float32)


def _bounds(activation: nn.Activation | None) -> tuple[float, float]:
    """Between which sums an activation follows them."""
    if isinstance(activation, nn.Relu):
        return 0.0, math.inf
    return (activation.low, activation.high) if isinstance(activation, nn.Clip) else (-math.inf, math.inf)

"""Round weights by what rounding does to a layer's output, not to the weights.

For one output with weights w [K], integers q and steps s [K], the mean squared error of the output over the samples is

    E[(Σ_k (w_k - s_k·q_k)·x_k)²] = (w - s·q)ᵀ H (w - s·q),   H = E[x xᵀ],

with the Gram matrix H of the inputs. Rounding to nearest minimises it only where H is diagonal. Here the error of each
weight is moved to those not yet rounded (Frantar et al. 2023, GPTQ, section 3; Frantar and Alistarh 2022, OBQ), and
coordinate descent improves the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from amctc.errors import InputError
from amctc.numerics.linear import storage_range

Float64Array = npt.NDArray[np.float64]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal (GPTQ, section 3.3, step 3)."""

SWEEPS = 4
"""Sweeps of coordinate descent; most end before, because nothing moves any more."""

_BLOCK = 64  # columns whose updates to the rest are applied together (GPTQ, section 3.3, step 2)


@dataclass(frozen=True)
class Grid:
    """The values that weights [O, K] can take: ``steps``·q with ``low`` ≤ q ≤ ``high``; all three broadcast to [O, K].

    A weight where ``kept`` stays 0.
    """

    steps: Float64Array
    low: Float64Array
    high: Float64Array
    kept: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, weight: Float64Array, scales: Float64Array, zero_points: npt.ArrayLike, bits: int) -> Grid:
        """The grid of ``scales`` [O] or [O, K] around ``zero_points``; zeros of ``weight`` are kept."""
        shape, (low, high) = weight.shape, storage_range(bits)
        steps = np.broadcast_to(scales[:, None] if scales.ndim == 1 else scales, shape)
        zeros = np.broadcast_to(np.asarray(zero_points, np.float64), shape)
        return cls(steps, low - zeros, high - zeros, weight == 0)

    def nearest(self, values: Float64Array, at: int | slice = slice(None)) -> Float64Array:
        """The integer q next to ``values``, columns ``at`` of the weights."""
        rounded = np.clip(np.rint(values / self.steps[:, at]), self.low[:, at], self.high[:, at])
        return np.where(self.kept[:, at], 0.0, rounded)


def round_second_order(
    weight: npt.ArrayLike,
    gram: npt.ArrayLike,
    scales: npt.ArrayLike,
    *,
    bits: int = 8,
    zero_points: npt.ArrayLike = 0,
    damping: float = DAMPING,
    sweeps: int = SWEEPS,
) -> npt.NDArray[np.int8]:
    """Integers [O, K] for ``weight`` [O, K] in steps of ``scales`` [O] or [O, K], given ``gram`` [K, K] of the inputs.

    ``zero_points`` (of the shape of scales with a step for each weight) are added to the integers. Columns are rounded
    in the order of decreasing diagonal; then ``sweeps`` of coordinate descent move each weight to its best integer with
    the others fixed. In the damped loss no output is worse than rounded to nearest. A weight of 0 stays 0, so masks
    survive. Raises InputError where shapes do not fit or the Gram matrix is not finite.
    """
    w, h, s = (np.asarray(a, np.float64) for a in (weight, gram, scales))
    if w.ndim != 2 or h.shape != (w.shape[1], w.shape[1]) or s.shape not in (w.shape[:1], w.shape):
        raise InputError(f"a Gram matrix {list(h.shape)} and {list(s.shape)} scales for weights {list(w.shape)}")
    if not np.isfinite(h).all():
        raise InputError("the Gram matrix of a layer's input is not finite", remedy="check the calibration samples")
    if not w.size:
        return np.zeros(w.shape, np.int8)
    grid, matrix = Grid.of(w, s, zero_points, bits), damped(h, damping)
    best = descended(w, matrix, grid, grid.nearest(w), sweeps)
    factor = _inverse_factor(matrix)
    if factor is not None:
        other = descended(w, matrix, grid, _propagated(w, *factor, grid), sweeps)
        losses = [quadratic_loss(w - grid.steps * q, matrix) for q in (other, best)]
        best = np.where((losses[0] < losses[1])[:, None], other, best)
    return np.asarray(best + np.asarray(zero_points)).astype(np.int8)


def damped(gram: Float64Array, damping: float) -> Float64Array:
    """``gram`` with ``damping`` times its mean diagonal added to the diagonal; the identity where nothing was read."""
    size = float(np.mean(np.diag(gram)))
    return gram + np.eye(len(gram)) * damping * size if size > 0.0 else np.eye(len(gram))


def quadratic_loss(error: Float64Array, gram: Float64Array) -> Float64Array:
    """eᵀ H e for each row e of ``error`` [O, K]: [O]."""
    return np.asarray(np.einsum("ok,ok->o", error @ gram, error))


def _inverse_factor(gram: Float64Array) -> tuple[Float64Array, npt.NDArray[np.intp]] | None:
    """U with H⁻¹ = Uᵀ U, upper triangular, and the rounding order it is in; ``None`` for a matrix too ill for it.

    With P the reversal, P H P = M Mᵀ gives H = R Rᵀ for the upper R = P M P, so U = R⁻¹ = P M⁻¹ P.
    """
    order = np.argsort(-np.diag(gram), kind="stable")
    backwards = order[::-1]
    try:
        lower = scipy.linalg.cholesky(gram[np.ix_(backwards, backwards)], lower=True)
    except scipy.linalg.LinAlgError:
        return None
    inverse = scipy.linalg.solve_triangular(lower, np.eye(len(gram)), lower=True)
    return np.asarray(inverse[::-1, ::-1]), order


def _propagated(weight: Float64Array, upper: Float64Array, order: npt.NDArray[np.intp], grid: Grid) -> Float64Array:
    """GPTQ: round column after column of ``weight`` [O, K], moving errors to later columns."""
    left, rounded = weight[:, order].copy(), np.empty_like(weight)
    for first in range(0, left.shape[1], _BLOCK):
        last = min(first + _BLOCK, left.shape[1])
        errors = np.empty((len(left), last - first))
        for k in range(first, last):
            codes = grid.nearest(left[:, k], int(order[k]))
            rounded[:, order[k]] = codes
            errors[:, k - first] = (left[:, k] - codes * grid.steps[:, order[k]]) / upper[k, k]
            left[:, k:last] -= np.outer(errors[:, k - first], upper[k, k:last])
        left[:, last:] -= errors @ upper[first:last, last:]
    return rounded


def descended(weight: Float64Array, gram: Float64Array, grid: Grid, rounded: Float64Array, sweeps: int) -> Float64Array:
    """Coordinate descent from ``rounded``: the loss is a parabola in each integer, its best value a rounding away."""
    rounded = rounded.copy()
    gradient = (weight - rounded * grid.steps) @ gram
    for _ in range(sweeps):
        moved = False
        for k in range(weight.shape[1]):
            steps = grid.steps[:, k]
            move = grid.nearest(rounded[:, k] * steps + gradient[:, k] / gram[k, k], k) - rounded[:, k]
            rows = np.flatnonzero(move)
            if rows.size:
                moved = True
                rounded[rows, k] += move[rows]
                gradient[rows] -= np.outer(move[rows] * steps[rows], gram[k])
        if not moved:
            break
    return rounded

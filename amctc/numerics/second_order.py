"""Round weights by what rounding does to a layer's output, not to the weights.

For one output with weights w [K], integers q and step s, the mean squared error of the output over the samples is

    E[(Σ_k (w_k - s·q_k)·x_k)²] = (w - s·q)ᵀ H (w - s·q),   H = E[x xᵀ],

with the Gram matrix H of the inputs. Rounding to nearest minimises it only where H is diagonal. Here the error of each
weight is moved to those not yet rounded (Frantar et al. 2023, GPTQ, section 3; Frantar and Alistarh 2022, OBQ), and
coordinate descent improves the result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from amctc.errors import InputError
from amctc.numerics.linear import storage_range

Float64Array = npt.NDArray[np.float64]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal (GPTQ, section 3.3, step 3)."""

_BLOCK = 64  # columns whose updates to the rest are applied together (GPTQ, section 3.3, step 2)


def round_second_order(
    weight: npt.ArrayLike,
    gram: npt.ArrayLike,
    scales: npt.ArrayLike,
    *,
    bits: int = 8,
    damping: float = DAMPING,
    sweeps: int = 2,
) -> npt.NDArray[np.int8]:
    """Integers [O, K] for ``weight`` [O, K] in steps of ``scales`` [O], given ``gram`` [K, K] of the inputs.

    Columns are rounded in the order of decreasing diagonal; then ``sweeps`` of coordinate descent move each weight to
    its best integer with the others fixed. In the damped loss no output is worse than rounded to nearest. A weight of
    0 stays 0, so masks survive. Raises InputError where shapes do not fit or the Gram matrix is not finite.
    """
    w, h, s = (np.asarray(a, np.float64) for a in (weight, gram, scales))
    if w.ndim != 2 or h.shape != (w.shape[1], w.shape[1]) or s.shape != (len(w),):
        raise InputError(f"a Gram matrix {list(h.shape)} and {list(s.shape)} scales for weights {list(w.shape)}")
    if not np.isfinite(h).all():
        raise InputError("the Gram matrix of a layer's input is not finite", remedy="check the calibration samples")
    if not w.size:
        return np.zeros(w.shape, np.int8)
    damped = h + np.eye(len(h)) * (damping * float(np.mean(np.diag(h))) + float(np.finfo(np.float64).tiny))
    steps = s[:, None]
    best = _descended(w / steps, damped, np.clip(np.rint(w / steps), *storage_range(bits)), bits, sweeps)
    factor = _inverse_factor(damped)
    if factor is not None:
        other = _descended(w / steps, damped, _propagated(w / steps, *factor, bits), bits, sweeps)
        better = quadratic_loss(w / steps - other, damped) < quadratic_loss(w / steps - best, damped)
        best = np.where(better[:, None], other, best)
    return best.astype(np.int8)


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


def _propagated(codes: Float64Array, upper: Float64Array, order: npt.NDArray[np.intp], bits: int) -> Float64Array:
    """GPTQ: round column after column of the real-valued ``codes`` [O, K], moving errors to later columns."""
    left, zero = codes[:, order].copy(), codes[:, order] == 0
    rounded = np.empty_like(left)
    for first in range(0, left.shape[1], _BLOCK):
        last = min(first + _BLOCK, left.shape[1])
        errors = np.empty((len(left), last - first))
        for k in range(first, last):
            rounded[:, k] = np.where(zero[:, k], 0.0, np.clip(np.rint(left[:, k]), *storage_range(bits)))
            errors[:, k - first] = (left[:, k] - rounded[:, k]) / upper[k, k]
            left[:, k:last] -= np.outer(errors[:, k - first], upper[k, k:last])
        left[:, last:] -= errors @ upper[first:last, last:]
    result = np.empty_like(rounded)
    result[:, order] = rounded
    return result


def _descended(codes: Float64Array, gram: Float64Array, rounded: Float64Array, bits: int, sweeps: int) -> Float64Array:
    """Coordinate descent: the loss is a parabola in each integer, whose best value is a rounding away."""
    low, high = storage_range(bits)
    rounded, zero = rounded.copy(), codes == 0
    gradient = (codes - rounded) @ gram
    for _ in range(sweeps):
        moved = False
        for k in range(codes.shape[1]):
            target = np.clip(np.rint(rounded[:, k] + gradient[:, k] / gram[k, k]), low, high)
            move = np.where(zero[:, k], 0.0, target - rounded[:, k])
            rows = np.flatnonzero(move)
            if rows.size:
                moved = True
                rounded[rows, k] += move[rows]
                gradient[rows] -= np.outer(move[rows], gram[k])
        if not moved:
            break
    return rounded

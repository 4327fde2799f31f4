"""Round weights by what rounding does to a layer's output, not to the weights.

For one output with weights w [K], integers q and steps s [K], the mean squared error of the output over the samples is

    E[(Σ_k (w_k - s_k·q_k)·x_k)²] = (w - s·q)ᵀ H (w - s·q),   H = E[x xᵀ],

with the Gram matrix H of the inputs. Rounding to nearest minimises it only where H is diagonal. Here the error of each
weight is moved to those not yet rounded (Frantar et al. 2023, GPTQ, section 3; Frantar and Alistarh 2022, OBQ), and
coordinate descent improves the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from amctc.concurrency import SerialExecutor, in_order, sharing
from amctc.errors import InputError
from amctc.numerics.linear import storage_range
from amctc.numerics.threads import single_threaded_blas

Float64Array = npt.NDArray[np.float64]
_Factor = tuple[Float64Array, npt.NDArray[np.intp]]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal (GPTQ, section 3.3, step 3)."""

SWEEPS = 4
"""Sweeps of coordinate descent; most end before, because nothing moves any more."""

_ROWS = 1024  # outputs rounded together: fewer cost more for each, more leave workers without
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
        steps, zeros = scales[:, None] if scales.ndim == 1 else scales, np.asarray(zero_points, np.float64)
        steps, lowest, highest = (np.broadcast_to(a, shape) for a in (steps, low - zeros, high - zeros))
        return cls(steps, lowest, highest, weight == 0)

    def nearest(self, values: Float64Array, at: int | slice = slice(None)) -> Float64Array:
        """The integer q next to ``values``, columns ``at`` of the weights."""
        found = values / self.steps[:, at]
        np.rint(found, out=found)
        np.maximum(found, self.low[:, at], out=found)
        np.minimum(found, self.high[:, at], out=found)
        found[self.kept[:, at]] = 0.0
        return found


def round_second_order(
    weight: npt.ArrayLike,
    gram: npt.ArrayLike,
    scales: npt.ArrayLike,
    *,
    bits: int = 8,
    zero_points: npt.ArrayLike = 0,
    damping: float = DAMPING,
    sweeps: int = SWEEPS,
    executor: Executor | None = None,
) -> npt.NDArray[np.int8]:
    """Integers [O, K] for ``weight`` [O, K] in steps of ``scales`` [O] or [O, K], given ``gram`` [K, K] of the inputs.

    ``zero_points`` (of the shape of scales with a step for each weight) are added to the integers. Columns are rounded
    in the order of decreasing diagonal; then ``sweeps`` of coordinate descent move each weight to its best integer with
    the others fixed. In the damped loss no output is worse than rounded to nearest. A weight of 0 stays 0, so masks
    survive. ``executor`` runs both descents, of some rows at a time. Raises InputError where shapes do not fit or the
    Gram matrix is not finite.
    """
    w, h, s = (np.asarray(a, np.float64) for a in (weight, gram, scales))
    if w.ndim != 2 or h.shape != (w.shape[1], w.shape[1]) or s.shape not in (w.shape[:1], w.shape):
        raise InputError(f"a Gram matrix {list(h.shape)} and {list(s.shape)} scales for weights {list(w.shape)}")
    if not np.isfinite(h).all():
        raise InputError("the Gram matrix of a layer's input is not finite", remedy="check the calibration samples")
    if not w.size:
        return np.zeros(w.shape, np.int8)
    executor, blocks = executor or SerialExecutor(), even_blocks(len(w), _ROWS)
    zeros, matrix = np.asarray(zero_points), damped(h, damping)
    with single_threaded_blas(), sharing(executor) as share:
        problem = share(_Problem(w, s, zeros, bits, matrix, sweeps))

        def starts() -> Iterator[_Start]:
            yield from (_Start(problem, rows) for rows in blocks)
            if (factor := _inverse_factor(matrix)) is not None:
                shared = share(factor)
                yield from (_Start(problem, rows, shared) for rows in blocks)

        found = list(in_order(executor, _improved, starts()))
    count = len(blocks)
    best, losses = (np.concatenate(parts) for parts in zip(*found[:count], strict=True))
    if len(found) > count:
        other, other_losses = (np.concatenate(parts) for parts in zip(*found[count:], strict=True))
        best = np.where((other_losses < losses)[:, None], other, best)
    return np.asarray(best + zeros).astype(np.int8)


class _Problem(NamedTuple):
    """What :func:`round_second_order` works on: weights, scales, zero points, bits, the damped Gram matrix, sweeps."""

    weight: Float64Array
    scales: Float64Array
    zero_points: npt.NDArray[np.generic]
    bits: int
    matrix: Float64Array
    sweeps: int


class _Start(NamedTuple):
    """Some rows of a problem, to be improved from what the factor of its matrix gives, or from rounded to nearest."""

    problem: Callable[[], _Problem]
    rows: slice
    factor: Callable[[], _Factor] | None = None


def _improved(start: _Start) -> tuple[npt.NDArray[np.int16], Float64Array]:
    """Integers [o, K] of the rows without zero points, and the loss [o] of each row."""
    problem, rows = start.problem(), start.rows
    zeros, weight = problem.zero_points, problem.weight[rows]
    grid = Grid.of(weight, problem.scales[rows], zeros[rows] if zeros.ndim else zeros, problem.bits)
    with single_threaded_blas():
        first = grid.nearest(weight) if start.factor is None else _propagated(weight, *start.factor(), grid)
        found = descended(weight, problem.matrix, grid, first, problem.sweeps)
        return found.astype(np.int16), quadratic_loss(weight - grid.steps * found, problem.matrix)


def even_blocks(length: int, most: int) -> list[slice]:
    """``length`` rows in blocks of at most ``most``, as even as can be."""
    count = -(-length // most)
    ends = [length * (i + 1) // count for i in range(count)]
    return [slice(first, last) for first, last in zip([0, *ends], ends, strict=False)]


def damped(gram: Float64Array, damping: float) -> Float64Array:
    """``gram`` with ``damping`` times its mean diagonal added to the diagonal; the identity where nothing was read."""
    size = float(np.mean(np.diag(gram)))
    if not size > 0.0:
        return np.eye(len(gram))
    found = gram.copy()
    found[np.diag_indices(len(gram))] += damping * size
    return found


def quadratic_loss(error: Float64Array, gram: Float64Array) -> Float64Array:
    """eᵀ H e for each row e of ``error`` [O, K]: [O]."""
    return np.asarray(np.einsum("ok,ok->o", error @ gram, error))


def _inverse_factor(gram: Float64Array) -> _Factor | None:
    """U with H⁻¹ = Uᵀ U, upper triangular, and the rounding order it is in; ``None`` for a matrix too ill for it.

    With P the reversal, P H P = M Mᵀ gives H = R Rᵀ for the upper R = P M P, so U = R⁻¹ = P M⁻¹ P.
    """
    order = np.argsort(-np.diag(gram), kind="stable")
    backwards = order[::-1]
    try:
        lower = scipy.linalg.cholesky(gram[np.ix_(backwards, backwards)], lower=True, overwrite_a=True)
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

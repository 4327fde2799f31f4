"""Integers for weights under float data that disturb the layer's output less than rounding to nearest does.

Ranges are narrowed where clipping costs less than coarse steps (the clip search of AWQ, Lin et al. 2023), and weights
are rounded with the second moments of the data (GPTQ, Frantar et al. 2023), for whole channels or for blocks of inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from amctc.concurrency import SerialExecutor, in_order, sharing
from amctc.numerics.linear import storage_range
from amctc.numerics.parted_gram import PartedGram
from amctc.numerics.scale_search import search_scales
from amctc.numerics.second_order import DAMPING, even_blocks, round_second_order
from amctc.numerics.threads import single_threaded_blas
from amctc.numerics.weight_only import quantize_weight_only, weight_only_parameters

Float64Array = npt.NDArray[np.float64]

RANGES = 20
"""Shares of the full range that the clip search tries."""

_ROWS = 512  # outputs whose ranges are searched together

WIDEST = 2.0**10
"""An input smaller by more is as good as dead; what scales it must not sink the others in a float16 island."""


@dataclass(frozen=True)
class BlockScheme:
    """Bits of storage, input channels per scale (0: all), and whether zero points are 0."""

    bits: int
    block: int
    symmetric: bool

    def spread(self, array: npt.ArrayLike, length: int) -> Float64Array:
        """What ``array`` [O, B] gives each of ``length`` inputs: [O, K]."""
        return np.repeat(np.asarray(array, np.float64), [b.stop - b.start for b in self.blocks(length)], axis=1)

    def blocks(self, length: int) -> list[slice]:
        """The inputs of each scale."""
        size = self.block or max(1, length)
        return [slice(first, min(first + size, length)) for first in range(0, length, size)]


@dataclass(frozen=True)
class RoundedWeight:
    """``method``, ``scales`` and ``zeros`` [O, B], ``codes`` [O, K] int8."""

    method: str
    scales: Float64Array
    zeros: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int8]

    def real(self, scheme: BlockScheme) -> Float64Array:
        """The numbers that the integers stand for."""
        length = self.codes.shape[1]
        return (self.codes - scheme.spread(self.zeros, length)) * scheme.spread(self.scales, length)


def rounded_to_nearest(weight: Float64Array, scheme: BlockScheme) -> RoundedWeight:
    """``weight`` [O, K] in ranges that hold it all."""
    scales, zeros = weight_only_parameters(
        weight, axis=1, block=scheme.block, bits=scheme.bits, symmetric=scheme.symmetric
    )
    codes = quantize_weight_only(weight, scales, zeros, axis=1, block=scheme.block, bits=scheme.bits)
    return RoundedWeight("nearest", scales.astype(np.float64), zeros, codes)


def weight_candidates(
    weight: Float64Array, gram: PartedGram, scheme: BlockScheme, *, clip: bool, second_order: bool,
    executor: Executor | None = None,
) -> Iterator[RoundedWeight]:  # fmt: skip
    """``weight`` [O, K] rounded to nearest, then what the samples of ``gram`` suggest instead.

    ``executor`` runs what is independent; the result is the same.
    """
    executor = executor or SerialExecutor()
    plain = rounded_to_nearest(weight, scheme)
    yield plain
    narrowed = _clipped(weight, gram, scheme, plain, executor) if clip else plain
    if clip:
        yield narrowed
    if second_order:
        yield _second_order(weight, gram, scheme, plain, executor)
    if second_order and clip:
        yield _second_order(weight, gram, scheme, narrowed, executor)


class _Clipping(NamedTuple):
    """Some rows of a weight with one scale each, to be narrowed: what all share, the block and the rows."""

    shared: Callable[[], tuple[Float64Array, PartedGram, BlockScheme, RoundedWeight]]
    block: int
    rows: slice


def _clipped(
    weight: Float64Array, gram: PartedGram, scheme: BlockScheme, plain: RoundedWeight, executor: Executor
) -> RoundedWeight:
    """Each block with the share of its range that disturbs the output least, other blocks aside.

    Zero points stay: both ends move by the same share.
    """
    scales, codes = plain.scales.copy(), plain.codes.copy()
    blocks = scheme.blocks(weight.shape[1])
    with single_threaded_blas(), sharing(executor) as share:
        shared = share((weight, gram, scheme, plain))
        tasks = [_Clipping(shared, i, rows) for i in range(len(blocks)) for rows in even_blocks(len(weight), _ROWS)]
        for task, found in zip(tasks, in_order(executor, _narrowed, tasks), strict=True):
            scales[task.rows, task.block], codes[task.rows, blocks[task.block]] = found
    return RoundedWeight("clip", scales, plain.zeros, codes)


def _narrowed(task: _Clipping) -> tuple[Float64Array, npt.NDArray[np.int8]]:
    """Scales [o] and integers [o, k]."""
    (weight, gram, scheme, plain), rows = task.shared(), task.rows
    terms = scheme.blocks(weight.shape[1])[task.block]
    part, zeros, inner = weight[rows, terms], plain.zeros[rows, task.block, None], gram.within(terms)

    def trial(steps: Float64Array) -> tuple[npt.NDArray[np.int8], Float64Array]:
        found = np.clip(np.rint(part / steps[:, None]) + zeros, *storage_range(scheme.bits))
        return found.astype(np.int8), inner.loss(part - (found - zeros) * steps[:, None])

    with single_threaded_blas():
        return search_scales(plain.scales[rows, task.block], trial, RANGES)


def _second_order(
    weight: Float64Array, gram: PartedGram, scheme: BlockScheme, start: RoundedWeight, executor: Executor
) -> RoundedWeight:
    length, codes = weight.shape[1], np.empty(weight.shape, np.int8)
    steps, zeros = scheme.spread(start.scales, length), scheme.spread(start.zeros, length)
    for terms, part in gram.parts:
        codes[:, terms] = round_second_order(
            weight[:, terms], part, steps[:, terms], bits=scheme.bits, zero_points=zeros[:, terms], damping=DAMPING,
            executor=executor,
        )  # fmt: skip
    return RoundedWeight("gptq" if start.method == "nearest" else f"{start.method} and gptq",
                         start.scales, start.zeros, codes)  # fmt: skip


def channel_magnitudes(gram: PartedGram) -> Float64Array:
    """How large each input is: the root of E[x²], at least the largest one's by :data:`WIDEST`; 1 where all are 0."""
    sizes = np.sqrt(np.maximum(gram.diagonal(), 0.0))
    largest = sizes.max(initial=0.0)
    return np.maximum(sizes, largest / WIDEST) if largest > 0.0 else np.ones(sizes.shape)


def salience_factors(magnitudes: Float64Array, alpha: float) -> Float64Array:
    """What the weights of each input are multiplied by (AWQ, section 3.2): magnitudes to the power ``alpha`` in [0, 1].

    Normalised so that the largest is the inverse of the smallest.
    """
    powers = magnitudes**alpha
    return np.asarray(powers / np.sqrt(powers.max(initial=0.0) * powers.min(initial=np.inf))) if powers.size else powers


def scaled_loss(weight: Float64Array, gram: PartedGram, scheme: BlockScheme, factors: Float64Array) -> float:
    """The error of the output when ``weight`` [O, K] times ``factors`` [K] is rounded to nearest."""
    found = rounded_to_nearest(weight * factors, scheme).real(scheme)
    return float(gram.loss(weight - found / factors).sum())

"""Means and covariances of what a layer reads, beside what it read in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.calibrate.contraction import Contraction
from amctc.calibrate.frontier import watched
from amctc.ir import Graph, Op, Value
from amctc.numerics.compensation import compensated
from amctc.numerics.gram import Covariance, CrossCovariance
from amctc.numerics.parted_gram import parts_of
from amctc.pipeline import Context
from amctc.types import Array
from amctc_passes.quantize.held_back import FoldMeans, held_columns
from amctc_passes.quantize.reference import before_quantizer, without_quantizers
from amctc_passes.weights.layer_inputs import LayerInputs, contraction_of

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Some terms of a layer's sums: their covariance [G, k, k], and that of the float data's difference with them."""

    terms: slice
    covariance: Float64Array
    cross: Float64Array | None

    def target(self, group: int, weight: Float64Array) -> Float64Array:
        """What to round in place of ``weight`` [O, k]: what makes up for the difference, if that is known."""
        return weight if self.cross is None else compensated(weight, self.covariance[group], self.cross[group])

    def loss(self, weight: Float64Array, rounded: Float64Array) -> float:
        """E[(w·x - r·x̂)²] of all outputs, x̂ = x where no difference is known, up to what no rounding changes.

        ``weight`` and ``rounded`` are [G, O, k], the terms of this part. With d = x - x̂ and e = w - r that is
        eᵀ E[x̂ x̂ᵀ] e + 2 wᵀ E[d x̂ᵀ] e.
        """
        error = weight - rounded
        total = float(((error @ self.covariance) * error).sum())
        if self.cross is not None:
            total += 2.0 * float(((weight @ self.cross) * error).sum())
        return total


class _PartMoments:
    """The covariances of one part, gathered."""

    def __init__(self, terms: slice, centre: Float64Array | None) -> None:
        self._terms, about = terms, None if centre is None else centre[:, terms]
        self._covariance, self._cross = Covariance(about), CrossCovariance(about)

    def add(self, columns: Array, real: Array | None) -> None:
        columns = columns[:, self._terms]
        self._covariance.add(columns)
        if real is not None:
            self._cross.add(real[:, self._terms] - columns, columns)

    def absorb(self, other: _PartMoments) -> None:
        self._covariance.absorb(other._covariance)
        self._cross.absorb(other._cross)

    def part(self, groups: int, *, crossed: bool, shrunk: bool) -> Part:
        length = self._terms.stop - self._terms.start
        cross = self._cross.matrix(length, shrunk=shrunk) if crossed else None
        return Part(self._terms, self._covariance.matrix(groups, length, shrunk=shrunk), cross)


class Moments:
    """Means of what a layer reads, and its covariances in parts, apart for samples that choose and those held back.

    Around ``centre`` [G, K] if there is one; ``crossed`` with the difference of the float data.
    """

    def __init__(self, contraction: Contraction, centre: Float64Array | None, *, crossed: bool) -> None:
        self.mean, parts = FoldMeans.of(contraction), parts_of(contraction.length)
        self.longest = parts[0].stop - parts[0].start
        self._groups, self._crossed, self._seen, self._judged = contraction.groups, crossed, 0, 0
        self._chosen, self._held = ([_PartMoments(p, centre) for p in parts] for _ in range(2))

    def add(self, contraction: Contraction, x: Array, columns: Array, real: Array | None) -> None:
        """Count in the rows ``x``, of whose windows ``columns`` [G, K, n] count, ``real`` in the float network."""
        self.mean.add(contraction, x, self._seen)
        back = held_columns(self._seen, len(x), columns.shape[2])
        for gathered, picked in ((self._chosen, ~back), (self._held, back)):
            for part in gathered if picked.any() else ():
                part.add(_picked(columns, picked), None if real is None else _picked(real, picked))
        self._seen, self._judged = self._seen + len(x), self._judged + int(back.sum())

    @property
    def judges(self) -> bool:
        """Whether there are samples held back to judge by."""
        return self._judged > 1

    def to_choose(self) -> list[Part]:
        """By the samples that choose, shrunk where they are few."""
        return self._parts(self._chosen, shrunk=True)

    def to_judge(self) -> list[Part]:
        """By the samples held back, as they are; empty where none are."""
        return self._parts(self._held, shrunk=False) if self.judges else []

    def of_all(self) -> list[Part]:
        """By all samples, shrunk where they are few. What was gathered apart is gone."""
        for chosen in self._chosen:
            chosen.absorb(self._held.pop(0))
        self._judged = 0
        return self._parts(self._chosen, shrunk=True)

    def _parts(self, gathered: list[_PartMoments], *, shrunk: bool) -> list[Part]:
        return [p.part(self._groups, crossed=self._crossed, shrunk=shrunk) for p in gathered]


def layer_moments(
    op: Op,
    data: Value | None,
    inputs: LayerInputs,
    centre: Float64Array | None,
    reference: tuple[LayerInputs, Value] | None = None,
) -> Moments:
    """The moments of ``data``, around ``centre`` [G, K] if there is one; ``reference`` gives it in float."""
    contraction = contraction_of(op)
    moments = Moments(contraction, centre, crossed=reference is not None)
    others = None if reference is None else reference[0].batches(op, reference[1], contraction, moments.longest)
    for x, columns in inputs.batches(op, data, contraction, moments.longest):
        real = None if others is None else next(others)[1]
        if real is not None and real.shape != columns.shape:  # it depends on the data
            real = columns
        moments.add(contraction, x, columns, real)
    return moments


def _picked(columns: Array, picked: npt.NDArray[np.bool_]) -> Array:
    return columns if picked.all() else columns[:, :, picked]


def float_means(graph: Graph, chosen: list[Op], context: Context, source: str) -> Mapping[Op, FoldMeans]:
    """The mean columns [G, K] that each layer reads in the float network."""
    reference, twins = without_quantizers(graph)
    read = {op: twins[before_quantizer(op.operands[0])] for op in chosen}
    contractions: list[Contraction] = [contraction_of(op) for op in chosen]
    means = [FoldMeans.of(contraction) for contraction in contractions]
    seen = np.zeros(len(chosen), np.int64)
    collection = context.collection(f"{source}, means", chosen)
    if collection.done:
        seen = np.array(collection.array("seen", seen.shape, np.int64))
        for i, mean in enumerate(means):
            mean.totals = np.array(collection.array(f"{i}", mean.totals.shape, np.float64))
            mean.counts = np.array(collection.array(f"{i} counts", mean.counts.shape, np.int64))

    def state() -> dict[str, Array]:
        totals = {f"{i}": mean.totals for i, mean in enumerate(means)}
        return {**totals, **{f"{i} counts": mean.counts for i, mean in enumerate(means)}, "seen": seen}

    if not collection.finished:
        samples = context.calibration(source)
        watch = list(dict.fromkeys(read.values()))
        for arrays in watched(reference, watch, samples, context.provider, done=collection.done):
            for i, (op, contraction) in enumerate(zip(chosen, contractions, strict=True)):
                x = np.atleast_2d(arrays[read[op]])
                means[i].add(contraction, x, int(seen[i]))
                seen[i] += len(x)
            collection.advance(state)
        collection.finish()
    return dict(zip(chosen, means, strict=True))

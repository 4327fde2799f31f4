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
from amctc.numerics.gram import Covariance, CrossCovariance, Mean
from amctc.numerics.parted_gram import parts_of
from amctc.pipeline import Context
from amctc.types import Array
from amctc_passes.quantize.layer_inputs import LayerInputs, contraction_of
from amctc_passes.quantize.reference import before_quantizer, without_quantizers

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


@dataclass(frozen=True)
class Moments:
    """Mean [G, K] of what a layer reads, and its covariances in parts."""

    mean: Float64Array
    parts: tuple[Part, ...]


def layer_moments(
    op: Op,
    data: Value | None,
    inputs: LayerInputs,
    centre: Float64Array | None,
    reference: tuple[LayerInputs, Value] | None = None,
) -> Moments:
    """The moments of ``data``, around ``centre`` [G, K] if there is one; ``reference`` gives it in float."""
    contraction, mean = contraction_of(op), Mean()
    parts = parts_of(contraction.length)
    longest = parts[0].stop - parts[0].start
    centres = [None if centre is None else centre[:, p] for p in parts]
    covariances, crosses = [Covariance(c) for c in centres], [CrossCovariance(c) for c in centres]
    others = None if reference is None else reference[0].batches(op, reference[1], contraction, longest)
    for x, columns in inputs.batches(op, data, contraction, longest):
        mean.add(*contraction.mean_column(x))
        for part, covariance in zip(parts, covariances, strict=True):
            covariance.add(columns[:, part])
        if others is not None:
            real = next(others)[1]
            if real.shape != columns.shape:  # it depends on the data
                real = columns
            for part, cross in zip(parts, crosses, strict=True):
                cross.add(real[:, part] - columns[:, part], columns[:, part])
    whole = np.broadcast_to(mean.value, (contraction.groups, contraction.length))
    return Moments(whole, tuple(
        Part(p, h.matrix(contraction.groups, p.stop - p.start), None if others is None else d.matrix(p.stop - p.start))
        for p, h, d in zip(parts, covariances, crosses, strict=True)
    ))  # fmt: skip


def float_means(graph: Graph, chosen: list[Op], context: Context, source: str) -> Mapping[Op, Float64Array]:
    """The mean columns [G, K] that each layer reads in the float network."""
    reference, twins = without_quantizers(graph)
    read = {op: twins[before_quantizer(op.operands[0])] for op in chosen}
    contractions: list[Contraction] = [contraction_of(op) for op in chosen]
    means = [Mean() for _ in chosen]
    collection = context.collection(f"{source}, means", chosen)
    if collection.done:
        counts = collection.array("counts", (len(chosen),), np.int64).tolist()
        for i, (c, count) in enumerate(zip(contractions, counts, strict=True)):
            means[i] = Mean(collection.array(f"{i}", (c.groups, c.length), np.float64), count)

    def state() -> dict[str, Array]:
        totals = {f"{i}": np.asarray(mean.total) for i, mean in enumerate(means)}
        return {**totals, "counts": np.array([mean.count for mean in means], np.int64)}

    if not collection.finished:
        samples = context.calibration(source)
        watch = list(dict.fromkeys(read.values()))
        for arrays in watched(reference, watch, samples, context.provider, done=collection.done):
            for op, contraction, mean in zip(chosen, contractions, means, strict=True):
                mean.add(*contraction.mean_column(arrays[read[op]]))
            collection.advance(state)
        collection.finish()
    return {op: mean.value for op, mean in zip(chosen, means, strict=True)}

"""Choose few samples that represent many, by what the model itself makes of them.

Features are the penultimate values: what the last layers of the model read, averaged over all positions. Two samples
that are near there are alike to the model, whatever their pixels are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import tee
from typing import Literal

import numpy as np
import numpy.typing as npt

from amctc.calibrate.axes import batch_length
from amctc.calibrate.ends import last_layers
from amctc.calibrate.frontier import watched
from amctc.calibrate.samples import Samples
from amctc.errors import AmctcError, InputError, UsageError
from amctc.ir import Graph, Op, Value
from amctc.numerics.representatives import METHODS, Coverage, coverage
from amctc.ops import nn
from amctc.types import Array

Method = Literal["k-means", "k-center"]

_DRAWS = 10  # random choices to compare with


@dataclass(frozen=True)
class Selection:
    """Which samples were chosen, how well they cover all ``total``, and how well as many at random do on average."""

    indices: tuple[int, ...]
    total: int
    method: str
    covered: Coverage
    random: Coverage

    def __str__(self) -> str:
        return (
            f"{len(self.indices)} of {self.total} samples chosen by {self.method} on penultimate values: "
            f"{self.covered.mean:.3g} on average to the nearest chosen, {self.covered.largest:.3g} at most "
            f"(at random {self.random.mean:.3g} and {self.random.largest:.3g})"
        )


def select_samples(
    graph: Graph, samples: Samples, count: int, *, method: Method = "k-center", seed: int = 0, provider: str = "cpu"
) -> tuple[Samples, Selection]:
    """``count`` of ``samples`` in the order they come (all, if there are no more), and how they were chosen.

    ``graph`` is the float model; it runs once over all samples, and of each only the features are kept. ``method``:
    ``k-center`` leaves no sample far from all chosen, so that ranges hold the odd ones too; ``k-means`` takes typical
    samples, as common as they are. Raises :class:`UsageError` for no count or method, :class:`InputError` for
    features that are not finite or belong to no sample.
    """
    if count < 1:
        raise UsageError(f"a choice of {count} samples", remedy="choose at least one")
    if method not in METHODS:
        raise UsageError(f"unknown way to choose samples {method!r}", remedy=f"there are {', '.join(METHODS)}")
    features = penultimate_features(graph, samples, provider)
    chosen = METHODS[method](features, min(count, len(features)), seed)
    rng = np.random.default_rng(seed)
    draws = [coverage(features, rng.choice(len(features), len(chosen), replace=False)) for _ in range(_DRAWS)]
    mean = Coverage(*(float(np.mean([getattr(d, f) for d in draws])) for f in ("mean", "largest")))
    indices = tuple(chosen.tolist())
    return samples.picked(indices), Selection(indices, len(features), method, coverage(features, chosen), mean)


def penultimate_features(graph: Graph, samples: Samples, provider: str = "cpu") -> npt.NDArray[np.float32]:
    """One row per sample [N, D]: what the layers read that no other layer follows, averaged over all positions.

    Of a model without layers, its outputs. Several such layers give their features side by side.
    """
    read = _last_data(graph)
    whole = any(spec.run for spec in samples.inputs)  # a batch is then one sample, whatever its axes
    batches, same = tee(samples)
    found = []
    for arrays, feeds in zip(watched(graph, list(read), batches, provider), same, strict=True):
        count = 1 if whole else batch_length(feeds)
        try:
            found.append(np.concatenate([_pooled(arrays[v], axis, count) for v, axis in read.items()], axis=1))
        except AmctcError as error:
            raise error.located(samples.source) from None
    return np.concatenate(found)


def _last_data(graph: Graph) -> dict[Value, int | None]:
    """What the last layers read, and along which axis its channels run; ``None`` where it has just elements."""
    found = {_data(op): 1 if isinstance(op.kind, nn.Conv | nn.ConvTranspose) else -1 for op in last_layers(graph)}
    return dict(found) or {v: None for v in graph.outputs if v.type.is_float}


def _data(op: Op) -> Value:
    value = op.operands[0]
    assert value is not None
    return value


def _pooled(array: Array, axis: int | None, samples: int) -> npt.NDArray[np.float32]:
    """``array`` as features [N, D] of so many ``samples``: the mean over all but the channels along ``axis``."""
    rows = array if axis is None or array.ndim < 2 else np.moveaxis(array, axis, -1)
    if not rows.size or rows.size % samples or (rows.ndim > 1 and samples > 1 and rows.shape[0] % samples):
        raise InputError(f"{samples} samples do not show in penultimate values of shape {list(array.shape)}",
                         remedy="choose the samples by other means")  # fmt: skip
    channels = rows.size // samples if axis is None or rows.ndim < 2 else rows.shape[-1]
    return np.asarray(rows.reshape(samples, -1, channels).mean(axis=1, dtype=np.float64), np.float32)

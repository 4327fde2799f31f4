"""Samples for calibration and evaluation: batches of model inputs that can be read any number of times.

They come from a folder of images, an ``.npz`` or ``.npy`` file, raw ``.bin`` files, token sequences in a ``.jsonl``
file, a function of a Python file, or Python objects; one batch at a time is in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amctc.calibrate.arrays import MemoryArrays
from amctc.calibrate.axes import with_sample_axis
from amctc.calibrate.formats import open_source
from amctc.calibrate.inputs import Feed, InputSpec, fixed_batch
from amctc.calibrate.preprocess import Preprocess
from amctc.calibrate.sources import ArraySource, PickedSource, SampleSource, naming, require_labels
from amctc.calibrate.spool import SpooledSource, as_arrays
from amctc.errors import InputError, UsageError

__all__ = ["InputSpec", "Samples", "from_iterable", "open_samples"]

LARGEST_BATCH = 16
BATCH_ELEMENTS = 1 << 19
"""Input elements per batch, about: activations take tens to hundreds of times the memory of the input."""


def automatic_batch(inputs: Sequence[InputSpec]) -> int:
    """Samples per batch that keep memory in bounds: 16 small images, 3 of 224 by 224. Unknown sizes count as 1."""
    elements = sum(math.prod(d for d in spec.shape[1:] if isinstance(d, int)) for spec in inputs)
    return max(1, min(LARGEST_BATCH, BATCH_ELEMENTS // max(elements, 1)))


AnyPath = str | os.PathLike[str]


class Samples:
    """A range of samples as batches ``{input name: array}``, batch axis first, in the model's types and layouts.

    Where inputs share no batch axis, a sample is all that one run is fed, and so is a batch (:mod:`~.axes`).
    Every pass (``iter(samples)``) gives the same batches. A model with a fixed batch gets batches of exactly that size;
    the ``dropped`` samples that do not fill the last one are left out of the batches, ``len`` and ``labels``.
    Reading may raise :class:`InputError` that names the file or the sample at fault.
    """

    def __init__(
        self,
        source: SampleSource,
        inputs: Sequence[InputSpec],
        *,
        batch_size: int | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self.inputs = with_sample_axis(inputs)
        self._fixed = fixed_batch(self.inputs)
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"a batch of {batch_size} samples", remedy="give a batch size of at least 1")
        self.batch_size = self._fixed or batch_size or automatic_batch(self.inputs)
        self._source, self._start, self._stop = source, start, stop

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        self.require_batch()
        first, last = self._range()
        for batch in self._source.batches(first, last, self.batch_size):
            if self._fixed and any(len(array) != self._fixed for array in batch.values()):
                raise InputError(
                    f"samples of different shapes cannot fill a batch of {self._fixed}",
                    where=self._source.where,
                    remedy="give samples of one shape",
                )
            yield {spec.name: batch[spec.name][0, ...] if spec.run else batch[spec.name] for spec in self.inputs}

    def __len__(self) -> int:
        first, last = self._range()
        return last - first

    @property
    def smallest_batch(self) -> int:
        """Samples the model needs at least: its fixed batch, else one."""
        return self._fixed or 1

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """One class per sample, ``None`` if there are no labels."""
        found = self._source.labels
        return None if found is None else found[slice(*self._range())]

    @property
    def dropped(self) -> int:
        """Samples at the end that are left out, because the model's batch is fixed and they do not fill one."""
        return self._span() % self._fixed if self._fixed else 0

    @property
    def source(self) -> str:
        """Where the samples come from, in words."""
        return self._source.description

    def limited(self, start: int, stop: int | None = None) -> Samples:
        """The samples ``start`` to ``stop`` of these, counted from 0; nothing is read or copied."""
        if start < 0 or (stop is not None and stop < start):
            raise UsageError(f"no range of samples: {start} to {stop}", remedy="give 0 <= start <= stop")
        ends = [end for end in (self._stop, None if stop is None else self._start + stop) if end is not None]
        return Samples(
            self._source,
            self.inputs,
            batch_size=self.batch_size,
            start=self._start + start,
            stop=min(ends, default=None),
        )

    def picked(self, indices: Sequence[int]) -> Samples:
        """The samples at ``indices`` of these, in that order; nothing is read or copied."""
        if any(not 0 <= i < self._span() for i in indices):
            raise UsageError(f"there are {self._span()} samples, not all of those picked", remedy="count from 0")
        source = PickedSource(self._source, [self._start + i for i in indices])
        return Samples(source, self.inputs, batch_size=self.batch_size)

    def require_batch(self) -> None:
        """Raise :class:`InputError` if there is not even one batch."""
        if not len(self):
            few = f"; the model takes {self._fixed} at a time" if self._fixed else ""
            raise InputError(
                f"there are {self._span()} samples from number {self._start} on{few}",
                where=self._source.where,
                remedy="give more samples",
            )

    def _span(self) -> int:
        total = len(self._source)
        return max(0, min(total, self._stop if self._stop is not None else total) - self._start)

    def _range(self) -> tuple[int, int]:
        return self._start, self._start + self._span() - self.dropped


def open_samples(
    path: AnyPath,
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | None = None,
    labels: AnyPath | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    input_shape: str | None = None,
    data_types: str | None = None,
) -> Samples:
    """The samples at ``path`` for a model with these ``inputs``; the first ``limit`` of them.

    A folder of images: all its images by name, or those that ``labels`` (or its ``labels.csv``) lists, in that order.
    An ``.npz``: one array per input with the batch axis first, and ``y`` for labels; for one input also ``x``. An
    ``.npy``: the array of the one input. A folder of ``.bin`` files, for several inputs one each with ``;`` between:
    see :mod:`amctc.calibrate.raw`, also for ``input_shape`` and ``data_types``. A ``.jsonl``: see
    :func:`amctc.calibrate.tokens.read_sequences`. ``file.py:function``: what that function of the user yields, taken
    as by :func:`from_iterable`; this runs the file. Folders of images, and uint8 images (N,H,W) or (N,H,W,C) in
    arrays, need ``preprocess``. ``labels`` is a CSV file and goes before other labels. Shapes and types are checked
    here, values as they are read.

    Raises :class:`UsageError`, :class:`InputError`, :class:`UnsupportedError`, :class:`LimitError`.
    """
    where, model_inputs = os.fspath(path), with_sample_axis(inputs)
    with naming(where):
        if limit is not None and limit < 1:
            raise UsageError(f"a limit of {limit} samples", remedy="give a limit of at least 1")
        fixed_batch(model_inputs)
        source = open_source(
            where, Feed(model_inputs, preprocess), labels=labels, limit=limit, input_shape=input_shape,
            data_types=data_types,
        )  # fmt: skip
        samples = Samples(source, model_inputs, batch_size=batch_size, stop=limit)
        samples.require_batch()
        return samples


def from_iterable(
    samples: Iterable[object],
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | None = None,
    labels: ArrayLike | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
) -> Samples:
    """Samples from Python objects for a model with these ``inputs``; the first ``limit`` of them.

    ``samples`` is a dictionary ``{input name: array of all samples}``, one array for a model with one input, or an
    iterable (a generator too) of batches of either form, of any sizes. An iterable is read once, on the first use, into
    a temporary file; batches are regrouped to ``batch_size`` or the model's own. Labels: ``labels`` or arrays ``y``.

    Raises :class:`UsageError` and :class:`InputError`, for an iterable when it is read.
    """
    feed = Feed(with_sample_axis(inputs), preprocess)
    fixed_batch(feed.inputs)
    if isinstance(samples, str | bytes | os.PathLike):
        raise UsageError(f"{os.fspath(samples)!r} is a path, not samples", remedy="use open_samples for files")
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} samples", remedy="give a limit of at least 1")
    classes = None
    if labels is not None:
        given = np.asarray(labels)
        require_labels(given.shape, given.dtype)
        classes = given.reshape(-1).astype(np.int64)
    source: SampleSource
    if isinstance(samples, Mapping | np.ndarray):
        source = ArraySource(MemoryArrays(as_arrays(samples, feed)), feed, classes)
    else:
        source = SpooledSource(samples, feed, limit, classes)
    return Samples(source, feed.inputs, batch_size=batch_size, stop=limit)

"""Batches that Python code yields, kept in a temporary file so that every pass sees the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.calibrate.inputs import Feed, require_memory
from amctc.calibrate.sources import LABELS, has_labels, match_names, naming, require_labels, unequal_labels
from amctc.errors import InputError, UsageError
from amctc.files.scratch import ScratchFile


@dataclass(frozen=True)
class _Batch:
    """A batch on disk: index of its first sample, number of samples, offset and shape of each input's array.

    ``texts`` are the arrays of strings, which stay in memory.
    """

    first: int
    count: int
    places: dict[str, tuple[int, tuple[int, ...]]]
    texts: dict[str, NDArray[Any]]

    @property
    def sample_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one sample of each input."""
        return {name: shape[1:] for name, (_, shape) in self.places.items()}


class SpooledSource:
    """What an iterable of batches yields: taken once, on the first use, checked batch by batch.

    Where inputs share no batch axis (:mod:`amctc.calibrate.axes`), a batch may also be what one run is fed.

    Not more than ``limit`` samples are taken. A batch is ``{input name: array}``, for a model with one input also the
    array alone.
    """

    def __init__(
        self,
        batches: Iterable[object],
        feed: Feed,
        limit: int | None = None,
        labels: NDArray[np.int64] | None = None,
        *,
        where: str = "samples",
    ) -> None:
        self.where, self.description = where, f"{where} from Python"
        self._pending: Iterable[object] | None = batches
        self._feed, self._limit = feed, limit
        self._batches: list[_Batch] = []
        self._given_labels = labels
        self._labels: list[NDArray[np.int64]] = []
        self._failure: Exception | None = None
        self._file = ScratchFile("the samples")

    def __len__(self) -> int:
        self._fill()
        return self._count

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The labels given, else the arrays ``y`` of the batches as one, if they have them."""
        self._fill()
        if self._given_labels is not None:
            return self._given_labels[: self._count]
        return np.concatenate(self._labels) if self._labels else None

    def batches(self, start: int, stop: int, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The samples ``start`` to ``stop``, up to ``size`` at a time; those of different shapes never together."""
        self._fill()
        group: list[tuple[_Batch, int, int]] = []
        room = size
        for batch in self._batches:
            first, last = max(start - batch.first, 0), min(stop - batch.first, batch.count)
            while first < last:
                if group and group[0][0].sample_shapes != batch.sample_shapes:
                    yield self._read(group)
                    group, room = [], size
                taken = min(room, last - first)
                group.append((batch, first, first + taken))
                first, room = first + taken, room - taken
                if not room:
                    yield self._read(group)
                    group, room = [], size
        if group:
            yield self._read(group)

    @property
    def _count(self) -> int:
        return self._batches[-1].first + self._batches[-1].count if self._batches else 0

    def _fill(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._failure = UsageError("reading the samples was interrupted", remedy="make the samples anew")
        try:
            for number, batch in enumerate(pending):
                with naming(f"{self.where}, batch {number}"):
                    self._append(batch)
                if self._limit is not None and self._count >= self._limit:
                    break
            with naming(self.where):
                self._finish()
        except Exception as error:
            self._failure = error
            raise
        self._failure = None

    def _finish(self) -> None:
        if not self._batches:
            raise InputError("there are no samples", remedy="give at least one batch")
        labels = self._labels if self._given_labels is None else [self._given_labels]
        count = sum(map(len, labels))
        limited = self._given_labels is not None and self._count == self._limit
        if labels and (count < self._count or (count > self._count and not limited)):
            raise unequal_labels(count, self._count)

    def _append(self, batch: object) -> None:
        """Check one batch, convert it to what the model is fed, write it to the file."""
        arrays = as_arrays(batch, self._feed)
        names = match_names(arrays, self._feed.inputs)
        if all(spec.run and arrays[names[spec.name]].ndim == len(spec.shape) - 1 for spec in self._feed.inputs):
            arrays |= {key: arrays[key][None] for key in names.values()}  # what exactly one run is fed
        count = self._feed.check({name: (arrays[key].shape, arrays[key].dtype) for name, key in names.items()})
        if has_labels(arrays, names):
            require_labels(arrays[LABELS].shape, arrays[LABELS].dtype)
            if len(arrays[LABELS]) != count:
                raise unequal_labels(len(arrays[LABELS]), count)
        first = self._count
        if self._limit is not None:
            count = min(count, self._limit - first)
        fed = self._feed.convert({name: arrays[key][:count] for name, key in names.items()}, first)
        places = {
            name: (self._file.size if array.dtype == object else self._file.append(array), array.shape)
            for name, array in fed.items()
        }
        texts = {name: array for name, array in fed.items() if array.dtype == object}
        self._batches.append(_Batch(first, count, places, texts))
        if has_labels(arrays, names):
            self._labels.append(arrays[LABELS][:count].reshape(-1).astype(np.int64))

    def _read(self, group: list[tuple[_Batch, int, int]]) -> dict[str, NDArray[Any]]:
        """Consecutive pieces ``(batch, first, last)`` of one sample shape as one batch."""
        fed = {}
        rows = sum(last - first for _, first, last in group)
        require_memory(self._feed.inputs, [group[0][0].places[spec.name][1] for spec in self._feed.inputs], rows)
        for spec in self._feed.inputs:
            parts = []
            for batch, first, last in group:
                if spec.name in batch.texts:
                    parts.append(batch.texts[spec.name][first:last])
                    continue
                offset, shape = batch.places[spec.name]
                row = math.prod(shape[1:]) * spec.dtype.itemsize
                parts.append(self._file.read(offset + first * row, (last - first, *shape[1:]), spec.dtype))
            fed[spec.name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return fed


def as_arrays(batch: object, feed: Feed) -> dict[str, NDArray[Any]]:
    """A batch as arrays by name: a mapping, or one array for a model with one input; tensors of frameworks convert.

    Where samples are runs, what one run is fed is a batch of one.
    """
    if not isinstance(batch, Mapping):
        if len(feed.inputs) != 1 or isinstance(batch, tuple | str | bytes):
            raise InputError(
                f"a batch is a {type(batch).__name__}, not a mapping from input names to arrays",
                remedy=f"yield {{{feed.inputs[0].name!r}: array, ...}}",
            )
        batch = {feed.inputs[0].name: batch}
    try:
        arrays = {str(name): np.asarray(value) for name, value in batch.items()}
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"a batch is not made of arrays: {error}", remedy="give numpy arrays") from None
    ranks = {spec.name: len(spec.shape) for spec in feed.inputs if spec.run}
    return {name: a[None] if a.ndim + 1 == ranks.get(name) else a for name, a in arrays.items()}

"""What a source of samples offers, and the source that reads arrays, from a file or from memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from amctc.calibrate.arrays import ArrayStore, Header
from amctc.calibrate.geometry import shape_text
from amctc.calibrate.inputs import Feed, InputSpec, require_memory
from amctc.errors import AmctcError, InputError

LABELS = "y"
IMAGES = "x"


class SampleSource(Protocol):
    """Samples by index, of which any range can be read again and again."""

    @property
    def description(self) -> str:
        """What it is, in words."""

    @property
    def where(self) -> str:
        """The place to name in messages."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """One class per sample, if known."""

    def __len__(self) -> int: ...

    def batches(self, start: int, stop: int, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The samples ``start`` to ``stop`` as model inputs, up to ``size`` at a time."""


def match_names(names: Iterable[str], inputs: Sequence[InputSpec]) -> dict[str, str]:
    """The array for each input: of the same name, or ``x`` if there is one input; ``y`` may be there as labels.

    Raises :class:`InputError` naming what is missing or not wanted.
    """
    there = set(names)
    wanted = [spec.name for spec in inputs]
    found = {name: name for name in wanted}
    if len(wanted) == 1 and wanted[0] not in there and IMAGES in there:
        found = {wanted[0]: IMAGES}
    missing = [name for name in wanted if found[name] not in there]
    extra = sorted(there - set(found.values()) - {LABELS})
    if missing or extra:
        lacks = f"no array for input {', '.join(map(repr, missing))}" if missing else ""
        holds = f"arrays that are no input: {', '.join(map(repr, extra))}" if extra else ""
        raise InputError(
            "the samples have " + " and ".join(filter(None, (lacks, holds))),
            remedy=f"give one array per input: {', '.join(wanted)}" + (" (or x)" if len(wanted) == 1 else ""),
        )
    return found


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors of the block that do not say where get ``where``."""
    try:
        yield
    except AmctcError as error:
        error.located(where)
        raise


class ArraySource:
    """Samples in arrays with the batch axis first, in a file or in memory."""

    def __init__(self, store: ArrayStore, feed: Feed, labels: NDArray[np.int64] | None = None) -> None:
        self.where = store.where
        self.labels = labels
        self._store, self._feed = store, feed
        with naming(self.where):
            self._names = match_names(store.headers, feed.inputs)
            self._headers = {name: store.headers[array] for name, array in self._names.items()}
            self._count = feed.check({name: (h.shape, h.dtype) for name, h in self._headers.items()})
            if labels is None and has_labels(store.headers, self._names):
                self.labels = self._own_labels(store.headers[LABELS])
            if self.labels is not None and len(self.labels) != self._count:
                raise unequal_labels(len(self.labels), self._count)
        self.description = f"{self.where} ({self._count} samples)"

    def __len__(self) -> int:
        return self._count

    def batches(self, start: int, stop: int, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """See :class:`SampleSource`."""
        with naming(self.where):
            require_memory(self._feed.inputs, [self._headers[spec.name].shape for spec in self._feed.inputs], size)
        with self._store.opened() as read:
            for first in range(start, stop, size):
                with naming(self.where):
                    last = min(first + size, stop)
                    arrays = {name: read(array, first, last) for name, array in self._names.items()}
                    fed = self._feed.convert(arrays, first)
                yield fed

    def _own_labels(self, header: Header) -> NDArray[np.int64]:
        require_labels(header.shape, header.dtype)
        with self._store.opened() as read:
            return read(LABELS, 0, header.shape[0]).reshape(-1).astype(np.int64)


class PickedSource:
    """Some samples of another source, at ``indices``."""

    def __init__(self, source: SampleSource, indices: Sequence[int]) -> None:
        self.where = source.where
        self.description = f"{len(indices)} samples picked from {source.description}"
        self._source, self._indices = source, list(indices)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """See :class:`SampleSource`."""
        found = self._source.labels
        return None if found is None else found[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def batches(self, start: int, stop: int, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """See :class:`SampleSource`; a batch ends early where the shapes of samples change."""
        waiting: list[dict[str, NDArray[Any]]] = []
        for index in self._indices[start:stop]:
            (sample,) = self._source.batches(index, index + 1, 1)
            if waiting and (len(waiting) == size or _shapes(sample) != _shapes(waiting[0])):
                yield _joined(waiting)
                waiting = []
            waiting.append(sample)
        if waiting:
            yield _joined(waiting)


def _shapes(sample: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in sample.items()}


def _joined(samples: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def has_labels(names: Iterable[str], inputs: Mapping[str, str]) -> bool:
    """Whether ``y`` is among ``names`` and not the array of an input."""
    return LABELS in names and LABELS not in inputs.values()


def require_labels(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise :class:`InputError` unless an array of that shape and type is a list of class numbers."""
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or dtype.kind not in "iu":
        raise InputError(
            f"the labels are {dtype.name}{shape_text(shape)}, not a list of whole numbers",
            remedy="give one class number per sample, or none at all",
        )


def unequal_labels(labels: int, samples: int) -> InputError:
    """The error for a wrong number of labels."""
    return InputError(f"{labels} labels for {samples} samples", remedy="give one label per sample, or none at all")

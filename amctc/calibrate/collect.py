"""Run a graph in float over samples and watch values: one streaming pass, memory bounded by a few batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from itertools import islice
from typing import NamedTuple

from amctc.calibrate.axes import batch_length
from amctc.calibrate.checkpoint import Collection
from amctc.calibrate.inputs import no_samples
from amctc.calibrate.observers import Observers
from amctc.concurrency import SerialExecutor, in_order
from amctc.errors import AmctcError, InputError
from amctc.ir import Graph, GraphInput, Value
from amctc.numerics.histogram import Histogram
from amctc.onnx_bridge.workers import Run, shared_session
from amctc.types import Array

Progress = Callable[[str, int, int], None]


def collect(
    graph: Graph,
    values: Sequence[Value],
    batches: Iterable[Mapping[str, Array]],
    observers: Observers,
    *,
    collection: Collection | None = None,
    progress: Progress = lambda what, done, total: None,
    executor: Executor | None = None,
    provider: str = "cpu",
) -> Observers:
    """``observers``, which saw nothing, after ``values`` over all batches.

    Executed by ONNX Runtime on ``provider``, batch by batch on ``executor`` (by default in this thread), from which
    histograms come back, not arrays. These do not depend on the order or the size of the batches, averages do; neither
    on the executor. Batches that ``collection`` saw before are passed over. Raises :class:`UsageError` without a batch
    and :class:`InputError` naming the value where one is NaN or infinite.
    """
    collection, executor = collection or Collection(), executor or SerialExecutor()
    if collection.done:
        observers = observers.restored(collection)
    if collection.finished:
        return observers
    computed = [v for v in values if not isinstance(v, GraphInput)]
    names = tuple(f"watched/{i}" for i in range(len(computed)))
    watched = graph.with_outputs(tuple(computed), names)
    tensor_of: dict[Value, str] = {**{v: v.name for v in graph.inputs}, **dict(zip(computed, names, strict=True))}
    tensors = tuple(_Tensor(str(v.name), tensor_of[v]) for v in values)
    total = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
    bins = observers.histograms[0].counts.size if values else 0
    with shared_session(watched, executor, provider=provider, unordered=True) if computed else nullcontext() as run:
        observe = functools.partial(_observed, run, tensors, bins)
        left = _numbered(islice(batches, collection.done, None), observers.samples, graph.inputs, values)
        for count, found in in_order(executor, observe, left):
            observers = observers.updated(found, count)
            collection.advance(observers.state)
            progress("calibrating", observers.samples, max(total, observers.samples))
    if not observers.samples:
        raise no_samples()
    collection.finish()
    return observers


class _Tensor(NamedTuple):
    """A value to observe: its name for messages, and that of the input or output of the session it is."""

    label: str
    name: str


class _Batch(NamedTuple):
    """A batch with the index of its first sample and how many it has."""

    first: int
    size: int
    feeds: Mapping[str, Array]


def _numbered(
    batches: Iterable[Mapping[str, Array]], first: int, inputs: Sequence[GraphInput], values: Sequence[Value]
) -> Iterator[_Batch]:
    """The batches from sample ``first`` on, with the defaults of inputs that are observed and not fed."""
    defaults = {i.name: i.default.read() for i in inputs if i in values and i.default is not None}
    for feeds in batches:
        if missing := [i.name for i in inputs if i.default is None and i.name not in feeds]:
            raise InputError(f"the samples have no input {missing[0]!r}", remedy=f"they have {', '.join(feeds)}")
        size = batch_length(feeds)
        yield _Batch(first, size, {**defaults, **feeds})
        first += size


def _observed(run: Run | None, tensors: tuple[_Tensor, ...], bins: int, batch: _Batch) -> tuple[int, list[Histogram]]:
    """The number of samples of one batch and what each tensor was over them; runs in a worker."""
    arrays = {**batch.feeds, **(run(batch.feeds) if run is not None else {})}
    found = []
    for tensor in tensors:
        try:
            found.append(Histogram.empty(bins).updated(arrays[tensor.name]))
        except AmctcError as error:
            raise error.located(f"value {tensor.label!r}, batch from sample {batch.first}") from None
    return batch.size, found

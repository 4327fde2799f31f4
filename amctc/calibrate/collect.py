"""Run a graph in float over samples and watch values: one streaming pass, memory bounded by a few batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from typing import NamedTuple

from amctc.calibrate.axes import batch_length
from amctc.calibrate.inputs import no_samples
from amctc.errors import AmctcError, InputError
from amctc.executors import SerialExecutor, in_order
from amctc.ir import Graph, GraphInput, Value
from amctc.numerics.histogram import Histogram
from amctc.onnx_bridge.workers import Run, shared_session
from amctc.types import Array

Progress = Callable[[str, int, int], None]


def collect_histograms(
    graph: Graph,
    values: Sequence[Value],
    batches: Iterable[Mapping[str, Array]],
    *,
    bins: int,
    progress: Progress = lambda what, done, total: None,
    executor: Executor | None = None,
    provider: str = "cpu",
    each: Callable[[Sequence[Histogram]], None] = lambda batch: None,
) -> list[Histogram]:
    """What each of ``values`` was over all batches, in the order given.

    Executed by ONNX Runtime on ``provider``, batch by batch on ``executor`` (by default in this thread), from which
    histograms come back, not arrays. They do not depend on the order or the size of the batches, nor on the executor.
    ``each`` is told the histograms of every batch, in the order of the batches.
    Raises :class:`UsageError` without a batch and :class:`InputError` naming the value where one is NaN or infinite.
    """
    executor = executor or SerialExecutor()
    computed = [v for v in values if not isinstance(v, GraphInput)]
    names = tuple(f"watched/{i}" for i in range(len(computed)))
    watched = graph.with_outputs(tuple(computed), names)
    tensor_of: dict[Value, str] = {**{v: v.name for v in graph.inputs}, **dict(zip(computed, names, strict=True))}
    tensors = tuple(_Tensor(str(v.name), tensor_of[v]) for v in values)
    total = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
    histograms, seen = [Histogram.empty(bins) for _ in values], 0
    with shared_session(watched, executor, provider=provider) if computed else nullcontext() as run:
        observe = functools.partial(_observed, run, tensors, bins)
        for count, found in in_order(executor, observe, _numbered(batches, graph.inputs, values)):
            each(found)
            histograms = [old.merged(new) for old, new in zip(histograms, found, strict=True)]
            seen += count
            progress("calibrating", seen, max(total, seen))
    if not seen:
        raise no_samples()
    return histograms


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
    batches: Iterable[Mapping[str, Array]], inputs: Sequence[GraphInput], values: Sequence[Value]
) -> Iterator[_Batch]:
    """The batches, with the defaults of inputs that are observed and not fed."""
    first = 0
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

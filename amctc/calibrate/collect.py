"""Run a graph in float over samples and watch values: one streaming pass, memory bounded by a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from amctc.errors import AmctcError, InputError, UsageError
from amctc.ir import Graph, GraphInput, Value
from amctc.numerics.histogram import Histogram
from amctc.onnx_bridge.runtime import FloatSession
from amctc.types import Array

Progress = Callable[[str, int, int], None]


def collect_histograms(
    graph: Graph,
    values: Sequence[Value],
    batches: Iterable[Mapping[str, Array]],
    *,
    bins: int,
    progress: Progress = lambda what, done, total: None,
) -> list[Histogram]:
    """What each of ``values`` was over all batches, in the order given.

    Executed by ONNX Runtime. The histograms do not depend on the order or the size of the batches. Raises
    :class:`UsageError` without a batch and :class:`InputError` naming the value where one is NaN or infinite.
    """
    computed = [v for v in values if not isinstance(v, GraphInput)]
    session = FloatSession(graph, computed)
    histograms = {v: Histogram.empty(bins) for v in values}
    total = len(batches) if hasattr(batches, "__len__") else 0  # type: ignore[arg-type]
    seen = 0
    for feeds in batches:
        if missing := [i.name for i in graph.inputs if i.default is None and i.name not in feeds]:
            raise InputError(f"the samples have no input {missing[0]!r}", remedy=f"they have {', '.join(feeds)}")
        arrays = session.run_values(feeds) if computed else {}
        for value in histograms:
            array = _fed(value, feeds) if isinstance(value, GraphInput) else arrays[value]
            try:
                histograms[value] = histograms[value].updated(array)
            except AmctcError as error:
                raise error.located(f"value {value.name!r}, batch from sample {seen}") from None
        seen += len(next(iter(feeds.values())))
        progress("calibrating", seen, max(total, seen))
    if not seen:
        raise UsageError("there are no calibration samples", remedy="give at least one batch of samples")
    return [histograms[v] for v in values]


def _fed(value: GraphInput, feeds: Mapping[str, Array]) -> Array:
    if value.name not in feeds and value.default is not None:
        return value.default.read()
    return feeds[value.name]

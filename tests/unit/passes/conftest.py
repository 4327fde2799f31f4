"""Running a pipeline text on a small graph, and evaluating graphs; what holds of every note."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pytest

from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Op, Value
from amctc.kernels.ascend_table import ascend_table
from amctc.onnx_bridge.runtime import CARRIED, WHOLE_FLOAT
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.targets import DEFAULT_TARGET, load_profile
from amctc.types import Array

Run = Callable[..., PipelineResult]


@pytest.fixture(scope="module", autouse=True)
def notes_say_who_where_and_what() -> Iterator[None]:
    """Every note of every pass that these tests run has a source, a layer and a text."""
    noted = Context.note

    def note(context: Context, source: str, layer: str, text: str) -> None:
        assert all(isinstance(said, str) and said for said in (source, layer, text))
        noted(context, source, layer, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "note", note)
        yield


@pytest.fixture
def run() -> Run:
    """``run(pipeline text, graph, samples=…, target=…)``."""

    def function(
        text: str, graph: Graph, samples: Iterable[Mapping[str, Array]] | None = None, target: str = DEFAULT_TARGET
    ) -> PipelineResult:
        return Pipeline.parse(text).run(graph, Context(samples=samples, target=load_profile(target)))

    return function


@pytest.fixture
def real() -> Callable[..., dict[str, Array]]:
    """``real(graph, x=array)``: the outputs in float64."""
    return lambda graph, **feeds: evaluate(graph, feeds, WHOLE_FLOAT, float_type=np.float64)


@pytest.fixture
def chip() -> Callable[..., dict[str, Array]]:
    """``chip(graph, x=array)``: the outputs as the default target computes them."""

    def function(graph: Graph, target: str = DEFAULT_TARGET, **feeds: Array) -> dict[str, Array]:
        return evaluate(graph, feeds, {**ascend_table(load_profile(target)), **CARRIED})

    return function


@pytest.fixture
def one() -> Callable[..., Graph]:
    """``one(value, *inputs)``: the graph with the single output ``y``."""

    def function(value: Value, *inputs: GraphInput) -> Graph:
        return Graph(inputs, (value,), ("y",))

    return function


@pytest.fixture
def find() -> Callable[[Graph, type], Op]:
    """``find(graph, kind)``: the only op of that kind."""

    def function(graph: Graph, kind: type) -> Op:
        (found,) = (op for op in graph.ops if isinstance(op.kind, kind))
        return found

    return function

"""Splits and masks with options that bite on small layers, over drawn graphs: what holds of every pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from amctc.cycles import layer_macs
from amctc.ir import Graph
from amctc.parser import parse_graph
from amctc.pipeline import Context, Pipeline
from amctc.testing import graphs
from amctc.text import print_graph
from amctc.types import shapes_agree
from amctc.verify import verify

PIPELINES = (
    "split-low-rank{method=auto multiple=1}",
    "split-low-rank{rank=1 method=auto}",
    "split-low-rank{energy=0.5 multiple=1}",
    "mask-weights{sparsity=0.7}",
    "mask-weights{sparsity=0.7 scope=global}",
    "mask-n-of-m{n=1}",
)


def run(text: str, graph: Graph) -> Graph:
    return Pipeline.parse(text).run(graph, Context()).graph


@pytest.mark.parametrize("text", PIPELINES)
@settings(max_examples=max(10, settings().max_examples // 2))
@given(graphs(max_ops=6))
def test_drawn_graphs(text: str, graph: Graph) -> None:
    before = print_graph(graph)
    with np.errstate(all="ignore"):
        result = run(text, graph)
        after = print_graph(result)
        assert print_graph(graph) == before
        assert print_graph(run(text, graph)) == after
        verify(result, deep=True)
        if text.startswith("mask"):
            assert run(text, result) is result
    assert print_graph(parse_graph(after)) == after
    assert (after == before) == (result is graph)
    assert (result.inputs, result.output_names) == (graph.inputs, graph.output_names)
    for old, new in zip(graph.outputs, result.outputs, strict=True):
        assert old.type.elem == new.type.elem
        assert shapes_agree(old.type.shape, new.type.shape)
    counts = [[layer_macs(op) for op in g.ops] for g in (graph, result)]
    if "split" in text and result is not graph:
        cost, saved = (sum(c or 0 for c in found) for found in counts)
        assert saved < cost or not cost

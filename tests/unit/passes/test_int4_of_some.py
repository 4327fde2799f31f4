"""Weights of 4 bits for some layers: the option ``int4`` of the passes that quantize weights."""

from __future__ import annotations

import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, layer_name
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline, PipelineResult
from tests.unit.mixed_precision.networks import chain, samples

PASSES = ("quantize-weights", "round-weights")


def run(options: str, graph: Graph) -> PipelineResult:
    return Pipeline.parse(f"observe,place-qdq,{options},quantize-bias").run(graph, Context(samples=samples(graph)))


def stored(graph: Graph) -> list[str]:
    return [
        str(op.operands[1].producer.operands[0].type.elem.storage) for op in graph.ops if isinstance(op.kind, nn.Conv)
    ]


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    ("options", "expected"),
    [("int4=[second]", ["i8", "i4", "i8"]), ('int4=["*ir*"]', ["i4", "i8", "i4"]), ("bits=4 int4=[first]", ["i4"] * 3)],
)
def test_named_layers_take_4_bits(name: str, options: str, expected: list[str]) -> None:
    assert stored(run(f"{name}{{{options}}}", chain()).graph) == expected


@pytest.mark.parametrize("name", PASSES)
def test_a_layer_that_cannot_takes_8(name: str) -> None:
    result = run(f"{name}{{int4=[second]}}", chain(groups=2))
    assert stored(result.graph) == ["i8"] * 3
    assert [n.layer for n in result.notes if "8 bits, not 4: a grouped convolution (N4)" in n.text] == ["second"]


@pytest.mark.parametrize("name", PASSES)
def test_a_name_that_no_layer_has(name: str) -> None:
    with pytest.raises(UsageError, match="int4 'forth' matches no layer"):
        run(f"{name}{{int4=[forth]}}", chain())


def test_layers_keep_their_names() -> None:
    graph = run("quantize-weights{int4=[second]}", chain()).graph
    assert [layer_name(op) for op in graph.ops if isinstance(op.kind, nn.Conv)] == ["first", "second", "third"]

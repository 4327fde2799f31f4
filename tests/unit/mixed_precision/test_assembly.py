"""Graphs put together from graphs of different precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from amctc.errors import InputError, UnsupportedError, UsageError
from amctc.ir import Graph, GraphInput, Origin, apply, const, layer_name
from amctc.mixed_precision.assembly import FLOAT, Assembly
from amctc.mixed_precision.space import (
    CANDIDATES,
    HALF,
    INT4,
    INT8,
    Space,
    possible_candidates,
    precision_options,
    require_candidates,
    space_of,
)
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context
from amctc.preset import load_preset
from amctc.substitute import substitute
from amctc.targets import load_profile, profile_names
from amctc.testing import graphs
from amctc.testing.pass_checks import samples_for
from amctc.text import print_graph
from amctc.types import F32, TensorType
from amctc.verify import verify
from tests.unit.mixed_precision.networks import LAYERS, OF_CONVOLUTIONS, chain, perceptron, samples

PRESETS = ("fast", "balanced")


def space(graph: Graph, preset: str = "fast", candidates: tuple[str, ...] = CANDIDATES) -> Space:
    return space_of(graph, load_preset(preset), candidates, Context(samples=samples(graph)))


def quantized(graph: Graph) -> dict[str, str]:
    """How the weights of layers with quantized data are stored."""
    found = {}
    for op in graph.ops:
        data, weight = (op.operand(i) for i in (0, 1))
        if isinstance(op.kind, nn.Conv) and isinstance(data.producer.kind if data.producer else None, quant.Dequantize):
            found[layer_name(op)] = str(weight.producer.operands[0].type.elem.storage)
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_whole_graphs_come_back(preset: str) -> None:
    """All in int8 is what the preset makes, all in float what it started from."""
    graph, stages = chain(), load_preset(preset)
    found = space(graph, preset)
    assert print_graph(found.assembly.assembled({})) == print_graph(graph)
    options = precision_options(stages, found.assembly.uniform(INT8))
    made = stages.with_options(options).quantize.run(graph, Context(samples=samples(graph))).graph
    assert print_graph(found.assembly.assembled(found.assembly.uniform(INT8))) == print_graph(made)


@given(graphs(max_ops=6))
@settings(max_examples=max(10, settings().max_examples // 4))
def test_whole_drawn_graphs_come_back(graph: Graph) -> None:
    stages, batches = load_preset("fast"), samples_for(graph)
    try:
        prepared = stages.prepare.run(graph, Context(samples=batches)).graph
        found = space_of(prepared, stages, CANDIDATES, Context(samples=batches))
    except (InputError, UnsupportedError, UsageError):  # nothing to quantize, NaN, paddings that no runtime takes
        return
    whole = found.assembly.uniform(INT8)
    made = stages.with_options(found.options(whole)).quantize.run(prepared, Context(samples=batches)).graph
    assert print_graph(found.assembly.assembled(whole)) == print_graph(made)
    assert print_graph(found.assembly.assembled({})) == print_graph(prepared)
    for layer, own in found.assembly.candidates.items():
        verify(found.compiled({layer: own[-1]}))


def test_every_layer_is_as_assigned() -> None:
    assembly = space(chain()).assembly
    assert assembly.candidates == dict.fromkeys(LAYERS, OF_CONVOLUTIONS)
    mixed = assembly.assembled({"first": INT8, "second": FLOAT, "third": INT4})
    assert quantized(mixed) == {"first": "i8", "third": "i4"}
    whole = assembly.assembled(assembly.uniform(INT4))
    assert quantized(whole) == dict.fromkeys(LAYERS, "i4")


def test_options_make_the_preset_do_the_same() -> None:
    graph, stages = chain(), load_preset("fast")
    found = space(graph)
    assignment = {**found.assembly.uniform(INT8), "first": INT4, "second": FLOAT}
    made = stages.with_options(found.options(assignment)).quantize.run(graph, Context(samples=samples(graph))).graph
    assert print_graph(found.assembly.assembled(assignment)) == print_graph(made)


def test_names_with_wildcards_mean_themselves() -> None:
    stages = load_preset("fast")
    options = precision_options(stages, {"a[1]": FLOAT, "b*": INT4})
    assert options == {"place-qdq": {"skip": ("a[[]1]",)}, "quantize-weights": {"int4": ("b[*]",)}}
    already = stages.with_options({"place-qdq": {"skip": ["head"]}})
    assert precision_options(already, {"a": FLOAT})["place-qdq"] == {"skip": ("head", "a")}


def test_the_target_says_which_weights_can_be_int4() -> None:
    """N4: pairs of input channels of one group."""
    assert INT4 not in space(chain(groups=2)).assembly.candidates["second"]
    assert INT4 in space(chain(groups=2)).assembly.candidates["first"]
    odd = space(chain(channels=7)).assembly
    assert all(INT4 not in odd.candidates[layer] for layer in LAYERS)


def test_quantizers_are_shared() -> None:
    """Two layers that read one value read one quantizer of it, whatever graphs they come from."""
    x = GraphInput("x", TensorType(("n", 2, 4, 4), F32))
    hidden = apply(nn.Relu(), x, name="hidden")
    kind, weight = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), [[0.5, 1.0], [-1.0, 0.25]]
    layers = [apply(kind, hidden, const(F32.dtype.type(weight).reshape(2, 2, 1, 1)), name=f"{n}.y",
                    origins=(Origin(n, "Conv"),)) for n in "ab"]  # fmt: skip
    graph = Graph((x,), (apply(nn.Add(), *layers, name="sum"),), ("sum",))
    mixed = space(graph).assembly.assembled({"a": INT8, "b": INT4})
    assert sum(isinstance(op.kind, quant.Quantize) for op in mixed.ops) == 1


def test_layers_of_one_name_are_one() -> None:
    """Names of nodes need not be unique: what has one name has one precision, and options mean the same."""
    graph = chain()
    x = GraphInput("x", graph.inputs[0].type)
    kind, weight = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), const(np.eye(32, dtype=np.float32).reshape(32, 32, 1, 1))
    first = apply(kind, x, weight, name="a", origins=(Origin("same", "Conv"),))
    second = apply(kind, first, weight, name="b", origins=(Origin("same", "Conv"),))
    found = space(Graph((x,), (second,), ("y",)))
    assert found.assembly.layers == ("same",)
    assert quantized(found.assembly.assembled({"same": INT8})) == {"same": "i8"}
    assert sum(isinstance(op.kind, quant.Quantize) for op in found.assembly.assembled({"same": INT8}).ops) == 2
    assert not quantized(found.assembly.assembled({"same": FLOAT}))


def test_graphs_that_do_not_correspond_are_refused() -> None:
    graph = chain()
    whole = space(graph).assembly.assembled(space(graph).assembly.uniform(INT8))
    stages, context = load_preset("fast"), Context(samples=samples(graph))
    whole = stages.quantize.run(graph, context).graph
    op = next(op for op in whole.ops if layer_name(op) == "second" and isinstance(op.kind, nn.Conv))
    renamed = apply(op.kind, *op.operands, name="other", origins=op.origins)
    with pytest.raises(UnsupportedError, match="second: quantizing changed more than constants"):
        Assembly(graph, {INT8: substitute(whole, {op.result: renamed})})


def test_refused_candidates() -> None:
    stages, target = load_preset("balanced"), load_profile("ascend910b1")
    assert require_candidates(["w4a8", "f16"], stages, target) == ("f16", "w4a8")
    with pytest.raises(UsageError, match="no candidate 'w2a8'; candidates are f16, w8a16, w8a8, w4a8"):
        require_candidates(["w2a8"], stages, target)
    with pytest.raises(UsageError, match=r"'w8a16': ascend310 computes no integer weights under float data \[N21\]"):
        require_candidates(["w8a16", "w8a8"], stages, load_profile("ascend310"))
    with pytest.raises(UsageError, match="nothing to choose from"):
        require_candidates(["f16"], stages, target)
    with pytest.raises(UsageError, match="preset 'weight-only' places no quantizers"):
        require_candidates(CANDIDATES, load_preset("weight-only"), target)
    older = replace(target, storage=("i8", "f16"))
    with pytest.raises(UsageError, match=r"stores no int4 \[N4\]"):
        require_candidates(CANDIDATES, stages, older)
    assert possible_candidates(stages, target) == CANDIDATES
    assert possible_candidates(stages, older) == ("f16", "w8a16", "w8a8")
    assert possible_candidates(stages, load_profile("ascend310")) == ("f16", "w8a8")


def test_a_chip_without_int4_is_among_the_targets() -> None:
    """What is refused above happens on real chips."""
    assert any("i4" not in load_profile(name).storage for name in profile_names())


def test_nothing_to_choose() -> None:
    x = GraphInput("x", TensorType(("n", 2), F32))
    with pytest.raises(UsageError, match="no layer can be quantized"):
        space(Graph((x,), (apply(nn.Relu(), x),), ("y",)))


def test_layers_whose_rows_have_steps_are_candidates_too() -> None:
    """int8 is what the preset makes of the layer, with the data rounded row by row where it was told so (N6)."""
    x = GraphInput("x", TensorType(("N", 4), F32))
    weight = const(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
    h = apply(nn.MatMul(nn.Relu()), x, weight, name="h", origins=(Origin("one", "MatMul"),))
    y = apply(nn.MatMul(), h, const(np.eye(3, dtype=np.float32)), name="y", origins=(Origin("two", "MatMul"),))
    graph = Graph((x,), (y,), ("y",))
    stages = load_preset("fast").with_options({"place-qdq": {"dynamic": ("one",)}})
    assembly = space_of(graph, stages, (FLOAT, INT8), Context(samples=samples(graph))).assembly
    assert assembly.layers == ("one", "two")
    kinds = [type(op.kind) for op in assembly.assembled({"one": INT8}).ops]
    assert kinds.count(quant.FakeQuantizeRows) == 1
    assert quant.Quantize not in kinds
    whole = stages.quantize.run(graph, Context(samples=samples(graph))).graph
    assert print_graph(assembly.assembled(assembly.uniform(INT8))) == print_graph(whole)


@pytest.mark.parametrize("preset", PRESETS)
def test_integer_weights_under_float_data(preset: str) -> None:
    """w8a16 of matrix products (N21): no quantizer in front, int8 behind the weight, the preset told so by name."""
    graph, stages = perceptron(), load_preset(preset)
    found = space(graph, preset, (FLOAT, HALF, INT8))
    assert found.assembly.candidates == dict.fromkeys(("one", "two"), (FLOAT, HALF, INT8))
    mixed = found.assembly.assembled({"one": HALF, "two": INT8})
    data, weight = ([op.operands[i] for op in mixed.ops if isinstance(op.kind, nn.Layer)] for i in (0, 1))
    assert [v.producer is not None and isinstance(v.producer.kind, quant.Dequantize) for v in data] == [False, True]
    assert all(isinstance(v.producer.kind, quant.Dequantize) for v in weight)
    kinds = {type(op.kind) for op in found.deploy({"one": HALF, "two": INT8}).ops}
    assert {ascend.WeightQuantMatMul, ascend.MatMul} <= kinds
    rounding = "quantize-weights" if preset == "fast" else "round-weights"
    options = found.options({"one": HALF, "two": INT8})
    assert options["place-qdq"] == {"skip": ("one",)}
    assert options[rounding] == {"weight_only": ("one",)}
    whole = found.assembly.uniform(HALF)
    made = stages.with_options(found.options(whole)).quantize.run(graph, Context(samples=samples(graph))).graph
    assert print_graph(found.assembly.assembled(whole)) == print_graph(made)


def test_a_pool_alone_has_no_weight_to_store() -> None:
    x = GraphInput("x", TensorType(("n", 2, 4, 4), F32))
    pool = nn.AveragePool((1, 1), (0, 0, 0, 0), (1, 1), (2, 2))
    graph = Graph((x,), (apply(pool, x, name="p", origins=(Origin("pool", "AveragePool"),)),), ("y",))
    assert space(graph).assembly.candidates == {"pool": (FLOAT, INT8)}

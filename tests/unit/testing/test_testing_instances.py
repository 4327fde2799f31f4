"""Instances contain what their pattern describes; random graphs are varied and free of dead ends."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from amctc.analysis import uses
from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.kernels.tables import ORACLE
from amctc.matcher import Matcher
from amctc.ops import nn, onnx, quant
from amctc.parser import parse_graph
from amctc.pattern import any_value, either, op, weight
from amctc.schema import OpKind
from amctc.testing import Instance, Recipe, arrays, graphs, instances, op_graphs, ops, types
from amctc.testing.arrays import feed
from amctc.text import print_graph
from amctc.types import F32, TensorType
from amctc.verify import verify

quick = settings(
    max_examples=60, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

x, y = any_value(name="x"), any_value(name="y")
w, v, b = weight(), weight(), weight(optional=True)
relu = op(nn.Relu, x)
conv = op(nn.Conv, x, w, b, uses=1)
shared = op(nn.Relu, x, uses=3)
q, qw, qb = any_value(), weight(), weight()

PATTERNS = {
    "chain": op(nn.Relu, op(nn.Mul, conv, v)),
    "residual": op(nn.Add, op(nn.Conv, x, w, b), x),
    "two branches": op(nn.Add, op(nn.Conv, x, w), op(nn.Conv, x, v)),
    "swish": op(nn.Mul, x, op(nn.Sigmoid, x)),
    "kinds": op((nn.Relu, nn.Clip), op((nn.Conv, nn.ConvTranspose, nn.Gemm, nn.MatMul), x, w, b)),
    "either": op(nn.MaxPool, either(op(nn.Relu, x), op(nn.Identity, x))),
    "three uses": op(nn.Identity, shared),
    "readers": op(nn.Relu, op(nn.Add, x, y, readers=(nn.Relu,))),
    "root uses": op(nn.Identity, x, uses=2),
    "root readers": op(nn.Identity, x, readers=(nn.Relu, nn.Tanh)),
    "constant": op(nn.Add, any_value(constant=True), any_value(constant=False)),
    "concat": op(nn.Concat, op(nn.Relu, x), op(nn.Relu, y)),
    "any operands": op(nn.Relu, op((nn.Concat, nn.Conv), ..., uses=1)),
    "quantized conv": op(
        quant.Quantize,
        op(nn.Conv, op(quant.Dequantize, q), op(quant.Dequantize, qw), op(quant.Dequantize, qb), uses=1),
    ),
    "narrow": op(
        nn.Transpose, x, where=lambda k: k.permutation == (0, 2, 3, 1), wanted="channels last"
    ),
    "observed": op(quant.Quantize, op(quant.Observe, x)),
    "optional value": op(nn.Conv, x, w, any_value(optional=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_unperturbed_instances_match(name):
    pattern, seen = PATTERNS[name], Counter()

    @quick
    @given(instances(pattern))
    def check(instance: Instance):
        verify(instance.graph)
        seen[instance.perturbation] += 1
        match = Matcher(instance.graph).match(pattern, instance.root)
        explained = Matcher(instance.graph, explain=True).match(pattern, instance.root)  # by way of all choices
        assert (match and match.ops) == (explained and explained.ops)
        matched = match is not None
        seen["matched"] += matched
        if instance.perturbation in ("none", "shared weights"):
            # A constraint on uses can meet a graph that happens to use the value elsewhere.
            seen["missed"] += not matched
        evaluate(instance.graph, feed(instance.graph.inputs, Recipe(1)), ORACLE)

    check()
    assert seen["missed"] <= 4, seen
    assert seen["matched"] >= 30, seen


def test_every_perturbation_happens():
    seen = Counter()

    @settings(quick, max_examples=200)
    @given(instances(PATTERNS["chain"]))
    def check(instance: Instance):
        seen[instance.perturbation] += 1

    check()
    assert set(seen) == {"none", "another reader", "interior output", "shared weights", "near miss"}
    assert seen["none"] > 80


def test_optional_weights_and_operand_orders():
    seen = set()

    @settings(quick, max_examples=150)
    @given(instances(PATTERNS["chain"]))
    def check(instance: Instance):
        if instance.perturbation != "none":
            return
        mul = instance.root.producer.operands[0].producer
        swapped = isinstance(mul.operands[1].producer.kind, nn.Conv) if mul.operands[1].producer else False
        layer = mul.operands[1 if swapped else 0].producer
        seen.update([f"swapped {swapped}", f"bias {len(layer.operands) == 3}"])

    check()
    assert seen == {"swapped True", "swapped False", "bias True", "bias False"}


def test_a_condition_no_sampler_meets():
    impossible = op(nn.Clip, x, where=lambda k: k.low == 123.0, wanted="a bound of 123")
    with pytest.raises(UsageError, match=r"cannot draw an instance of nn.clip.*where= refuses.*samplers="):
        instances(impossible)


def test_an_op_kind_without_sampler():
    with pytest.raises(UsageError, match=r"no sampler for onnx.node.*samplers="):
        instances(op(onnx.Node, ...))


def test_instances_print_as_graphs():
    @settings(quick, max_examples=5)
    @given(instances(relu))
    def check(instance: Instance):
        assert repr(instance).startswith("Instance('")
        assert "nn.relu" in repr(instance)

    check()


def test_random_graphs():
    seen: Counter[str] = Counter()
    kinds: set[type[OpKind]] = set()

    @settings(quick, max_examples=150)
    @given(graphs())
    def check(graph):
        verify(graph)
        assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
        evaluate(graph, feed(graph.inputs, Recipe(1)), ORACLE)
        counts = uses(graph)
        kinds.update(type(op.kind) for op in graph.ops)
        seen["several inputs"] += len(graph.inputs) > 1
        seen["several outputs"] += len(graph.outputs) > 1
        seen["several readers"] += any(len(u) > 1 for u in counts.values())
        seen["intermediate output"] += any(
            any(u.op is None for u in counts[o]) and len(counts[o]) > 1 for o in graph.outputs
        )
        seen["symbolic"] += any("N" in i.type.dims for i in graph.inputs)
        seen["many ops"] += len(graph.ops) > 6

    check()
    assert all(n >= 10 for n in seen.values()), seen
    assert len(kinds) > 18


def test_ops_and_types():
    @settings(quick, max_examples=20)
    @given(ops(nn.Conv), op_graphs(nn.Gemm), types(min_rank=2), st.data())
    def check(conv_op, graph, type_, data):
        assert isinstance(conv_op.kind, nn.Conv)
        assert isinstance(graph.outputs[0].producer.kind, nn.Gemm)
        assert type_.rank >= 2
        array = data.draw(arrays(TensorType((2, 3), F32)))
        assert array.shape == (2, 3)

    check()

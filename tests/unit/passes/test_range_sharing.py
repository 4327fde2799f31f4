"""place-qdq{share=…}: which values take one range, and that the target then requantizes them once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from amctc.errors import InputError, UnsupportedError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.kernels.ascend_table import ascend_table
from amctc.onnx_bridge.runtime import CARRIED
from amctc.ops import ascend, nn, quant
from amctc.pipeline import Context, Pipeline
from amctc.session import COMPILE_FUSED
from amctc.spec import PassSpec, print_specs
from amctc.targets import DEFAULT_TARGET, load_profile
from amctc.testing import Recipe, graphs
from amctc.testing.arrays import feed
from amctc.types import F32, Array, QuantizedType, TensorType
from amctc_passes.quantize.points import quantizable_ops, tensor_ops
from amctc_passes.quantize.sharing import range_groups

RNG = np.random.default_rng(14)
IMAGE = GraphInput("x", TensorType(("N", 4, 8, 8), F32))
SAMPLES: list[dict[str, Array]] = [{"x": RNG.uniform(-1, 1, (2, 4, 8, 8)).astype(np.float32)}]
POOL = nn.MaxPool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2))
LOWERED = "quantize-weights,quantize-bias,to-ascend,fuse-requant"


def conv(name: str, x: Value, out: int = 32, factor: float = 1.0) -> Value:
    """A pointwise convolution with relu; ``factor`` scales its result."""
    channels = x.type.dims[1]
    assert isinstance(channels, int)
    w = (factor * RNG.standard_normal((out, channels, 1, 1)) / channels).astype(np.float32)
    kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), activation=nn.Relu())
    return apply(kind, x, const(w), name=f"{name}.out", origins=(Origin(name, "Conv"),))


def joined(*xs: Value) -> Value:
    return apply(nn.Concat(1), *xs, name="joined")


def skip_connection(out: int = 32) -> Graph:
    """The result of ``first`` is read by ``second`` and, joined with that of ``second``, by ``last``."""
    first = conv("first", IMAGE, out)
    return Graph((IMAGE,), (conv("last", joined(first, conv("second", first, out, 40.0)), 8),), ("y",))


def two_sizes() -> Graph:
    """The result of ``first`` is read as it is, and after a max pool."""
    first = conv("first", IMAGE)
    return Graph((IMAGE,), (conv("full", first, 8), conv("half", apply(POOL, first, name="pooled"), 8)), ("a", "b"))


def types(graph: Graph) -> dict[str, QuantizedType]:
    """By layer: what its input was quantized to."""
    found = {}
    for op in graph.ops:
        if isinstance(op.kind, nn.Layer):
            elem = op.operands[0].producer.operands[0].type.elem
            assert isinstance(elem, QuantizedType)
            found[op.origins[0].name] = elem
    return found


def groups(run, graph: Graph, share: str, target: str = "ascend910b1") -> set[frozenset[str]]:
    """The layers, together where their inputs have one type."""
    text = f"observe,place-qdq{{share={share} method=min-max}}"
    found = types(run(text, graph, SAMPLES, target=target).graph)
    return {frozenset(n for n, e in found.items() if e == elem) for elem in found.values()}


def apart(*names: str) -> set[frozenset[str]]:
    return {frozenset({n}) for n in names}


def kinds(run, graph: Graph, share: str) -> Counter[str]:
    result = run(f"observe,place-qdq{{share={share}}},{LOWERED}", graph, SAMPLES).graph
    return Counter(op.kind.op_name for op in result.ops if isinstance(op.kind, ascend.KINDS))


@pytest.mark.parametrize("share", ["requant", "moves", "joins"])
def test_a_skip_connection_is_requantized_once(share: str, run) -> None:
    assert groups(run, skip_connection(), "off") == apart("first", "second", "last")
    assert groups(run, skip_connection(), share) == {frozenset({"first"}), frozenset({"second", "last"})}
    assert kinds(run, skip_connection(), "off")["ascend.requant"] == 1
    assert kinds(run, skip_connection(), "off")["ascend.quant"] == 3
    assert kinds(run, skip_connection(), share)["ascend.requant"] == 2
    assert kinds(run, skip_connection(), share)["ascend.quant"] == 1


def test_the_range_is_that_of_all_values(run) -> None:
    observed = run("observe", skip_connection(), SAMPLES).graph
    found = types(run("place-qdq{method=min-max}", observed).graph)
    alone = types(run("place-qdq{method=min-max share=off}", observed).graph)
    assert found["second"] == found["last"] == alone["last"]
    assert alone["second"].scales < alone["last"].scales


def test_max_pools_are_looked_through(run) -> None:
    graph = two_sizes()
    assert kinds(run, graph, "requant")["ascend.requant"] == 1
    assert groups(run, graph, "requant") == {frozenset({"first"}), frozenset({"full", "half"})}


@pytest.mark.parametrize("share", ["off", "requant"])
def test_a_float_reader_needs_the_result_anyway(share: str, run) -> None:
    first = conv("first", IMAGE)
    tail = conv("last", joined(first, conv("second", first, 32, 40.0)), 8)
    graph = Graph((IMAGE,), (tail, apply(nn.Sigmoid(), first)), ("y", "z"))
    assert groups(run, graph, share) == apart("first", "second", "last")
    output = Graph((IMAGE,), (tail, first), ("y", "z"))
    assert groups(run, output, share) == apart("first", "second", "last")


def test_channels_that_do_not_align_are_not_joined_in_integers(run) -> None:
    """N19: the target moves no quantizer before such a concatenation, so one range would buy nothing."""
    assert groups(run, skip_connection(8), "requant") == apart("first", "second", "last")
    assert groups(run, skip_connection(8), "moves") == {frozenset({"first"}), frozenset({"second", "last"})}


def test_a_target_that_does_not_requantize(run) -> None:
    assert groups(run, skip_connection(), "requant", "ascend310") == apart("first", "second", "last")


def test_results_of_float_ops_are_no_accumulators(run) -> None:
    soft = apply(nn.Tanh(), conv("first", IMAGE))
    graph = Graph((IMAGE,), (conv("last", joined(soft, conv("second", soft, 32, 40.0)), 8),), ("y",))
    assert groups(run, graph, "requant") == apart("first", "second", "last")
    assert groups(run, graph, "moves") == {frozenset({"first"}), frozenset({"second", "last"})}


def test_an_activation_of_its_own_is_part_of_the_layer(run) -> None:
    kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    plain = apply(kind, IMAGE, const(RNG.standard_normal((32, 4, 1, 1)).astype(np.float32)),
                  origins=(Origin("first", "Conv"),))  # fmt: skip
    active = apply(nn.Relu(), plain, name="active")
    graph = Graph((IMAGE,), (conv("last", joined(active, conv("second", active, 32, 40.0)), 8),), ("y",))
    assert groups(run, graph, "requant") == {frozenset({"first"}), frozenset({"second", "last"})}


def test_moves_include_reshapes_and_transposes(run) -> None:
    turned = apply(nn.Transpose((0, 1, 3, 2)), conv("first", IMAGE))
    part = apply(nn.Slice((0,), (4,), (2,), (1,)), turned)
    graph = Graph((IMAGE,), (conv("whole", turned, 8), conv("part", part, 8)), ("a", "b"))
    assert groups(run, graph, "requant") == apart("first", "whole", "part")
    assert groups(run, graph, "moves") == {frozenset({"first"}), frozenset({"whole", "part"})}


def test_schemes_that_differ_stay_apart(run) -> None:
    text = 'observe,place-qdq{method=min-max override=["last{symmetric}"]}'
    found = types(run(text, skip_connection(), SAMPLES).graph)
    assert found["last"].zero_points == (0,)
    assert found["second"].zero_points == (-128,)


@settings(max_examples=max(10, settings().max_examples // 2))
@given(graphs(max_ops=6), st.sampled_from(("off", "requant", "moves", "joins")))
def test_drawn_graphs_are_lowered_and_run(graph: Graph, share: str) -> None:
    """With every addition and max pool quantized; values of one group have one type, and all of them an observer."""
    tensor = ["*"] if list(tensor_ops(graph)) else []
    samples = [feed(graph.inputs, Recipe(seed)) for seed in (1, 2)]
    spec = [("tensor", tuple(tensor))]
    observe, place = PassSpec("observe", (*spec,)), PassSpec("place-qdq", (("share", share), *spec))
    context, target = Context(samples=samples), load_profile(DEFAULT_TARGET)
    with np.errstate(all="ignore"):
        try:
            seen = Pipeline.parse(print_specs((observe,))).run(graph, context).graph
        except (InputError, UnsupportedError) as error:  # NaN in calibration, windows that ONNX Runtime refuses
            assert "NaN" in str(error) or "ONNX Runtime" in str(error)  # noqa: PT017
            reject()
        placed = Pipeline.parse(print_specs((place,))).run(seen, context).graph
        chosen = [p for c in quantizable_ops(seen, target, tensor) if c.obstacle is None for p in c.points]
        groups = range_groups(seen, chosen, share, target)  # type: ignore[arg-type]
        assert set(groups) == {p.value for p in chosen}
        quantizers = {op.kind.to for op in placed.ops if isinstance(op.kind, quant.Quantize)}
        symmetric = any(c.symmetric for c in quantizable_ops(seen, target, tensor))
        assert len(quantizers) <= len(set(groups.values())) * (2 if symmetric else 1)
        lowered = Pipeline.parse(f"quantize-weights,quantize-bias,legalize,to-ascend,{COMPILE_FUSED}").run(
            placed, context
        )
        outputs = evaluate(lowered.graph, samples[0], {**ascend_table(target), **CARRIED})
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        assert outputs[name].dtype == value.type.elem.dtype
        assert outputs[name].ndim == value.type.rank


def test_joint_additions(run) -> None:
    """The existing tool's joint quantization: both inputs of an addition take one range."""
    x = GraphInput("x", TensorType((4,), F32))
    wide = apply(nn.Mul(), x, const(np.float32([4.0])), name="wide")
    graph = Graph((x,), (apply(nn.Add(), x, wide, origins=(Origin("add", "Add"),)),), ("y",))
    samples = [{"x": np.float32([-1, 1, 0.5, 0])}]
    scales = {}
    for share in ("off", "requant", "moves", "joins"):
        text = f"observe{{tensor=add}},place-qdq{{tensor=add symmetric method=min-max share={share}}}"
        result = run(text, graph, samples).graph
        scales[share] = [op.kind.to.scales[0] for op in result.ops if isinstance(op.kind, quant.Quantize)]
    one, four = float(np.float32(1 / 127)), float(np.float32(4 / 127))
    assert scales == {"off": [one, four], "requant": [one, four], "moves": [one, four], "joins": [four, four]}

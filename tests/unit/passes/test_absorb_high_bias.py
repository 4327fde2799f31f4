"""absorb-high-bias: shifts by hand, where they may not go, and the function that must not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import InputError, UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.types import F32, Array, TensorType

POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def layer(activation: object = None, pads: int = 0) -> nn.Conv:
    return nn.Conv((1, 1), (pads,) * 4, (1, 1), 1, activation)


def column(*values: float) -> Value:
    return const(np.float32(values).reshape(len(values), 1, 1, 1))


def pair(activation: object, *, bias: tuple[float, float] = (5.0, 0.5), second: nn.Conv = POINTWISE) -> Graph:
    """z = (x + 5, x + 1/2) for x in [-1, 1]; after the activation (10, 100)·z + 7."""
    x = GraphInput("x", TensorType((1, 1, 1, 5), F32))
    y = apply(layer(activation), x, column(1, 1), const(np.float32(bias)))
    z = apply(second, y, const(np.float32([10, 100]).reshape(1, 2, 1, 1)), const(np.float32([7])))
    return Graph((x,), (z,), ("z",))


SAMPLES = [{"x": np.linspace(-1, 1, 5, dtype=np.float32).reshape(1, 1, 1, 5)}]


def run(graph: Graph, options: str = "", samples: list[dict[str, Array]] = SAMPLES) -> PipelineResult:
    text = f"absorb-high-bias{{{options}}}" if options else "absorb-high-bias"
    return Pipeline.parse(text).run(graph, Context(samples=samples))


def biases(graph: Graph) -> list[list[float]]:
    found = [constant_data(op.operand(2)) for op in graph.ops if isinstance(op.kind, nn.Layer)]
    return [data.read().reshape(-1).tolist() for data in found if data is not None]


def test_shift_by_hand() -> None:
    """The first channel is at least 4, which leaves its bias 1 and comes back as 10 · 4; the second is cut at 0."""
    result = run(pair(nn.Relu()))
    assert biases(result.graph) == [[1.0, 0.5], [47.0]]
    assert [n.text for n in result.notes] == ["1 of 2 channels shifted by up to 4"]
    before, after = (evaluate(g, SAMPLES[0], WHOLE_FLOAT)["z"] for g in (pair(nn.Relu()), result.graph))
    assert np.array_equal(before, after)  # small integers and halves are exact


def test_deviations_by_hand() -> None:
    """One deviation below the mean: 5 - √0.5 in the first channel; 0, 0, 0.5, 1, 1.5 in the second, 0.6 - √0.34."""
    first, second = 5 - np.sqrt(0.5), 0.6 - np.sqrt(0.34)
    (a, b), (last,) = biases(run(pair(nn.Relu()), "deviations=1.0").graph)
    assert (a, b) == pytest.approx((5 - first, 0.5 - second), rel=1e-6)
    assert last == pytest.approx(7 + 10 * first + 100 * second, rel=1e-6)
    assert biases(run(pair(nn.Relu()), "deviations=10.0").graph) == [[1.0, 0.5], [47.0]]  # never below the least value


def test_beyond_the_samples_values_are_cut_off() -> None:
    """As the contract says: z = 2 < c = 4 comes out as 4."""
    after = evaluate(run(pair(nn.Relu())).graph, {"x": np.full((1, 1, 1, 5), -3, np.float32)}, WHOLE_FLOAT)["z"]
    assert np.array_equal(after, np.full((1, 1, 1, 5), 7 + 10 * 4 + 100 * 0, np.float32))


@pytest.mark.parametrize(("high", "bias"), [(6.5, [1.0, 0.5]), (6.0, [5.0, 0.5])])
def test_a_clip_that_was_reached_keeps_its_channel(high: float, bias: list[float]) -> None:
    assert biases(run(pair(nn.Clip(0.0, high))).graph)[0] == bias


@pytest.mark.parametrize(
    ("activation", "second"),
    [
        (None, POINTWISE),
        (nn.LeakyRelu(0.1), POINTWISE),
        (nn.Clip(1.0, 9.0), POINTWISE),
        (nn.Relu(), layer(pads=1)),  # padding is 0 behind the shift, not before
    ],
)
def test_what_stays(activation: object, second: nn.Conv) -> None:
    graph = pair(activation, second=second)
    assert run(graph).graph is graph


def test_any_other_reader_keeps_the_result() -> None:
    graph = pair(nn.Relu())
    (first,) = (op for op in graph.ops if isinstance(getattr(op.kind, "activation", None), nn.Relu))
    both = Graph(graph.inputs, (*graph.outputs, first.result), ("z", "y"))
    assert run(both).graph is both
    pooled = Graph(graph.inputs, (*graph.outputs, apply(nn.GlobalMaxPool(), first.result)), ("z", "p"))
    assert run(pooled).graph is pooled


def test_several_readers_and_layers_on_both_sides() -> None:
    """Each reader takes the shift; a layer in the middle gives and takes, and one without a bias gets one."""
    x = GraphInput("x", TensorType((1, 1, 1, 5), F32))
    a = apply(layer(nn.Relu()), x, column(1, 1), const(np.float32([5, 4])))
    b = apply(layer(nn.Relu()), a, const(np.float32([[1, 1], [1, -1]]).reshape(2, 2, 1, 1)))
    c = apply(POINTWISE, a, const(np.float32([1, 2]).reshape(1, 2, 1, 1)))
    d = apply(POINTWISE, b, const(np.float32([1, 2]).reshape(1, 2, 1, 1)))
    graph = Graph((x,), (c, d), ("c", "d"))
    after = run(graph).graph
    # a: at least (4, 3); b = (x+5 + x+4, 1): at least (7, 1), to which a's shift gives 7 and 1.
    assert sorted(biases(after)) == sorted([[1.0, 1.0], [7.0 - 7.0, 1.0 - 1.0], [4 + 2 * 3.0], [7 + 2 * 1.0]])
    for name in ("c", "d"):
        before, now = (evaluate(g, SAMPLES[0], WHOLE_FLOAT)[name] for g in (graph, after))
        assert np.array_equal(before, now)


def test_products_of_matrices() -> None:
    x = GraphInput("x", TensorType(("n", 2), F32))
    y = apply(nn.Gemm(activation=nn.Relu()), x, const(np.eye(2, dtype=np.float32)), const(np.float32([3, 4])))
    graph = Graph((x,), (apply(nn.MatMul(), y, const(np.float32([[1], [10]]))),), ("z",))
    feeds = {"x": np.float32([[-1, 0], [1, -2]])}
    after = run(graph, samples=[feeds]).graph
    assert biases(after) == [[1.0, 2.0], [2.0 + 10 * 2.0]]
    assert np.array_equal(*(evaluate(g, feeds, WHOLE_FLOAT)["z"] for g in (graph, after)))


@given(st.integers(0, 2**32 - 1), st.sampled_from([nn.Relu(), nn.Clip(0.0, 4.0)]))
@settings(max_examples=30)
def test_the_function_stays_on_the_samples(seed: int, activation: object) -> None:
    rng = np.random.default_rng(seed)
    x = GraphInput("x", TensorType(("n", 3, 4, 4), F32))
    first, second = (rng.integers(-4, 5, s).astype(np.float32) for s in ((4, 3, 1, 1), (2, 2, 2, 2)))
    bias = const(rng.integers(-2, 30, 4).astype(np.float32))
    y = apply(layer(activation), x, const(first), bias)
    z = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 2), y, const(second))
    graph = Graph((x,), (z,), ("z",))
    samples = [{"x": rng.integers(-2, 3, (n, 3, 4, 4)).astype(np.float32)} for n in (1, 2)]
    after = run(graph, samples=samples).graph
    for feeds in samples:  # integers below 2**24: no rounding
        assert np.array_equal(*(evaluate(g, feeds, WHOLE_FLOAT)["z"] for g in (graph, after)))


def test_a_shift_that_rounding_loses_stays_whole() -> None:
    """What a bias does not lose when it is rounded, nothing behind it gets."""
    x = GraphInput("x", TensorType((1, 1, 1, 5), F32))
    far = const(np.float32([-64.0, 1.0]))
    y = apply(layer(nn.Relu()), x, column(1, 1), far)
    graph = Graph((x,), (apply(POINTWISE, y, const(np.float32([1, 0]).reshape(1, 2, 1, 1))),), ("z",))
    samples = [{"x": np.full((1, 1, 1, 5), np.nextafter(np.float32(64), np.float32(99)), np.float32)}]
    (first, _), (last,) = biases(run(graph, samples=samples).graph)
    assert first == np.float32(-64) - np.float32(last)
    assert np.array_equal(
        *(evaluate(g, samples[0], WHOLE_FLOAT)["z"] for g in (graph, run(graph, samples=samples).graph))
    )


def test_bad_samples_and_options() -> None:
    with pytest.raises(InputError, match="NaN"):
        run(pair(nn.Relu()), samples=[{"x": np.full((1, 1, 1, 5), np.nan, np.float32)}])
    with pytest.raises(UsageError, match=r"deviations=0\.0 is not positive"):
        run(pair(nn.Relu()), "deviations=0.0")
    with pytest.raises(UsageError, match="samples"):
        Pipeline.parse("absorb-high-bias").run(pair(nn.Relu()), Context())

"""observe: which values are watched, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.data import ArrayData
from amctc.errors import InputError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn, quant
from amctc.types import F32, I64, Array, TensorType

RNG = np.random.default_rng(10)
X = GraphInput("x", TensorType(("N", 3), F32))


def weights(*shape: int) -> Value:
    return const(RNG.standard_normal(shape).astype(np.float32))


def two_layers() -> Graph:
    hidden = apply(
        nn.Relu(), apply(nn.Gemm(), X, weights(3, 4), name="a"), name="hidden", origins=(Origin("r", "Relu"),)
    )
    return Graph((X,), (apply(nn.Gemm(), hidden, weights(4, 2), name="y"),), ("y",))


def batches(*sizes: int) -> list[dict[str, Array]]:
    return [{"x": RNG.standard_normal((n, 3)).astype(np.float32)} for n in sizes]


def observers(graph: Graph) -> dict[str | None, quant.Observe]:
    found = {}
    for op in graph.ops:
        if isinstance(op.kind, quant.Observe):
            assert op.operands[0] is not None
            found[op.operands[0].name] = op.kind
    return found


def test_histograms_count_every_element(run, real) -> None:
    graph, samples = two_layers(), batches(4, 2, 1)
    seen = observers(run("observe{bins=256}", graph, samples).graph)
    assert set(seen) == {"x", "hidden"}
    watched = graph.with_outputs((X, graph.outputs[0].producer.operands[0]), ("x", "hidden"))
    for name in ("x", "hidden"):
        values = np.concatenate([real(watched, **feeds)[name].ravel() for feeds in samples]).astype(np.float32)
        kind = seen[name]
        counts, edge = kind.histogram.counts, 2.0**kind.exponent
        assert kind.count == values.size
        np.testing.assert_allclose([kind.low, kind.high], [values.min(), values.max()], rtol=1e-6)
        assert np.abs(values).max() <= edge
        expected, _ = np.histogram(values, bins=256, range=(-edge, edge))
        assert counts.sum() == values.size
        assert kind.zeros == np.count_nonzero(values == 0)
        assert np.abs(counts - expected).sum() <= 4, "float32 and float64 may disagree at a bin's edge"


def test_batches_may_be_cut_anywhere(run) -> None:
    (whole,) = batches(6)
    parts = [{"x": whole["x"][:1]}, {"x": whole["x"][1:4]}, {"x": whole["x"][4:]}]
    graph = two_layers()
    assert observers(run("observe", graph, [whole]).graph) == observers(run("observe", graph, parts[::-1]).graph)


def test_a_value_is_observed_once_however_many_layers_read_it(run) -> None:
    a, b = apply(nn.Gemm(), X, weights(3, 4)), apply(nn.Gemm(), X, weights(3, 4))
    graph = run("observe", Graph((X,), (apply(nn.Add(), a, b),), ("y",)), batches(2)).graph
    (observer,) = (op for op in graph.ops if isinstance(op.kind, quant.Observe))
    readers = [op for op in graph.ops if op.operands and op.operands[0] is observer.result]
    assert len(readers) == 2


def test_origins_are_those_of_the_value(run) -> None:
    graph = run("observe", two_layers(), batches(2)).graph
    origins = {op.operands[0].name: op.origins for op in graph.ops if isinstance(op.kind, quant.Observe)}
    assert origins == {"x": (), "hidden": (Origin("r", "Relu"),)}


def test_no_layers_no_samples_needed(run) -> None:
    graph = Graph((X,), (apply(nn.Relu(), X),), ("y",))
    assert run("observe", graph).graph is graph


@pytest.mark.parametrize("samples", [None, []])
def test_samples_are_needed(samples: list[dict[str, Array]] | None, run) -> None:
    with pytest.raises(UsageError, match="samples") as caught:
        run("observe", two_layers(), samples)
    assert caught.value.remedy


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float, run) -> None:
    samples = batches(3, 2)
    samples[1]["x"][1, 2] = bad
    with pytest.raises(InputError, match=r"value 'x', batch from sample 3.*NaN, an infinity"):
        run("observe", two_layers(), samples)


def test_an_inner_overflow_is_refused_by_name(run) -> None:
    hidden = apply(nn.Mul(), X, const(np.float32([3e38])), name="huge")
    graph = Graph((X,), (apply(nn.Gemm(), hidden, weights(3, 4)),), ("y",))
    with pytest.raises(InputError, match="value 'huge'"):
        run("observe", graph, [{"x": np.full((1, 3), 1e3, np.float32)}])


def test_missing_input_is_refused(run) -> None:
    with pytest.raises(InputError, match="'x'"):
        run("observe", two_layers(), [{"z": np.zeros((1, 3), np.float32)}])


def test_input_with_a_default_need_not_be_fed(run) -> None:
    given = GraphInput("x", TensorType((2, 3), F32), ArrayData(np.full((2, 3), 2.5, np.float32)))
    other = GraphInput("z", TensorType((1,), F32))
    y = apply(nn.Add(), apply(nn.Gemm(), given, weights(3, 4)), other)
    graph = run("observe", Graph((given, other), (y,), ("y",)), [{"z": np.zeros(1, np.float32)}]).graph
    assert (observers(graph)["x"].low, observers(graph)["x"].high) == (2.5, 2.5)


def test_integer_and_constant_data_are_not_observed(run) -> None:
    i = GraphInput("x", TensorType((2, 3), I64))
    product = apply(nn.MatMul(), weights(4, 2), apply(nn.Cast(F32), i, name="real"))
    graph = Graph((i,), (product,), ("y",))
    assert run("observe", graph).graph is graph


@pytest.mark.parametrize("bins", [0, 100, 255, 300])
def test_bins_are_a_power_of_two(bins: int, run) -> None:
    with pytest.raises(UsageError, match=f"bins={bins}"):
        run(f"observe{{bins={bins}}}", two_layers(), batches(1))


def test_observing_twice_is_refused(run) -> None:
    observed = run("observe", two_layers(), batches(1)).graph
    with pytest.raises(UsageError, match="without observers"):
        run("observe", observed, batches(1))


def test_what_the_target_cannot_quantize_is_not_observed(run) -> None:
    stack = GraphInput("x", TensorType((2, 4, 3), F32))
    graph = Graph((stack,), (apply(nn.MatMul(), stack, weights(2, 3, 5)),), ("y",))
    assert run("observe", graph).graph is graph


def test_moving_average_by_hand(run) -> None:
    samples = [{"x": np.float32([[low, 0, high]])} for low, high in ((-1, 1), (-2, 5), (-1, 1))]
    seen = observers(run("observe{moving-average rate=0.25}", two_layers(), samples).graph)["x"]
    assert seen.average == (-1.1875, 1.75)  # 1 → 2 → 1.75 and -1 → -1.25 → -1.1875
    assert (seen.low, seen.high) == (-2.0, 5.0)
    backwards = observers(run("observe{moving-average rate=0.25}", two_layers(), samples[1:]).graph)["x"]
    assert backwards.average == (-1.75, 4.0), "the first batch sets the range"
    assert observers(run("observe", two_layers(), samples).graph)["x"].average == ()


@pytest.mark.parametrize("option", ["rate=0", "rate=1.5", "percentile=50", "percentile=101"])
def test_averages_are_checked(option: str, run) -> None:
    with pytest.raises(UsageError, match=option.split("=")[0]):
        run(f"observe{{moving-average {option}}}", two_layers(), batches(1))

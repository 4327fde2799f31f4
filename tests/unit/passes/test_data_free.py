"""Calibration without data: what batch normalisations say, ranges, corrections and balance made of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import amctc
from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.kernels.tables import QUANT
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.types import F32, Array, TensorType
from amctc_passes.ranges.batch_norm_statistics import channel_statistics

RNG = np.random.default_rng(3)
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def numbers(*values: float) -> Value:
    return const(np.float32(values))


def norm(x: Value, gamma: tuple[float, ...], beta: tuple[float, ...], variance: float = 1.0) -> Value:
    zeros = numbers(*(0.0 for _ in beta))
    return apply(nn.BatchNorm(0.0), x, numbers(*gamma), numbers(*beta), zeros, numbers(*(variance for _ in beta)))


def feature(channels: int = 2) -> GraphInput:
    return GraphInput("x", TensorType(("n", channels, 4, 4), F32))


def weight(*rows: tuple[float, ...]) -> Value:
    return const(np.float32(rows)[:, :, None, None])


def run(text: str, *outputs: Value, inputs: tuple[GraphInput, ...]) -> PipelineResult:
    names = tuple(f"y{i}" for i in range(len(outputs)))
    return Pipeline.parse(text).run(Graph(inputs, outputs, names), Context())


def known(value: Value) -> tuple[list[float], list[float], float, float]:
    found = channel_statistics(value)
    assert found is not None
    return found.mean.tolist(), found.deviation.tolist(), found.low, found.high


def test_statistics_by_hand() -> None:
    x = feature()
    z = norm(x, (2.0, -3.0), (0.5, -1.0), variance=4.0)  # what is divided by does not matter behind it
    assert known(z) == ([0.5, -1.0], [2.0, 3.0], -math.inf, math.inf)
    relu = apply(nn.Relu(), z)
    assert known(relu)[2:] == (0.0, math.inf)
    assert known(apply(nn.Clip(0.0, 6.0), z))[2:] == (0.0, 6.0)
    assert known(apply(nn.GlobalAveragePool(), relu)) == known(relu)
    assert known(apply(nn.Flatten(), apply(nn.GlobalAveragePool(), relu))) == known(relu)
    for value in (x, apply(nn.Flatten(), relu), apply(POINTWISE, relu, weight((1, 1))), apply(nn.Mul(), relu, relu)):
        assert channel_statistics(value) is None


def test_sums_add_means_and_variances() -> None:
    x = feature()
    a, b = norm(x, (3.0, 1.0), (1.0, 2.0)), apply(nn.Relu(), norm(x, (4.0, 1.0), (0.0, -50.0)))
    mean, deviation, low, high = known(apply(nn.Add(), a, b))
    assert mean == pytest.approx([1 + 4 / math.sqrt(2 * math.pi), 2.0])
    assert deviation == pytest.approx([math.sqrt(9 + 16 * (0.5 - 1 / (2 * math.pi))), 1.0])
    assert (low, high) == (-math.inf, math.inf)
    assert channel_statistics(apply(nn.Add(), a, numbers(1.0))) is None


def test_what_is_observed() -> None:
    """The input of the graph is not, what a normalisation determines is."""
    x = feature()
    z = apply(nn.Clip(0.0, 6.0), norm(apply(POINTWISE, x, weight((1, 0), (0, 1))), (1.0, 0.5), (0.0, 1.0)))
    result = run("observe-batch-norm", apply(POINTWISE, z, weight((1, 1))), inputs=(x,))
    (seen,) = (op.kind for op in result.graph.ops if isinstance(op.kind, quant.Observe))
    assert (seen.low, seen.high) == (0.0, 6.0)
    assert 0.24 < seen.histogram.zeros / seen.count < 0.28  # (Φ(0) + Φ(-2)) / 2 = 0.261
    placed = run("observe-batch-norm,fold-batch-norm,fuse-activation,place-qdq,quantize-weights",
                 apply(POINTWISE, z, weight((1, 1))), inputs=(x,))  # fmt: skip
    assert sum(isinstance(op.kind, quant.Quantize) for op in placed.graph.ops) == 1
    assert [n.text for n in placed.notes] == ["left in float: its input was not observed"]


def test_a_model_without_normalisations() -> None:
    x = feature()
    y = apply(POINTWISE, apply(nn.Relu(), apply(POINTWISE, x, weight((1, 0), (0, 1)))), weight((1, 1)))
    assert not run("observe-batch-norm", y, inputs=(x,)).notes
    with pytest.raises(UsageError, match="no layer reads what a batch normalisation determines") as caught:
        run("observe-batch-norm{required}", y, inputs=(x,))
    assert "--data" in (caught.value.remedy or "")
    with pytest.raises(UsageError, match="bins=100 is no power of two"):
        run("observe-batch-norm{bins=100}", y, inputs=(x,))


def biased_rounding(gamma: float | None) -> tuple[Graph, Value]:
    """Weights 127 and 0.4 on data of means 1 and 10: 0.4 is rounded to 0, and 4 of the mean lost."""
    x = feature()
    z = norm(apply(POINTWISE, x, weight((1, 0), (0, 1))), (1e-3, 1e-3), (1.0, 10.0))
    y = apply(POINTWISE, z, weight((127.0, 0.4)), numbers(5.0))
    end = y if gamma is None else norm(y, (gamma,), (2.0,), variance=0.25)
    return Graph((x,), (end,), ("y",)), end


@pytest.mark.parametrize("gamma", [None, 0.5, -3.0])
def test_correction_by_hand(gamma: float | None) -> None:
    """4 more in the bias; behind a normalisation 4 · γ / √0.25 more in its shift."""
    graph, _ = biased_rounding(gamma)
    after = Pipeline.parse("observe-batch-norm,correct-bias").run(graph, Context()).graph
    end = after.outputs[0].producer
    assert end is not None
    bias = constant_data(end.operand(2))
    assert bias is not None
    expected = 5.0 + 4.0 if gamma is None else 2.0 + 4.0 * gamma / 0.5
    assert bias.read().tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("gamma", [None, 0.5, -3.0])
def test_correction_leaves_the_mean_of_the_rounded_layer(gamma: float | None) -> None:
    """Exactly so where the data are their means; without it the mean is off by 4."""
    graph, _ = biased_rounding(gamma)
    rounds = "repeat(fold-batch-norm,fold-affine),place-qdq{bits=16},quantize-weights"
    x = np.stack([np.full((4, 4), 0.0), np.full((4, 4), 0.0)])[None].astype(np.float32)
    exact = evaluate(graph, {"x": x}, WHOLE_FLOAT)["y"]
    found = []
    for correction in ("correct-bias,", ""):
        done = Pipeline.parse(f"observe-batch-norm,{correction}{rounds}").run(graph, Context()).graph
        found.append(np.abs(evaluate(done, {"x": x}, {**WHOLE_FLOAT, **QUANT})["y"] - exact).max())
    factor = 1.0 if gamma is None else abs(gamma) / 0.5
    assert found[0] < 0.05 * factor
    assert found[1] == pytest.approx(4.0 * factor, abs=0.05 * factor)


def test_only_observed_layers_are_corrected() -> None:
    graph, _ = biased_rounding(None)
    assert Pipeline.parse("correct-bias").run(graph, Context()).graph is graph
    observed = Pipeline.parse("observe-batch-norm").run(graph, Context()).graph
    assert Pipeline.parse('correct-bias{skip=["*"]}').run(observed, Context()).graph is observed
    assert Pipeline.parse("correct-bias").run(observed, Context()).graph is not observed
    with pytest.raises(UsageError, match="bits=5"):
        Pipeline.parse("correct-bias{bits=5}")


def test_taps_and_groups_share_the_mean_of_their_channel() -> None:
    """A depthwise layer with two taps: weights (1, 0.003) and (0.003, 1) lose 0.003 of means 2 and 3."""
    x = feature()
    z = norm(apply(POINTWISE, x, weight((1, 0), (0, 1))), (1e-3, 1e-3), (2.0, 3.0))
    taps = const(np.float32([[[[1, 0.003]]], [[[0.003, 1]]]]))
    y = apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 2), z, taps)
    after = run("observe-batch-norm,correct-bias", y, inputs=(x,)).graph
    assert after.outputs[0].producer is not None
    bias = constant_data(after.outputs[0].producer.operand(2))
    assert bias is not None
    lost = 0.003 - round(0.003 * 127) / 127
    assert bias.read().tolist() == pytest.approx([2 * lost, 3 * lost], rel=1e-3)


def test_layers_that_sum_something_else_stay() -> None:
    """A product over the last axis of [n, 2, 2]; a transposed convolution, whose windows are not full everywhere."""
    x = GraphInput("x", TensorType(("n", 2, 2), F32))
    z = norm(apply(nn.Conv((1,), (0, 0), (1,)), x, const(np.eye(2, dtype=np.float32)[:, :, None])), (1, 1), (2.0, 9.0))
    product = apply(nn.MatMul(), z, const(np.float32([[1, 0.003], [0.003, 1]])))
    observed = run("observe-batch-norm", product, inputs=(x,)).graph
    assert any(isinstance(op.kind, quant.Observe) for op in observed.ops)
    assert Pipeline.parse("correct-bias").run(observed, Context()).graph is observed
    spread = apply(nn.ConvTranspose((2,), (0, 0), (1,)), z, const(np.float32([[[1, 0.003]], [[0.003, 1]]])))
    observed = run("observe-batch-norm", spread, inputs=(x,)).graph
    assert Pipeline.parse("correct-bias").run(observed, Context()).graph is observed


def test_equalize_by_what_normalisations_say() -> None:
    """Widths 6·1 and 6·0.25 behind a relu: the narrow channel has room 4, of which strength 1/2 takes 2."""
    x = feature()
    z = apply(nn.Relu(), norm(apply(POINTWISE, x, weight((1, 0), (0, 1))), (1.0, 0.25), (0.0, 0.0)))
    y = apply(POINTWISE, z, weight((3.0, 5.0)))
    after = run("equalize{widths=batch-norm}", y, inputs=(x,)).graph
    (scale,) = (constant_data(op.operand(1)).read() for op in after.ops if isinstance(op.kind, nn.BatchNorm))
    (last,) = (constant_data(op.operand(1)).read() for op in after.ops[-1:] if isinstance(op.kind, nn.Conv))
    assert scale.tolist() == pytest.approx([1.0, 0.5], rel=1e-5)
    assert last.reshape(-1).tolist() == pytest.approx([3.0, 2.5], rel=1e-5)
    feeds = {"x": RNG.normal(size=(1, 2, 4, 4)).astype(np.float32)}
    before = evaluate(Graph((x,), (y,), ("y0",)), feeds, WHOLE_FLOAT)["y0"]
    assert np.allclose(
        before, evaluate(after, feeds, WHOLE_FLOAT)["y0"], rtol=0, atol=32 * 2.0**-24 * np.abs(before).max()
    )


def test_equalize_leaves_what_nothing_is_known_of() -> None:
    x = feature()
    y = apply(POINTWISE, apply(nn.Relu(), apply(POINTWISE, x, weight((1, 0), (0, 9)))), weight((1, 1)))
    graph = Graph((x,), (y,), ("y",))
    assert Pipeline.parse("equalize{widths=batch-norm}").run(graph, Context()).graph is graph


def small_network() -> Graph:
    """Two layers with normalisations, a residual sum, and a classifier; its statistics hold for normal data."""
    x = feature(3)
    first = RNG.normal(size=(4, 3, 1, 1)).astype(np.float32)
    deviation = np.sqrt((first**2).sum(axis=(1, 2, 3)))
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    beta = np.float32([0.5, 1.0, 0.0, -0.5])
    a = apply(nn.BatchNorm(0.0), apply(POINTWISE, x, const(first)), const(ones), const(beta), const(zeros),
              const((deviation**2).astype(np.float32)))  # fmt: skip
    b = apply(nn.Relu(), a)
    c = norm(apply(POINTWISE, b, const(RNG.normal(size=(4, 4, 1, 1)).astype(np.float32))), (1,) * 4, (0.2,) * 4, 4.0)
    pooled = apply(nn.Flatten(), apply(nn.GlobalAveragePool(), apply(nn.Relu(), apply(nn.Add(), b, c))))
    return Graph((x,), (apply(nn.Gemm(), pooled, const(RNG.normal(size=(4, 5)).astype(np.float32))),), ("y",))


def test_the_preset_without_samples(tmp_path: Path) -> None:
    """Every layer but the first is in int8; the integer model follows the float one."""
    model = tmp_path / "model.onnx"
    graph = small_network()
    amctc.save(graph, model)
    amctc.compress(model, preset="data-free", out=tmp_path / "out")
    feeds = {"x": RNG.normal(size=(16, 3, 4, 4)).astype(np.float32)}
    real, integer = (amctc.Session(p).run(feeds)["y"] for p in (model, tmp_path / "out" / "model_deploy.onnx"))
    noise = float(np.square(real - integer).sum() / np.square(real).sum())
    assert 0 < noise < 1e-2
    folded = tmp_path / "folded.onnx"
    amctc.save(Pipeline.parse("fold-batch-norm").run(graph, Context()).graph, folded)
    with pytest.raises(UsageError, match="normalisation"):
        amctc.compress(folded, preset="data-free", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_preset_with_samples_makes_the_same_model(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    amctc.save(small_network(), model)
    samples: list[dict[str, Array]] = [{"x": RNG.normal(size=(2, 3, 4, 4)).astype(np.float32)} for _ in range(2)]
    amctc.compress(model, preset="data-free", out=tmp_path / "a")
    amctc.compress(model, samples, preset="data-free", out=tmp_path / "b")
    a, b = ((tmp_path / folder / "model_deploy.onnx").read_bytes() for folder in "ab")
    assert a == b

"""reconstruct-blocks: rounding that enumeration finds, what is undone, what stays, and how it does without PyTorch."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from amctc.errors import UnsupportedError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.testing import check_pass
from amctc.text import print_graph
from amctc.types import F32, I4, I8, I32, Array, QuantizedType, TensorType
from amctc_passes.quantize.float_twins import FloatTwin, real_contents
from amctc_passes.reconstruct import reconstruct_blocks
from amctc_passes.reconstruct.rounding_starts import Learned, rounding_start, within_int32

RNG = np.random.default_rng(91)
DATA_STEP, STEP = 2.0**-4, 2.0**-3
REASON = "the extra 'reconstruct' is not installed"


def through_quantizer(x: Value) -> Value:
    return apply(quant.Dequantize(), apply(quant.Quantize(QuantizedType.per_tensor(DATA_STEP, 0)), x))


def integers(array: Array, storage: object, step: float, name: str) -> Value:
    elem = QuantizedType(storage, F32, (step,), (0,), None, *storage.integer_range)  # type: ignore[attr-defined]
    return apply(quant.Dequantize(), const(array, elem, name=f"{name}.quant"), name=name)


def rounded(x: Value, weight: Array, name: str, bias: Value | None = None, storage: object = I4) -> Value:
    """A product in integers whose bias is in integers too, so that it does not learn, unless another is given."""
    outputs = weight.shape[1]
    zero = integers(np.zeros(outputs, np.int32), I32, DATA_STEP * STEP, f"{name}.b")
    real = integers(weight.astype(np.int8), storage, STEP, f"{name}.w")
    origins = (Origin(name, "Gemm"),)
    return apply(nn.Gemm(), through_quantizer(x), real, zero if bias is None else bias, name=name, origins=origins)


def real(x: Value, weight: Array, name: str) -> Value:
    values = const((weight * STEP).astype(np.float32)), const(np.zeros(weight.shape[1], np.float32))
    return apply(nn.Gemm(), x, *values, name=name, origins=(Origin(name, "Gemm"),))


def graph(x: GraphInput, y: Value) -> Graph:
    return Graph((x,), (y,), ("y",))


def data(terms: int, rows: str | int = "N") -> GraphInput:
    return GraphInput("x", TensorType((rows, terms), F32))


def run(
    quantized: Graph, reference: Graph | None, batches: list[Array], options: str = "iterations=600"
) -> PipelineResult:
    context = Context(samples=[{"x": batch.astype(np.float32)} for batch in batches], reference=reference)
    return Pipeline.parse(f"reconstruct-blocks{{{options}}}").run(quantized, context)


def weights(result: PipelineResult) -> list[list[list[int]]]:
    """The integers of every layer, in topological order."""
    ops = [op for op in result.graph.ops if isinstance(op.kind, nn.Gemm)]
    return [constant_data(op.operands[1].producer.operands[0]).read().tolist() for op in ops]


def on_grid(rows: int, terms: int) -> Array:
    """Data that their quantizer represents exactly."""
    return RNG.integers(-90, 90, (rows, terms)) * DATA_STEP


# ------------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("place", [(0.4, 0.45), (-1.7, 2.45), (3.3, 0.7), (-0.6, -2.55)])
@pytest.mark.parametrize("rows", ["N", 8])
def test_two_weights_as_enumeration_rounds_them(place: tuple[float, float], rows: str | int) -> None:
    """Two inputs that move together: what one weight loses by rounding down the other must win by rounding up."""
    pytest.importorskip("torch", reason=REASON)
    x, weight = data(2, rows), np.float64([place]).T
    common = on_grid(32, 1)
    samples = np.concatenate([common, common + RNG.integers(-1, 2, (32, 1)) * DATA_STEP], axis=1)
    around = [(np.floor(p), np.floor(p) + 1) for p in place]
    error = {q: float(np.square(samples @ (np.float64([q]).T - weight)).mean()) for q in itertools.product(*around)}
    best = min(error, key=error.__getitem__)
    start = max(error, key=error.__getitem__)
    quantized = graph(x, rounded(x, np.float64([start]).T, "y"))
    result = run(quantized, graph(x, real(x, weight, "y")), np.split(samples, 4))
    assert weights(result) == [[[best[0]], [best[1]]]]


def test_a_block_whose_optimum_is_known() -> None:
    """Float weights a fiftieth of a step off the grid: on the grid the block has next to no error."""
    pytest.importorskip("torch", reason=REASON)
    x = data(3)
    first, second = (RNG.integers(-5, 6, (3, 3)) for _ in range(2))
    near = [w + RNG.choice([-0.02, 0.02], w.shape) for w in (first, second)]
    wrong = [
        np.where(RNG.random(w.shape) < 0.5, w, w + np.sign(n - w)) for w, n in zip((first, second), near, strict=True)
    ]

    def block(layer: object, ws: list[Array]) -> Graph:
        inner = apply(nn.Relu(), layer(x, ws[0], "a"))  # type: ignore[operator]
        return graph(x, apply(nn.Add(), layer(inner, ws[1], "b"), x))  # type: ignore[operator]

    result = run(block(rounded, wrong), block(real, near), [on_grid(16, 3) / 16.0 for _ in range(4)])
    assert weights(result) == [first.tolist(), second.tolist()]
    (note,) = result.notes
    assert (note.source, note.layer) == ("reconstruct-blocks", "b")
    assert note.text.startswith("block of 2 layers reconstructed: ")


def test_a_float_bias_takes_up_what_is_missing() -> None:
    pytest.importorskip("torch", reason=REASON)
    x, weight = data(2), np.int64([[3], [-2]])
    shifted = const(np.float32([0.25]), name="b")
    result = run(graph(x, rounded(x, weight, "y", shifted)), graph(x, real(x, weight, "y")), [on_grid(8, 2)] * 4)
    (layer,) = [op for op in result.graph.ops if isinstance(op.kind, nn.Gemm)]
    assert abs(float(constant_data(layer.operands[2]).read()[0])) < 0.05
    assert layer.operands[2].name == "b"
    assert weights(result) == [weight.tolist()]


def test_what_helps_no_sample_held_back_is_undone() -> None:
    """Rows that teach say one thing, every fourth the opposite."""
    pytest.importorskip("torch", reason=REASON)
    x, weight = data(2), np.float64([[0.4], [0.4]])
    common = on_grid(32, 1)
    samples = np.concatenate([common, common], axis=1)
    samples[3::4, 1] *= -1.0  # here 0, 0 is as right as 1, 1
    quantized = graph(x, rounded(x, np.zeros((2, 1)), "y"))
    result = run(quantized, graph(x, real(x, weight, "y")), [samples])
    assert result.graph is quantized
    assert [n.text for n in result.notes] == ["left as rounded: reconstruction helps no samples held back"]


def test_weights_of_zero_stay() -> None:
    """A sparse layer keeps its pattern."""
    pytest.importorskip("torch", reason=REASON)
    x, weight = data(4), np.float64([[0.0], [1.45], [0.0], [-1.55]])
    common = on_grid(32, 1)
    start = graph(x, rounded(x, np.float64([[0], [1], [0], [-1]]), "y"))
    result = run(start, graph(x, real(x, weight, "y")), [np.repeat(common, 4, axis=1)])
    ((a, _), (c, _)) = [(w[0], w) for w in weights(result)[0][::2]]
    assert (a, c) == (0, 0)


def test_the_same_bytes_from_run_to_run() -> None:
    torch = pytest.importorskip("torch", reason=REASON)
    x = data(6)
    weight = RNG.normal(0.0, 2.0, (6, 5))
    quantized = graph(x, rounded(x, np.rint(weight), "y", const(np.zeros(5, np.float32))))
    samples = [RNG.normal(0.0, 1.0, (16, 6)) for _ in range(4)]
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    texts = {
        print_graph(run(quantized, graph(x, real(x, weight, "y")), samples, "iterations=40").graph) for _ in range(2)
    }
    assert len(texts) == 1
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_ops_without_a_form_leave_their_block_as_it_is() -> None:
    pytest.importorskip("torch", reason=REASON)
    x = data(2)
    bias = const(np.zeros(2, np.float32))
    first = rounded(x, np.zeros((2, 2)), "a", bias)
    quantized = graph(x, apply(nn.Add(), rounded(apply(nn.Erf(), first), np.zeros((2, 2)), "b", bias), x))
    result = run(quantized, None, [on_grid(4, 2)], "iterations=1")
    assert result.graph is quantized
    assert [n.text for n in result.notes] == ["left as rounded: nn.erf has no form in PyTorch here"]


def test_the_contract_on_drawn_graphs() -> None:
    pytest.importorskip("torch", reason=REASON)
    check_pass("reconstruct-blocks{iterations=5 samples=8}", examples=8, minimum_changes=3, hash_seeds=False)


# ------------------------------------------------------------------------------------------------------ without PyTorch


def test_the_package_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, amctc_passes.reconstruct.reconstruct_blocks; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct_blocks, "find_spec", lambda name: None)
    x = data(2)
    y = rounded(x, np.zeros((2, 1)), "y", const(np.zeros(1, np.float32)))
    with pytest.raises(UnsupportedError) as caught:
        run(graph(x, y), None, [on_grid(4, 2)])
    assert str(caught.value) == (
        'pass reconstruct-blocks: PyTorch is not installed; pip install "amctc[reconstruct]"'
    )  # fmt: skip


def test_nothing_to_learn_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float layers; a weight on the grid of its twin with a bias in integers; a weight that two layers read."""
    monkeypatch.setattr(reconstruct_blocks, "find_spec", lambda name: None)
    x = data(2)
    first = rounded(x, np.int64([[1, 2], [0, -3]]), "y")
    shared = apply(nn.Gemm(), first, first.producer.operands[1])
    for y in (real(x, np.ones((2, 1)), "y"), first, apply(nn.Add(), first, shared)):
        quantized = graph(x, y)
        assert run(quantized, None, [on_grid(4, 2)]).graph is quantized


@pytest.mark.parametrize("option", ["iterations", "samples", "largest"])
def test_refused_options(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0 is below 1"):
        reconstruct_blocks.ReconstructBlocks(**{option: 0})


def layer_of(weight: Array, storage: object = I8, bias: Value | None = None) -> Op:
    op = rounded(data(weight.shape[0]), weight, "y", bias, storage).producer
    assert op is not None
    return op


def test_weights_start_next_to_their_float_weight_within_a_step() -> None:
    """A fifth of the way, in steps: from 1 to 1.25, from 2 to 3 of 9; 7.4 is beyond int4; 0 stays; NaN stays."""
    op = layer_of(np.int64([[1], [2], [7], [0], [3]]), I4)
    places = np.float32([[1.25], [9.0], [7.4], [0.0], [np.nan]]) * np.float32(STEP)
    start = rounding_start(op, FloatTwin(op.operands[0], real_contents(const(places)), None))
    assert start.low.tolist() == [[1], [2], [7], [0], [3]]
    np.testing.assert_allclose(start.fractions, [[0.05], [0.2], [0.0], [0.0], [0.0]], atol=1e-6)
    assert not start.learns_bias


def test_a_channel_that_would_overflow_keeps_what_it_has() -> None:
    """131072 weights of 127 and data of 128: 2^17 · 127 · 128 is 2^31 less 2^24, another 2^24 is too much."""
    weight = np.full((1 << 17, 2), 127, np.int8)
    weight[:, 1] = 1
    bias = np.zeros(2, np.float32)
    op = layer_of(weight, I8, const(bias))
    start = rounding_start(op, FloatTwin(op.operands[0], real_contents(op.operands[1]), None))
    steps = np.float32([1 << 24, 1 << 24]) * np.float32(DATA_STEP * STEP)
    fitting = within_int32(op, start, Learned(weight - 1, steps))
    assert fitting.integers[0].tolist() == [126, 0]
    over = within_int32(op, start, Learned(weight, steps))
    assert over.bias.tolist() == [0.0, steps[1]]

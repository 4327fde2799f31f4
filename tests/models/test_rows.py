"""Whole models whose products read rows quantized as they come (N6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import amctc
from amctc.calibrate.preprocess import Preprocess
from amctc.execution import EXECUTORS
from amctc.execution.check import check_executor
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.numerics.error import ErrorStatistics
from amctc.ops import ascend, nn
from amctc.targets import load_profile
from amctc.types import F32, Array, TensorType

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RNG = np.random.default_rng(8)
TOKENS, WIDTH = 12, 16


def dense(x: Value, name: str, outputs: int, activation: nn.Activation | None = None) -> Value:
    inputs = x.type.dims[-1]
    assert isinstance(inputs, int)
    weight = const((RNG.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32))
    return apply(nn.MatMul(activation), x, weight, name=f"{name}.out", origins=(Origin(name, "MatMul"),))


def block() -> Graph:
    """Attention and a perceptron, both with residual additions and no normalisation that would even tokens out."""
    x = GraphInput("x", TensorType(("N", TOKENS, WIDTH), F32))
    q, k, v = (dense(x, name, WIDTH) for name in ("q", "k", "v"))
    scores = apply(nn.MatMul(), q, apply(nn.Transpose((0, 2, 1)), k), origins=(Origin("scores", "MatMul"),))
    mixed = apply(nn.MatMul(), apply(nn.Softmax(-1), scores), v, origins=(Origin("mixed", "MatMul"),))
    y = apply(nn.Add(), x, dense(mixed, "o", WIDTH))
    return Graph((x,), (apply(nn.Add(), y, dense(dense(y, "up", 32, nn.Relu()), "down", WIDTH)),), ("y",))


def batches(count: int) -> list[dict[str, Array]]:
    """Tokens of very different sizes, down to 2^-7 of the largest."""
    rng = np.random.default_rng(9)
    sizes = np.exp2(-rng.integers(0, 8, (count, TOKENS, 1)))
    return [{"x": x[None]} for x in (rng.standard_normal((count, TOKENS, WIDTH)) * sizes).astype(np.float32)]


def decibels_of_small_tokens(graph: Graph, deploy: Graph) -> float:
    """What the layers add to tokens of less than a tenth of the largest, against float."""
    error = ErrorStatistics()
    real, integer = amctc.Session(graph), amctc.Session(deploy)
    for feeds in batches(24)[16:]:
        small = np.abs(feeds["x"]).max(axis=-1) < 0.1 * np.abs(feeds["x"]).max()
        wanted, found = (session.run(feeds)["y"][small] for session in (real, integer))
        error = error.updated_where_finite(wanted, found)
    return error.sqnr_db


def test_small_tokens_beside_large_ones_gain() -> None:
    """One step for all tokens is 10 times as coarse, or more, as those of tokens below a tenth: 20 dB. Weights are
    rounded in both; of what they leave, half of that is asked for.
    """
    graph, found = block(), {}
    for name, dynamic in (("one step", ()), ("a step per row", ("q", "k", "v", "o", "up", "down"))):
        options = {"place-qdq": {"dynamic": dynamic, "two_sided": False, "method": "min-max"}}
        result = amctc.compress(graph, batches(16), preset="fast", options=options)
        found[name] = decibels_of_small_tokens(graph, result.deploy_graph)
        edges = {layer.name: layer.edge for layer in result.report.layers}
        assert all((edges[name] == "dequant-rows") == bool(dynamic) for name in ("q", "k", "v", "o", "up", "down"))
    assert found["a step per row"] >= found["one step"] + 10.0


def test_rows_of_zeros_are_counted() -> None:
    """N6: one token of each sample, in the quantizer that q, k and v share."""
    samples = batches(3)
    for feeds in samples:
        feeds["x"][:, 4] = 0
    result = amctc.compress(block(), samples, preset="fast", options={"place-qdq": {"dynamic": ("q", "k", "v")}})
    (note,) = (note for note in result.report.notes if "N6" in note)
    assert note.startswith("q: 3 rows of zeros")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_executors_agree(executor: str) -> None:
    options = {"place-qdq": {"dynamic": ("*",)}}
    result = amctc.compress(block(), batches(4), preset="fast", options=options)
    session = amctc.Session(result.deploy_graph)
    agreement = check_executor(session.graph, load_profile("ascend910b1"), executor, batches(3))
    assert agreement.batches == 3
    assert sum(isinstance(op.kind, ascend.DequantRows) for op in session.graph.ops) == 6


@pytest.mark.skipif(not DATA.is_dir(), reason="the models are not here")
def test_vision_transformer(tmp_path: Path) -> None:
    """vit_fashion, every product with constants by rows: the integers come closer to float, the file says the same."""
    path = DATA / "models" / "vit_fashion.onnx"
    graph = amctc.load(path)
    preprocess = Preprocess(divisor=255.0, mean=(0.2860,), std=(0.3530,))
    samples = amctc.open_samples_for(graph, DATA / "data" / "fashion_test.npz", preprocess=preprocess)
    found = {}
    for dynamic in ((), ("*",)):
        result = amctc.compress(path, samples.limited(0, 16), preset="fast", compare_samples=2, out=tmp_path / "out",
                                options={"place-qdq": {"dynamic": dynamic}})  # fmt: skip
        scores = amctc.evaluate(amctc.Session(result.deploy_graph), samples.limited(64, 192), amctc.Session(graph))
        found[bool(dynamic)] = scores.sqnr_db
    assert found[True] > found[False]
    assert sum(layer.edge == "dequant-rows" for layer in result.report.layers) == 17
    for feeds in samples.limited(100, 102):
        memory, file = (amctc.Session(g).run(feeds) for g in (result.deploy_graph, result.files["deploy"]))
        np.testing.assert_array_equal(memory["logits"], file["logits"])

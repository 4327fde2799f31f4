"""mask-weights: which weights go, ties, scopes, shared weights, and zeros that stay zeros (P19)."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data
from amctc.ops import ascend, nn
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.preset import load_preset
from amctc.types import F16, F32, Array, TensorType
from amctc.verify import verify

RNG = np.random.default_rng(21)


def matrix(x: Value, w: Array | Value, name: str) -> Value:
    value = w if isinstance(w, Value) else const(w, name=f"{name}.w")
    return apply(nn.MatMul(), x, value, name=name, origins=(Origin(name, "MatMul"),))


def chain(*weights: Array | Value, elem: object = F32) -> Graph:
    """Matrix products ``a``, ``b``, … one after the other."""
    first = weights[0]
    rows = (first.type.dims if isinstance(first, Value) else first.shape)[0]
    x = GraphInput("x", TensorType(("N", rows), F32 if elem is F32 else F16))
    y: Value = x
    for name, w in zip("abcd", weights, strict=False):
        y = matrix(y, w, name)
    return Graph((x,), (y,), ("y",))


def run(text: str, graph: Graph, **context: object) -> PipelineResult:
    return Pipeline.parse(text).run(graph, Context(**context))  # type: ignore[arg-type]


def weights_of(graph: Graph) -> list[Array]:
    found = [constant_data(op.operands[1]) for op in graph.ops if isinstance(op.kind, nn.Layer)]
    return [d.read() for d in found if d is not None]


W = np.array([[1.0, -4.0], [0.5, 3.0]], np.float32)
V = np.array([[0.1, 0.2], [10.0, -0.3]], np.float32)


def test_each_layer_loses_its_smallest_weights() -> None:
    result = run("mask-weights", chain(W, V))
    assert [w.tolist() for w in weights_of(result.graph)] == [[[0, -4], [0, 3]], [[0, 0], [10, np.float32(-0.3)]]]
    verify(result.graph, deep=True)
    # sqrt(1 + 0.25) / sqrt(1 + 16 + 0.25 + 9) = 0.2182
    assert result.notes[0].text == "2 of 4 weights are zero (50.0%), relative error 0.2182"
    assert (result.notes[0].layer, result.notes[1].layer) == ("a", "b")


def test_all_layers_together_lose_the_smallest_weights() -> None:
    result = run("mask-weights{scope=global}", chain(W, V))
    assert [w.tolist() for w in weights_of(result.graph)] == [[[1, -4], [0, 3]], [[0, 0], [10, 0]]]
    assert result.notes[1].text.startswith("3 of 4 weights are zero (75.0%)")


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_of_equal_magnitudes_the_first_stay(scope: str) -> None:
    result = run(f"mask-weights{{scope={scope}}}", chain(np.array([[1, -1], [-1, 1]], np.float32)))
    assert weights_of(result.graph)[0].tolist() == [[1, -1], [0, 0]]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_second_run_changes_nothing(scope: str) -> None:
    text = f"mask-weights{{sparsity=0.6 scope={scope}}}"
    graph = chain(*(RNG.standard_normal((9, 9)).astype(np.float32) for _ in range(3)))
    once = run(text, graph).graph
    assert sum(int((w == 0).sum()) for w in weights_of(once)) in (3 * round(0.6 * 81), round(0.6 * 243))
    assert run(text, once).graph is once
    assert run("mask-weights{sparsity=0}", graph).graph is graph


def test_layers_by_name() -> None:
    graph = chain(W, V, W)
    result = run("mask-weights{layers=[a, b] skip=[b]}", graph)
    zeros = [int((w == 0).sum()) for w in weights_of(result.graph)]
    assert zeros == [2, 0, 0]
    with pytest.raises(UsageError, match="layers 'q' matches no layer"):
        run("mask-weights{layers=[q]}", graph)


def test_a_shared_weight_is_masked_once() -> None:
    w = const(W, name="shared")
    result = run("mask-weights", chain(w, w))
    first, second = (op.operands[1] for op in result.graph.ops if isinstance(op.kind, nn.MatMul))
    assert first is second
    assert first is not None
    assert first.name == "shared"


def test_a_weight_shared_with_a_skipped_layer_stays_there() -> None:
    w = const(W)
    result = run("mask-weights{skip=[b]}", chain(w, w))
    assert [int((a == 0).sum()) for a in weights_of(result.graph)] == [2, 0]


def test_half_precision_stays_half() -> None:
    result = run("mask-weights", chain(W.astype(np.float16), elem=F16))
    (w,) = weights_of(result.graph)
    assert (w.dtype, int((w == 0).sum())) == (np.float16, 2)


def test_what_cannot_be_masked_is_noted() -> None:
    x = GraphInput("x", TensorType(("N", 2), F32))
    nan = matrix(x, np.array([[np.nan, 1], [1, 1]], np.float32), "nan")
    w = GraphInput("w", TensorType((2, 2), F32))
    graph = Graph((x, w), (matrix(nan, w, "given"),), ("y",))
    result = run("mask-weights{scope=global}", graph)
    assert result.graph is graph
    assert [(n.layer, n.text) for n in result.notes] == [
        ("nan", "left dense: its weight holds NaN or infinite values"),
        ("given", "left dense: both sides are computed"),
    ]


@pytest.mark.parametrize("text", ["sparsity=1.0", "sparsity=-0.1", "scope=net"])
def test_options(text: str) -> None:
    with pytest.raises(UsageError):
        Pipeline.parse(f"mask-weights{{{text}}}")


def test_zeros_stay_zeros_to_the_integers_of_the_chip() -> None:
    """P19 over the default pipeline: conv with batch norm and relu, depthwise, gemm with alpha."""
    x = GraphInput("x", TensorType(("N", 4, 6, 6), F32))
    shapes = {"c": (8, 4, 3, 3), "d": (8, 1, 3, 3), "g": (288, 5)}
    w = {n: const(RNG.standard_normal(s).astype(np.float32), name=n) for n, s in shapes.items()}
    norms = [const(RNG.uniform(0.5, 2, 8).astype(np.float32)) for _ in range(4)]
    y: Value = apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), x, w["c"], origins=(Origin("c", "Conv"),))
    y = apply(nn.Relu(), apply(nn.BatchNorm(), y, *norms))
    y = apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 8), y, w["d"], origins=(Origin("d", "Conv"),))
    y = apply(nn.Gemm(alpha=0.5), apply(nn.Flatten(), y), w["g"], origins=(Origin("g", "Gemm"),))
    graph = Graph((x,), (y,), ("y",))
    samples = [{"x": RNG.standard_normal((4, 4, 6, 6)).astype(np.float32)}]
    masked = run("mask-weights{sparsity=0.7}", graph)
    lowered = run(str(load_preset("balanced")), masked.graph, samples=samples).graph
    integers = _layers(lowered, ascend.Conv | ascend.MatMul)
    assert [i.dtype for i in integers] == [np.int8] * 3
    for before, after in zip(weights_of(masked.graph), integers, strict=True):
        assert ((before == 0).mean()) >= 0.69
        assert (after[before == 0] == 0).all()
        assert (after != 0).any()


def _layers(graph: Graph, kinds: object) -> list[Array]:
    ops: list[Op] = [op for op in graph.ops if isinstance(op.kind, kinds)]  # type: ignore[arg-type]
    return [d.read() for op in ops if (d := constant_data(op.operands[1])) is not None]

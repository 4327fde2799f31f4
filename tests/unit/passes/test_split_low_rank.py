"""split-low-rank: exact where the rank is, cheaper always, correct for every window, named after the layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import amctc
from amctc.cycles import layer_macs
from amctc.errors import UsageError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const, constant_data, layer_name
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn
from amctc.parser import parse_graph
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.text import print_graph
from amctc.types import F32, Array, TensorType
from amctc.verify import verify

RNG = np.random.default_rng(23)
CONV = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1))


def drawn(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def low_rank(rank: int, outputs: int = 8, inputs: int = 6, kernel: tuple[int, int] = (3, 3)) -> Array:
    """A kernel whose spatial matrix (kh×1 first) has that rank."""
    first, last = drawn(rank, inputs, kernel[0]), drawn(outputs, rank, kernel[1])
    return np.einsum("riy,orx->oiyx", first, last).astype(np.float32)


def one(kind: nn.Layer, w: Array | Value, *shape: int, bias: Array | None = None, origins: int = 1) -> Graph:
    x = GraphInput("x", TensorType(("N", *shape), F32))
    weight = w if isinstance(w, Value) else const(w, name="w")
    operands = (x, weight) if bias is None else (x, weight, const(bias, name="b"))
    origin = (Origin("layer", type(kind).__name__),) * origins
    return Graph((x,), (apply(kind, *operands, name="y", origins=origin),), ("y",))


def split(options: str, graph: Graph) -> PipelineResult:
    result = Pipeline.parse(f"split-low-rank{{{options}}}").run(graph, Context())
    verify(result.graph, deep=True)
    return result


def layers(graph: Graph) -> list[Op]:
    return [op for op in graph.ops if isinstance(op.kind, nn.Layer)]


def shapes(graph: Graph) -> list[tuple[int, ...]]:
    return [d.shape for op in layers(graph) if (d := constant_data(op.operands[1])) is not None]


def difference(before: Graph, after: Graph) -> float:
    """Largest difference of the outputs, relative to the largest output, in float64."""
    dims = [3 if isinstance(d, str) else d for d in before.inputs[0].type.dims]
    feeds = {"x": RNG.standard_normal(dims).astype(np.float32)}
    a, b = (evaluate(g, feeds, WHOLE_FLOAT, float_type=np.float64)["y"] for g in (before, after))
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(a).max())


# ----------------------------------------------------------------------------------- exact where it is


def test_a_kernel_of_rank_one_splits_exactly() -> None:
    graph = one(CONV, low_rank(1), 6, 9, 9, bias=drawn(8))
    result = split("rank=1", graph)
    assert shapes(result.graph) == [(1, 6, 3, 1), (8, 1, 1, 3)]
    assert difference(graph, result.graph) < 1e-6
    # 9·9·8·6·9 = 34,992; the first 9·9·6·3 = 1,458, the last 9·9·8·3 = 1,944.
    assert result.notes[0].text == ("split into 3×1 and 1×3 of rank 1: relative error 0.0000, "
                                    "multiply-accumulates 34,992 → 3,402 (−90.3%)")  # fmt: skip
    assert sum(layer_macs(op) or 0 for op in layers(result.graph)) == 3402


WINDOWS = {
    "plain": CONV,
    "stride": replace(CONV, strides=(2, 2)),
    "stride of one axis": replace(CONV, strides=(1, 3)),
    "pads": replace(CONV, pads=(0, 1, 2, 0)),
    "dilation": replace(CONV, dilations=(2, 1)),
    "relu": replace(CONV, activation=nn.Relu()),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("method", ["spatial", "pointwise"])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 2)])
def test_full_rank_reproduces(window: str, method: str, kernel: tuple[int, int]) -> None:
    """Of kernels of low rank, so that the split saves work: rank 2 of the kernel, or of the input channels."""
    w = low_rank(2, 12, 8, kernel)
    if method == "pointwise":
        w = np.einsum("orhw,ri->oihw", drawn(12, 2, *kernel), drawn(2, 8)).astype(np.float32)
    graph = one(WINDOWS[window], w, 8, 11, 10, bias=drawn(12))
    result = split(f"method={method} rank={2 if method == 'pointwise' else 4}", graph)
    assert len(layers(result.graph)) == 2
    assert difference(graph, result.graph) < 1e-5
    first, last = (op.kind for op in layers(result.graph))
    assert isinstance(first, nn.Conv)
    assert isinstance(last, nn.Conv)
    assert (first.activation, last.activation) == (None, WINDOWS[window].activation)
    strides = tuple(a * b for a, b in zip(first.strides, last.strides, strict=True))
    assert strides == WINDOWS[window].strides
    assert tuple(map(max, first.pads, last.pads)) == WINDOWS[window].pads
    assert layers(result.graph)[0].operand(2) is None
    assert layers(result.graph)[1].operand(2) is graph.outputs[0].producer.operand(2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "kind",
    [
        nn.Gemm(),
        nn.Gemm(0.5, 2.0),
        nn.Gemm(trans_b=True),
        nn.Gemm(0.5, trans_b=True, activation=nn.Relu()),
        nn.MatMul(),
    ],
    ids=["gemm", "factors", "trans_b", "all", "matmul"],
)
def test_products(kind: nn.Gemm | nn.MatMul) -> None:
    w = (drawn(10, 3) @ drawn(3, 12)).astype(np.float32)
    transposed = isinstance(kind, nn.Gemm) and kind.trans_b
    graph = one(kind, w.T if transposed else w, 10, bias=drawn(12))
    result = split("rank=3", graph)
    assert shapes(result.graph) == ([(3, 10), (12, 3)] if transposed else [(10, 3), (3, 12)])
    assert difference(graph, result.graph) < 1e-5
    # 10·12 = 120 and 3·(10 + 12) = 66 for each row.
    assert "two products of rank 3" in result.notes[0].text
    assert "120 → 66 (−45.0%)" in result.notes[0].text


def test_a_transposed_first_operand() -> None:
    x = GraphInput("x", TensorType((10, 4), F32))
    w = (drawn(10, 2) @ drawn(2, 12)).astype(np.float32)
    graph = Graph((x,), (apply(nn.Gemm(trans_a=True), x, const(w)),), ("y",))
    result = split("rank=2", graph)
    assert [op.kind.trans_a for op in layers(result.graph) if isinstance(op.kind, nn.Gemm)] == [True, False]
    assert difference(graph, result.graph) < 1e-5


def test_one_and_three_axes_split_by_channels() -> None:
    for axes in (1, 3):
        kind = nn.Conv((2,) * axes, (1,) * 2 * axes, (1,) * axes)
        kernel = (3, 2, 3)[:axes]
        w = np.einsum("ork,ri->oik", drawn(9, 2, int(np.prod(kernel))), drawn(2, 8)).reshape(9, 8, *kernel)
        graph = one(kind, w.astype(np.float32), 8, *(6, 5, 4)[:axes])
        result = split("rank=2 method=auto", graph)
        assert shapes(result.graph) == [(2, 8, *(1,) * axes), (9, 2, *kernel)]
        assert difference(graph, result.graph) < 1e-5


def test_the_stride_of_a_point_kernel_goes_first() -> None:
    w = np.einsum("or,ri->oi", drawn(12, 2), drawn(2, 10)).reshape(12, 10, 1, 1).astype(np.float32)
    kind = nn.Conv((2, 2), (1, 0, 0, 1), (1, 1))
    graph = one(kind, w, 10, 7, 7, bias=drawn(12))
    result = split("rank=2 method=auto", graph)
    first, last = (op.kind for op in layers(result.graph))
    assert first == kind
    assert last == nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    assert difference(graph, result.graph) < 1e-5


# ------------------------------------------------------------------------------------- rank and method


def test_the_error_does_not_rise_with_the_rank() -> None:
    graph = one(CONV, drawn(16, 16, 3, 3), 16, 8, 8)
    errors = [difference(graph, split(f"rank={r}", graph).graph) for r in (1, 4, 8, 16, 23)]
    noted = [float(split(f"rank={r}", graph).notes[0].text.split("relative error ")[1][:6]) for r in (1, 4, 8, 16, 23)]
    assert noted == sorted(noted, reverse=True)
    assert errors[0] > 2 * errors[-1]


def test_rank_by_ratio() -> None:
    # 16·16·9 = 2304 and 16·3 + 16·3 = 96 for each rank: half is rank 12, 0.7 is 16.8.
    graph = one(CONV, drawn(16, 16, 3, 3), 16, 8, 8)
    for options, rank in (("multiple=1", 12), ("multiple=8", 8), ("ratio=0.7", 16), ("ratio=0.7 multiple=1", 16)):
        result = split(options, graph)
        assert shapes(result.graph)[0][0] == rank
        assert sum(layer_macs(op) or 0 for op in layers(result.graph)) == 64 * 96 * rank
    assert split("", graph).graph is graph
    assert split("", graph).notes[0].text == "left whole: no rank that is a multiple of 16 costs so little"


def test_rank_by_energy() -> None:
    """Singular values 3, 2 and 1: shares of the energy 9/14, 13/14 and 1."""
    u, v = (np.linalg.qr(drawn(n, 3).astype(np.float64))[0] for n in (20, 30))
    w = (u * [3, 2, 1] @ v.T).astype(np.float32)
    for energy, rank in ((0.6, 1), (0.7, 2), (0.92, 2), (0.95, 3)):
        assert shapes(split(f"energy={energy} multiple=1", one(nn.MatMul(), w, 20)).graph)[0] == (20, rank)
    assert shapes(split("energy=0.6 multiple=4", one(nn.MatMul(), w, 20)).graph)[0] == (20, 4)
    noted = split("energy=0.7 multiple=1", one(nn.MatMul(), w, 20)).notes[0].text
    assert "relative error 0.2673" in noted  # sqrt(1/14)


def test_auto_takes_the_way_of_least_error() -> None:
    pointwise = np.einsum("orhw,ri->oihw", drawn(8, 2, 3, 3), drawn(2, 8)).astype(np.float32)
    horizontal = low_rank(2).swapaxes(2, 3)
    for w, form in ((pointwise, "1×1 and 3×3"), (low_rank(2), "3×1 and 1×3"), (horizontal, "1×3 and 3×1")):
        graph = one(CONV, w, w.shape[1], 8, 8)
        result = split("rank=2 method=auto", graph)
        assert result.notes[0].text.startswith(f"split into {form} of rank 2")
        assert difference(graph, result.graph) < 1e-5


def test_the_existing_tools_choice() -> None:
    """64 channels: the singular values of noise give rank 0, so it is the least, 192/7 = 27, rounded to 32."""
    result = split("evbmf", one(CONV, drawn(64, 64, 3, 3), 64, 4, 4))
    assert shapes(result.graph) == [(32, 64, 3, 1), (64, 32, 1, 3)]
    for graph, reason in (
        (one(CONV, drawn(32, 32, 3, 3), 32, 4, 4), "no convolution of this form"),
        (one(replace(CONV, dilations=(2, 2)), drawn(64, 64, 3, 3), 64, 8, 8), "no convolution of this form"),
        (one(nn.MatMul(), drawn(64, 64), 64), "2-d convolutions only"),
    ):
        assert reason in split("evbmf", graph).notes[0].text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rank=2 energy=0.9", "rank and energy each decide the rank"), ("rank=0", "not at least 1"),
        ("ratio=0.5 evbmf", "ratio and evbmf each decide"), ("ratio=1.0", "not between 0 and 1"),
        ("energy=0.0", "not above 0"), ("multiple=0", "not at least 1"),
        ("evbmf method=pointwise", "not method=pointwise"),
    ],
)  # fmt: skip
def test_options(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(f"split-low-rank{{{options}}}")


# --------------------------------------------------------------------------------------- left as it is


X = GraphInput("x", TensorType(("N", 4, 6, 6), F32))
LEFT = {
    "a grouped convolution": one(replace(CONV, group=4), drawn(8, 1, 3, 3), 4, 6, 6),
    "a transposed convolution": one(nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1)), drawn(4, 4, 2, 2), 4, 6, 6),
    "the constant side is no matrix": one(nn.MatMul(), drawn(2, 5, 4), 3, 5),
    "a kernel needs two extents above 1 for a spatial split": one(
        nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), drawn(4, 4, 1, 1), 4, 6, 6
    ),
    "rank 12 would take 200% of its multiply-accumulates": one(CONV, drawn(4, 4, 3, 3), 4, 6, 6),
    "the weight holds 1 values that are NaN or infinite": one(
        nn.MatMul(), np.where(np.eye(4) * [1, 0, 0, 0], np.nan, 1).astype(np.float32), 4
    ),
}


@pytest.mark.parametrize("reason", LEFT)
def test_left_whole(reason: str) -> None:
    result = split("rank=99", LEFT[reason])
    assert result.graph is LEFT[reason]
    assert [(n.layer, n.text) for n in result.notes] == [("layer", f"left whole: {reason}")]


def test_a_computed_weight_is_left() -> None:
    w = GraphInput("w", TensorType((4, 4), F32))
    x = GraphInput("x", TensorType(("N", 4), F32))
    graph = Graph((x, w), (apply(nn.MatMul(), x, w),), ("y",))
    assert split("rank=1", graph).notes[0].text == "left whole: both sides are computed"


def test_only_before_observers_and_quantizers() -> None:
    with pytest.raises(UsageError, match="not without observers"):
        Pipeline.parse("observe,split-low-rank").run(
            one(CONV, low_rank(1), 6, 9, 9), Context(samples=[{"x": drawn(2, 6, 9, 9)}])
        )


# ----------------------------------------------------------------------- names, sharing, unknown sizes


def test_names_of_the_pieces() -> None:
    result = split("rank=1", one(CONV, low_rank(1), 6, 9, 9, bias=drawn(8)))
    first, last = layers(result.graph)
    assert [layer_name(op) for op in (first, last)] == ["layer/0", "layer/1"]
    assert [op.result.name for op in (first, last)] == ["y/0", "y"]
    assert [op.operands[1].name for op in (first, last) if op.operands[1]] == ["w/0", "w/1"]
    unnamed = split("rank=1", one(CONV, low_rank(1), 6, 9, 9, origins=0))
    assert [layer_name(op) for op in layers(unnamed.graph)] == ["nn.conv/0", "nn.conv/1"]


def test_what_was_fused_stays_with_the_last_piece() -> None:
    x = GraphInput("x", TensorType(("N", 6, 9, 9), F32))
    origins = (Origin("norm", "BatchNormalization"), Origin("layer", "Conv"), Origin("act", "Relu"))
    graph = Graph((x,), (apply(CONV, x, const(low_rank(1)), origins=origins),), ("y",))
    first, last = layers(split("rank=1", graph).graph)
    assert first.origins == (Origin("layer/0", "Conv"),)
    assert last.origins == (origins[0], Origin("layer/1", "Conv"), origins[2])


def test_names_that_are_taken() -> None:
    x = GraphInput("x", TensorType(("N", 10), F32))
    w = (drawn(10, 1) @ drawn(1, 10)).astype(np.float32)
    y = apply(nn.MatMul(), x, const(w), origins=(Origin("a", "MatMul"),))
    y = apply(nn.MatMul(), y, const(w), origins=(Origin("a/0", "MatMul"),))
    result = split("rank=1 layers=[a]", Graph((x,), (y,), ("y",)))
    assert [layer_name(op) for op in layers(result.graph)] == ["a/0_1", "a/1", "a/0"]


def test_layers_by_name() -> None:
    x = GraphInput("x", TensorType(("N", 10), F32))
    y: Value = x
    for name in ("a", "b", "c"):
        y = apply(nn.MatMul(), y, const(drawn(10, 10)), origins=(Origin(name, "MatMul"),))
    result = split("rank=2 layers=[a, b] skip=[b]", Graph((x,), (y,), ("y",)))
    assert [layer_name(op) for op in layers(result.graph)] == ["a/0", "a/1", "b", "c"]
    assert {n.layer for n in result.notes} == {"a"}


def test_layers_that_share_a_weight_share_its_factors() -> None:
    x, w = GraphInput("x", TensorType(("N", 10), F32)), const((drawn(10, 2) @ drawn(2, 10)).astype(np.float32))
    y = apply(nn.MatMul(), apply(nn.MatMul(), x, w), w)
    a, b, c, d = layers(split("rank=2", Graph((x,), (y,), ("y",))).graph)
    assert a.operands[1] is c.operands[1]
    assert b.operands[1] is d.operands[1]


def test_unknown_sizes_count_by_stride() -> None:
    graph = one(replace(CONV, strides=(2, 2)), low_rank(1), 6, "H", "W")  # type: ignore[arg-type]
    # 432 for each position; kh×1 first: 6·3·2 + 8·3 = 60.
    assert split("rank=1", graph).notes[0].text.endswith("multiply-accumulates (−86.1%)")


# ------------------------------------------------------------------------------------------ as a whole


def test_text_and_repetition() -> None:
    graph = one(CONV, drawn(16, 16, 3, 3), 16, 8, 8)
    text = print_graph(split("rank=8", graph).graph)
    assert print_graph(split("rank=8", graph).graph) == text
    assert print_graph(parse_graph(text)) == text


def test_exported_it_runs_in_onnx_runtime(tmp_path: Path) -> None:
    x = GraphInput("x", TensorType(("N", 8, 10, 9), F32))
    conv, w, b = replace(CONV, strides=(2, 1), activation=nn.Relu()), const(drawn(12, 8, 3, 3)), const(drawn(12))
    y: Value = apply(conv, x, w, b, origins=(Origin("c", "Conv"),))
    y = apply(nn.Gemm(trans_b=True), apply(nn.Flatten(), y), const(drawn(20, 540)), const(drawn(20)))
    graph = Graph((x,), (y,), ("y",))
    after = split("rank=4", graph).graph
    assert len(layers(after)) == 4
    amctc.save(after, tmp_path / "split.onnx")
    onnx.checker.check_model(str(tmp_path / "split.onnx"), full_check=True)
    feeds = {"x": drawn(2, 8, 10, 9)}
    (theirs,) = onnxruntime.InferenceSession(str(tmp_path / "split.onnx")).run(None, feeds)
    ours = evaluate(after, feeds, WHOLE_FLOAT)["y"]
    assert np.abs(theirs - ours).max() < 1e-5 * np.abs(ours).max()
    names = [layer_name(op) for op in layers(amctc.load(tmp_path / "split.onnx"))]
    assert names[:2] == ["c/0", "c/1"]

"""mask-n-of-m: two of four input channels (N22), where the target has them, kept by every later pass (P19)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from amctc.errors import UnsupportedError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.numerics.sparsity import encode_two_of_four
from amctc.ops import ascend, nn
from amctc.pipeline import Context, Pipeline, PipelineResult
from amctc.preset import load_preset
from amctc.session import COMPILE_FUSED
from amctc.targets import load_profile
from amctc.types import F32, Array, TensorType
from amctc_passes.facts import TWO_OF_FOUR

RNG = np.random.default_rng(22)


def run(text: str, graph: Graph, target: str = "ascend910b1") -> PipelineResult:
    samples = [{i.name: RNG.standard_normal((4, *i.type.dims[1:])).astype(np.float32)} for i in graph.inputs]
    return Pipeline.parse(text).run(graph, Context(samples=samples, target=load_profile(target), trace=True))


def one(kind: nn.Layer, w: Array, *shape: int) -> Graph:
    x = GraphInput("x", TensorType(("N", *shape), F32))
    origin = Origin("layer", type(kind).__name__)
    return Graph((x,), (apply(kind, x, const(w, name="w"), origins=(origin,)),), ("y",))


def weight(graph: Graph) -> Array:
    (data,) = (d for op in graph.ops if isinstance(op.kind, nn.Layer) and (d := constant_data(op.operands[1])))
    return data.read()


ROW = np.array([1, -3, 2, 0.5, 5, 6, 7], np.float32)  # groups of four: [1, -3, 2, .5] and the short [5, 6, 7]
KEPT = [0, -3, 2, 0, 0, 6, 7]
POINT = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def test_input_channels_of_every_kind() -> None:
    conv = run("mask-n-of-m", one(POINT, ROW.reshape(1, 7, 1, 1), 7, 1, 1))
    assert weight(conv.graph).reshape(-1).tolist() == KEPT
    assert conv.notes[0].text.startswith("3 of 7 weights are zero (42.9%)")
    cases: list[tuple[nn.Layer, Array]] = [
        (nn.Gemm(), ROW[:, None]), (nn.Gemm(trans_b=True), ROW[None]), (nn.MatMul(), ROW[:, None]),
    ]  # fmt: skip
    for kind, w in cases:
        assert weight(run("mask-n-of-m", one(kind, w, 7)).graph).reshape(-1).tolist() == KEPT
    transposed = nn.ConvTranspose((1, 1), (0, 0, 0, 0), (1, 1))
    masked = weight(run("mask-n-of-m", one(transposed, ROW.reshape(7, 1, 1, 1), 7, 1, 1)).graph)
    assert masked.reshape(-1).tolist() == KEPT


def test_fewer_of_four() -> None:
    graph = one(POINT, ROW.reshape(1, 7, 1, 1), 7, 1, 1)
    assert weight(run("mask-n-of-m{n=1}", graph).graph).reshape(-1).tolist() == [0, -3, 0, 0, 0, 0, 7]
    assert weight(run("mask-n-of-m{n=1 m=2}", graph).graph).reshape(-1).tolist() == [0, -3, 2, 0, 0, 6, 7]


def test_of_equal_magnitudes_the_first_stay_and_a_second_run_changes_nothing() -> None:
    once = run("mask-n-of-m", one(POINT, np.ones((2, 4, 1, 1), np.float32), 4, 1, 1)).graph
    assert weight(once).reshape(2, 4).tolist() == [[1, 1, 0, 0]] * 2
    assert run("mask-n-of-m", once).graph is once


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (one(replace(POINT, group=4), np.ones((4, 1, 1, 1), np.float32), 4, 1, 1), "a grouped convolution"),
        (one(POINT, np.ones((3, 2, 1, 1), np.float32), 2, 1, 1), "only 2 input channels"),
        (one(nn.MatMul(), np.ones((2, 4, 3), np.float32), 5, 4), "the constant side is no matrix"),
    ],
    ids=["grouped", "two channels", "stack"],
)  # fmt: skip
def test_left_dense(graph: Graph, reason: str) -> None:
    result = run("mask-n-of-m", graph)
    assert result.graph is graph
    assert result.notes[0].text == f"left dense: {reason}"


def test_only_where_the_target_has_it() -> None:
    graph = one(POINT, ROW.reshape(1, 7, 1, 1), 7, 1, 1)
    for target in ("ascend310p3", "ascend950"):
        with pytest.raises(UnsupportedError) as caught:
            run("mask-n-of-m", graph, target)
        assert str(caught.value) == (
            f"pass mask-n-of-m: {target} has no products with 4:2 sparse weights [N22]; "
            "mask-weights needs none; ascend310b1 and ascend910b1 have them"
        )
    assert weight(run("mask-n-of-m", graph, "ascend310b1").graph).reshape(-1).tolist() == KEPT
    with pytest.raises(UnsupportedError) as caught:
        run("mask-n-of-m{n=4 m=8}", graph)
    assert str(caught.value) == (
        "pass mask-n-of-m: ascend910b1 has no products with 4 of 8 weights [N22]; its cube takes 2 of 4"
    )
    with pytest.raises(UsageError, match="n=4 is not at least 1 and below m=4"):
        Pipeline.parse("mask-n-of-m{n=4}")


def network() -> Graph:
    x = GraphInput("x", TensorType(("N", 8, 6, 6), F32))
    norms = [const(RNG.uniform(0.5, 2, 12).astype(np.float32)) for _ in range(4)]
    w, v = (RNG.standard_normal(s).astype(np.float32) for s in ((12, 8, 3, 3), (432, 5)))
    y: Value = apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), x, const(w, name="c.w"), origins=(Origin("c", "Conv"),))
    y = apply(nn.Flatten(), apply(nn.Relu(), apply(nn.BatchNorm(), y, *norms)))
    y = apply(nn.Gemm(alpha=0.5), y, const(v, name="g.w"), origins=(Origin("g", "Gemm"),))
    return Graph((x,), (y,), ("y",))


def test_two_of_four_holds_after_every_pass() -> None:
    assert "c has more than two of four" in (TWO_OF_FOUR.violation(network()) or "")
    result = run(f"mask-n-of-m,{load_preset('balanced')},{COMPILE_FUSED}", network())
    assert len(result.trace) > 12
    for name, graph in result.trace:
        assert TWO_OF_FOUR.violation(graph) is None, name


def test_the_integers_have_the_form_of_the_wire() -> None:
    lowered = run(f"mask-n-of-m,{load_preset('balanced')}", network()).graph
    layers = [op for op in lowered.ops if isinstance(op.kind, ascend.Conv | ascend.MatMul)]
    assert len(layers) == 2
    for op in layers:
        data = constant_data(op.operands[1])
        assert data is not None
        axis = 1 if isinstance(op.kind, ascend.Conv) else 0
        assert encode_two_of_four(data.read(), axis=axis).values.shape[axis] == data.shape[axis] // 2


def test_masked_before_and_after_batch_norm_is_folded() -> None:
    """The scale of a channel does not change which of its weights are largest."""
    graph = network()
    before, after = (run(t, graph).graph for t in ("mask-n-of-m,fold-batch-norm", "fold-batch-norm,mask-n-of-m"))
    convs = [next(op for op in g.ops if isinstance(op.kind, nn.Conv)) for g in (before, after)]
    first, second = (constant_data(op.operands[1]) for op in convs)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.read(), second.read())
    assert int((first.read() == 0).sum()) == first.size // 2

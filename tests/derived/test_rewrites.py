"""Every installed rewrite keeps its promise, on graphs drawn from its own pattern.

The list comes from the entry-point group ``amctc.rewrites``: a new rewrite is tested once it is installed. Rewrites of
the target's integer ops are run on drawn accumulators, with the kernels of the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.contract import Exact, Lossy, Rounding
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels.ascend_table import ascend_table
from amctc.ops import ascend, nn
from amctc.pattern import Either, OpPattern, Pattern
from amctc.rewrite import Rewrite, RewriteLog, apply_rewrites
from amctc.schema import OpKind
from amctc.targets import load_profile
from amctc.testing import SeededSource, check_rewrite, draw_instance
from amctc.testing.algebra import is_algebraic
from amctc.testing.checks import default_examples
from amctc.testing.cuts import ops_of
from amctc.testing.instances import OUTPUT
from amctc.types import F16, F32, I8, I32, Array, ScalarType, TensorType
from amctc_patterns import layer_norm, requant

REWRITES: dict[str, Rewrite] = {e.name: e.load() for e in metadata.entry_points(group="amctc.rewrites")}


def kinds(pattern: Pattern[Any]) -> Iterator[type[OpKind]]:
    """The op kinds that a pattern names."""
    if isinstance(pattern, OpPattern):
        yield from pattern.kinds
    parts = pattern.operands if isinstance(pattern, OpPattern) else getattr(pattern, "choices", ())
    for part in parts or ():
        yield from kinds(part)


INTEGER = {n for n, r in REWRITES.items() if any(k.op_name.startswith("ascend.") for k in kinds(r.pattern))}
FLOAT = sorted(set(REWRITES) - INTEGER)


def test_rewrites_are_found() -> None:
    assert {"fold_batch_norm", "fold_affine_after", "fuse_activation", "fold_gemm_factors"} <= set(FLOAT)
    assert {"average_in_float", "fuse_requant", "fuse_dequant_relu", "quantize_before_pool"} == INTEGER


def test_kinds_looks_into_choices() -> None:
    assert isinstance(requant.quant.operands, tuple)
    assert isinstance(requant.quant.operands[0], Either)
    assert set(kinds(requant.quant)) == {ascend.Quant, ascend.Dequant, nn.Relu, nn.LeakyRelu, nn.Clip}


@pytest.mark.parametrize("name", sorted(REWRITES))
def test_rewrite_is_documented_and_bounded(name: str) -> None:
    rule = REWRITES[name]
    assert rule.name == name
    assert rule.doc.endswith((".", ")")), "the first line of the docstring says what is replaced by what"
    assert isinstance(rule.effect, Exact | Rounding | Lossy)


RARE = {"relax_clip", "relax_fused_clip"}
"""Rules that few draws suit (a step small enough for the clip): they get 100 graphs in a round, and four rounds."""


@pytest.mark.parametrize("name", FLOAT)
def test_rewrite(name: str) -> None:
    report = check_rewrite(REWRITES[name], examples=max(default_examples(), 100 if name in RARE else 1))
    assert report.compared >= 50
    if is_algebraic(REWRITES[name]):
        assert report.proved >= 40, report.notes


NESTED = [n for n in sorted(REWRITES) if len(list(kinds(REWRITES[n].pattern))) > len(REWRITES[n].pattern.kinds)]
SHARED = (layer_norm.mean, layer_norm.centred, layer_norm.factor)
"""Parts that a pattern itself reads more than once: ``uses=`` cannot say that nobody else does."""


@pytest.mark.parametrize("name", NESTED)
def test_what_others_read_is_not_computed_again(name: str) -> None:
    """Each op inside an instance is a graph output in some draws; the rule must leave it, and all of the instance."""
    rule, exposed = REWRITES[name], 0
    draws = min(12 * len(list(kinds(rule.pattern))), 120)
    for seed in range(draws):
        instance = draw_instance(SeededSource(seed), rule.pattern, perturbations=(OUTPUT,))
        exposed += instance.perturbation == OUTPUT
        log = RewriteLog()
        live = set(apply_rewrites(instance.graph, [rule], log).ops)
        for application in log.applications:
            match = application.match
            allowed = ops_of(*(match.value(p) for p in SHARED if p in match))
            assert live.isdisjoint(set(match.ops) - set(allowed)), instance
    assert exposed == draws


def test_folds_are_algebraic() -> None:
    layers = {"fold_batch_norm", "fold_batch_norm_before", "fold_affine_after", "fold_affine_before"}
    products = {"fold_subtraction_after", "fold_gemm_factors", "split_gemm_bias"}
    assert {n for n, r in REWRITES.items() if is_algebraic(r)} == layers | products


FOLDS = ["fold_batch_norm", "fold_affine_after", "fold_affine_before", "fold_gemm_factors", "fuse_activation"]


@pytest.mark.parametrize("name", FOLDS)
def test_rewrite_in_half_precision(name: str) -> None:
    assert check_rewrite(REWRITES[name], elems=(F16,), minimum_firings=20).compared >= 20


# ------------------------------------------------------------------------------------------------- integer domain


TARGETS = ("ascend910b1", "ascend310p3")


def run(graph: Graph, target: str, **feeds: Array) -> Array:
    return evaluate(graph, feeds, ascend_table(load_profile(target)))["y"]


def both(graph: Graph, *rules: Rewrite, target: str, **feeds: Array) -> tuple[Array, Array]:
    """What the graph computes before and after the rules, each of which must have fired."""
    log = RewriteLog()
    after = apply_rewrites(graph, rules, log)
    assert set(log.counts()) == {r.name for r in rules}, log.declined
    assert after.inputs == graph.inputs
    return run(graph, target, **feeds), run(after, target, **feeds)


def one(value: Value, *inputs: GraphInput) -> Graph:
    return Graph(inputs, (value,), ("y",))


@st.composite
def accumulators(draw: st.DrawFn) -> Array:
    """int32 [N, C, H, W]: mostly of the size layers give, sometimes of every size."""
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)))
    reach = draw(st.sampled_from((200, 20_000, 2_000_000)))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    return rng.integers(-reach, reach, shape, endpoint=True, dtype=np.int32)


def scales_for(acc: Array, seed: int, top: float) -> Array:
    """float32 [C] scales that bring the largest accumulator of each channel to about ``top``."""
    rng = np.random.default_rng(seed)
    largest = np.maximum(np.abs(acc).max(axis=(0, 2, 3)), 1)
    return (top / largest * rng.uniform(0.3, 1.5, largest.shape)).astype(np.float32)


def dequantized(acc: Array, scale: Array, to: ScalarType = F32) -> tuple[GraphInput, Value]:
    x = GraphInput("acc", TensorType(acc.shape, I32))
    return x, apply(ascend.Dequant(1, to), x, const(scale))


def step_of(top: float, offset: int) -> float:
    """AscendQuant's scale for a quantizer that reaches ``top`` above, as float32."""
    return float(np.float32((127 - offset) / top))


ACTIVATIONS = (None, nn.Relu(), nn.LeakyRelu(0.1), nn.LeakyRelu(0.0), nn.LeakyRelu(1.0), nn.Clip(0.0, 6.0))


@given(
    accumulators(), st.integers(0, 9999), st.sampled_from(ACTIVATIONS), st.integers(-128, 100),
    st.sampled_from((0.05, 5.9, 400.0)), st.sampled_from((F16, F32)), st.sampled_from(TARGETS),
)  # fmt: skip
def test_fused_requant_stays_within_its_bound(
    acc: Array, seed: int, activation: nn.Activation | None, offset: int, top: float, to: ScalarType, target: str
) -> None:
    if isinstance(activation, nn.Clip):
        top = min(top, 5.9)  # else relu6 does not fuse (N19)
    x, y = dequantized(acc, scales_for(acc, seed, top), to)
    y = y if activation is None else apply(activation, y)
    graph = one(apply(ascend.Quant(step_of(top, offset), offset), y), x)
    before, after = both(graph, requant.fuse_requant, target=target, acc=acc)
    assert isinstance(requant.fuse_requant.effect, Lossy)
    difference = np.abs(before.astype(np.int32) - after.astype(np.int32))
    assert difference.max() <= requant.fuse_requant.effect.bound
    # Far less than the bound in nearly all elements: a wrong offset or a lost relu would show everywhere.
    assert np.count_nonzero(difference) <= max(2, 0.35 * difference.size)


@given(accumulators(), st.integers(0, 9999), st.sampled_from((F16, F32)), st.sampled_from(TARGETS))
def test_relu_in_dequant_is_exact(acc: Array, seed: int, to: ScalarType, target: str) -> None:
    x, y = dequantized(acc, scales_for(acc, seed, 10.0), to)
    before, after = both(one(apply(nn.Relu(), y), x), requant.fuse_dequant_relu, target=target, acc=acc)
    np.testing.assert_array_equal(before, after)
    assert before.dtype == after.dtype


AREAS = ((2, 2), (1, 3), (3, 3), (4, 1))


@given(
    st.integers(0, 9999), st.sampled_from(AREAS), st.booleans(), st.integers(-128, 127), st.sampled_from((F16, F32)),
    st.sampled_from(TARGETS),
)  # fmt: skip
def test_averaging_in_float_stays_within_its_bound(
    seed: int, kernel: tuple[int, int], padded: bool, offset: int, to: ScalarType, target: str
) -> None:
    """Both are the average to a few roundings of float16: a step of a quantizer over the range of the data."""
    q = np.random.default_rng(seed).integers(-128, 128, (2, 3, 5, 4)).astype(np.int8)
    pads = tuple(k - 1 for k in kernel) * 2 if padded else (0,) * 4
    x = GraphInput("q", TensorType(q.shape, I8))
    pool = ascend.SumPool((2, 1), pads, (1, 1), kernel, offset)
    y = apply(ascend.Dequant(1, to, divisor=pool.area), apply(pool, x), const(np.float32([0.01])))
    before, after = both(one(y, x), requant.average_in_float, target=target, q=q)
    assert isinstance(requant.average_in_float.effect, Lossy)
    assert np.abs(before - after).max() <= requant.average_in_float.effect.bound * 0.01
    assert before.dtype == after.dtype


@st.composite
def images(draw: st.DrawFn, channels: int | None = None) -> Array:
    """float32 [N, C, H, W] around the range of a quantizer that reaches 4, ties between steps included."""
    count = draw(st.integers(1, 3)) if channels is None else channels
    shape = (draw(st.integers(1, 2)), count, draw(st.integers(3, 7)), draw(st.integers(3, 7)))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    values = rng.normal(0.0, draw(st.sampled_from((1.0, 4.0))), shape)
    return (np.rint(values * 64) / 64 if draw(st.booleans()) else values).astype(np.float32)


POOLS = (
    nn.MaxPool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2)),
    nn.MaxPool((1, 1), (1, 1, 1, 1), (1, 1), (3, 3)),
    nn.MaxPool((2, 2), (1, 0, 1, 1), (1, 1), (3, 2), True),
    nn.MaxPool((1, 2), (0, 0, 0, 0), (2, 1), (2, 2)),
)


@given(images(), st.sampled_from(POOLS), st.integers(-128, 127), st.sampled_from(TARGETS))
def test_quantizing_before_max_pool_is_exact(image: Array, pool: nn.MaxPool, offset: int, target: str) -> None:
    x = GraphInput("x", TensorType(image.shape, F32))
    graph = one(apply(ascend.Quant(step_of(4.0, 0), offset), apply(pool, x)), x)
    before, after = both(graph, requant.quantize_before_pool, target=target, x=image)
    np.testing.assert_array_equal(before, after)


@given(st.data(), st.integers(-128, 127), st.sampled_from(TARGETS))
def test_quantizing_before_concat_is_exact(data: st.DataObject, offset: int, target: str) -> None:
    first = data.draw(images(4))
    second = data.draw(images(8))[: len(first), :, : first.shape[2], : first.shape[3]]
    first = first[: len(second), :, : second.shape[2], : second.shape[3]]
    inputs = tuple(GraphInput(n, TensorType(a.shape, F32)) for n, a in (("a", first), ("b", second)))
    joined = apply(nn.Concat(1), *inputs, inputs[0])
    graph = one(apply(ascend.Quant(step_of(4.0, 0), offset), joined), *inputs)
    before, after = both(graph, requant.quantize_before_concat(4), target=target, a=first, b=second)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("block", "axis", "reason"), [(8, 1, "multiples of 8"), (4, 2, "another axis"), (4, -2, "")])
def test_concat_is_left_alone(block: int, axis: int, reason: str) -> None:
    x = GraphInput("x", TensorType((1, 4, 4), F32))
    graph = one(apply(ascend.Quant(1.0, 0), apply(nn.Concat(axis), x, x)), x)
    log = RewriteLog()
    after = apply_rewrites(graph, [requant.quantize_before_concat(block)], log)
    assert (after is graph) == bool(reason)
    assert all(reason in text for text in log.declined.values())

"""Every executor gives the bits of the reference: single ops of every target, drawn chains, the shipped example."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import amctc
from amctc.errors import UsageError
from amctc.examples import calibration_path, model_path, test_path
from amctc.execution import EXECUTORS, check, plan_for, self_test
from amctc.execution.check import ExecutorMismatchError, check_executor
from amctc.execution.listing import listed, measured_peak
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.kernels import float_pointwise
from amctc.kernels.half_precision import Overflow
from amctc.kernels.half_results import HalfResult
from amctc.kernels.integer_epilogue import add_float16, dequantize_fixpipe, fp32_quantizer, quantize_fp32
from amctc.kernels.residual import LEAST_MULTIPLIER, residual_adder
from amctc.numerics.rounding import truncate_multiplier
from amctc.onnx_bridge import segment_writer
from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.targets import Profile, load_profile, profile_names
from amctc.testing.arrays import Recipe, feed
from amctc.testing.strategies import op_graphs
from amctc.types import F16, I8, I32, TensorType

A2 = load_profile("ascend910b1")


@st.composite
def profiles(draw: st.DrawFn, names: tuple[str, ...] = tuple(profile_names())) -> Profile:
    """A target, with up to two of its choices made differently."""
    profile = load_profile(draw(st.sampled_from(names)))
    for _ in range(draw(st.integers(0, 2))):
        choice = draw(st.sampled_from(profile.choices))
        if choice.alternatives:
            profile = profile.replace_choice(choice.name, draw(st.sampled_from(choice.alternatives)))
    return profile


@pytest.mark.parametrize("kind", [*ascend.KINDS, nn.MaxPool, nn.Add], ids=lambda k: k.op_name)
@given(data=st.data(), profile=profiles())
def test_single_ops(kind: type[OpKind], data: st.DataObject, profile: Profile) -> None:
    elem = {nn.MaxPool: I8, nn.Add: F16}.get(kind)
    graph = data.draw(op_graphs(kind) if elem is None else op_graphs(kind, elem=elem))
    special = data.draw(st.sampled_from(["", "edges", "zeros"]))
    feeds = feed(graph.inputs, Recipe(data.draw(st.integers(0, 99)), special=special), {"N": 2})
    check_executor(graph, profile, "numpy", [feeds])


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Integer layers, one after the other and joined, of all the forms that ONNX Runtime may compute."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    channels = draw(st.integers(1, 6))
    x = GraphInput("x", TensorType(("N", channels, draw(st.integers(3, 7)), draw(st.integers(3, 7))), I8))
    value: Value = x
    outputs = []
    for _ in range(draw(st.integers(1, 4))):
        value = draw(_stage(value, rng))
        outputs.append(value)
    kept = [v for v in outputs[:-1] if draw(st.booleans())] + [outputs[-1]]
    return Graph((x,), tuple(kept), tuple(f"y{i}" for i in range(len(kept))))


@st.composite
def _stage(draw: st.DrawFn, x: Value, rng: np.random.Generator) -> Value:
    which = draw(st.sampled_from(["requant", "requant", "residual", "pool", "concat"]))
    event(which)
    size = min(sizes(x)[2:])
    if which == "pool" and size >= 2:
        return apply(nn.MaxPool((draw(st.integers(1, 2)),) * 2, (0, 1, 0, 1), (1, 1), (2, 2), False), x)
    if which == "concat":
        return apply(nn.Concat(1), x, x)
    if which != "residual":
        slope = draw(st.sampled_from([1.0, 0.0, 0.0, 0.25]))
        offset = draw(st.sampled_from([-128, -128, -3, 0, 127, -200]))
        acc = draw(_conv(x, rng))
        return apply(ascend.Requant(1, offset, slope), acc, _scales(draw, rng, acc))
    seed = draw(st.integers(0, 9))
    branches = []
    group = draw(st.sampled_from([1, sizes(x)[1]]))
    for _ in range(2):
        acc = draw(_conv(x, np.random.default_rng(seed), same=group))
        branches.append(apply(ascend.Dequant(1, to=F16, relu=draw(st.booleans())), acc, _scales(draw, rng, acc)))
    total = apply(nn.Add(), *branches)
    if draw(st.booleans()):
        total = apply(nn.Relu(), total)
    if draw(st.booleans()):
        total = apply(nn.Clip(0.0, 6.0), total)
    scale = draw(st.sampled_from([0.3, 7.77, 1e4]))
    return apply(ascend.Quant(scale, draw(st.sampled_from([0, -128, 5])), sqrt_mode=draw(st.booleans())), total)


@st.composite
def _conv(draw: st.DrawFn, x: Value, rng: np.random.Generator, *, same: int = 0) -> Value:
    channels = sizes(x)[1]
    group = same or draw(st.sampled_from([1, channels]))
    outputs = channels if same else group * draw(st.integers(1, 5))
    kernel: tuple[int, ...] = draw(st.sampled_from([(1, 1), (3, 3), (1, 3)]))
    pads: tuple[int, ...] = (
        tuple((k - 1) // 2 for k in kernel) * 2 if same else draw(st.sampled_from([(0, 0, 0, 0), (1, 0, 2, 1)]))
    )
    strides = (1, 1) if same else draw(st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    size = [d + a + b for d, a, b in zip(sizes(x)[2:], pads[:2], pads[2:], strict=True)]
    kernel = tuple(min(k, s) for k, s in zip(kernel, size, strict=True))
    weight = rng.integers(-128, 128, (outputs, channels // group, *kernel)).astype(np.int8)
    bias = const(rng.integers(-5000, 5000, outputs).astype(np.int32)) if draw(st.booleans()) else None
    offset = draw(st.sampled_from([0, -128, 3]))
    if same:
        pads = tuple((k - 1) // 2 for k in kernel) + tuple(k // 2 for k in kernel)
    return apply(ascend.Conv(strides, pads, (1, 1), group, offset), x, const(weight), bias)


def _scales(draw: st.DrawFn, rng: np.random.Generator, acc: Value) -> Value:
    """Usual ones, those that make ties, those whose products vanish in float16, and those that leave it."""
    base = draw(st.sampled_from([2e-3, 2.0**-8, 1e-9, 1.0]))
    count = sizes(acc)[1] if draw(st.booleans()) else 1
    spread = rng.uniform(1, 2, count) if base == 2e-3 else np.ones(count)
    return const(np.asarray(base * spread, np.float32))


def sizes(value: Value) -> list[int]:
    """The sizes of a value, 0 for the batch."""
    return [d if isinstance(d, int) else 0 for d in value.type.dims]


@given(graph=chains(), profile=profiles(), seed=st.integers(0, 99))
def test_chains(graph: Graph, profile: Profile, seed: int) -> None:
    feeds = feed(graph.inputs, Recipe(seed, special="edges" if seed % 3 == 0 else ""), {"N": 1 + seed % 2})
    event(f"segments: {sum(len(s.ops) > 1 for s in plan_for(graph, profile, 'onnxruntime').steps)}")
    for executor in ("numpy", "onnxruntime"):
        check_executor(graph, profile, executor, [feeds])


@pytest.mark.parametrize("overflow", ["saturate", "inf"])
@pytest.mark.parametrize("relu", [False, True])
def test_a_sum_from_the_accumulator_has_the_bits_of_its_parts(overflow: Overflow, relu: bool) -> None:
    """Every float16 is the other side of the sum, beside accumulators of all sizes, zero among them."""
    other = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 1 << 8, 1, 1 << 8)
    rng = np.random.default_rng(3)
    acc = (rng.integers(-(1 << 31), 1 << 31, other.shape) >> rng.integers(0, 32, other.shape)).astype(np.int32)
    for base in (LEAST_MULTIPLIER, np.nextafter(np.float32(2.0**-14), np.float32(0)), 2.0**-14, 0.0037):
        scale = np.full(1 << 8, base, np.float32) * 2.0 ** rng.integers(0, 4, 1 << 8).astype(np.float32)
        own = dequantize_fixpipe(acc, scale, relu=relu, overflow=overflow)
        wanted = float_pointwise.relu(add_float16(own, other, overflow=overflow))
        adder = functools.partial(
            residual_adder, truncate_multiplier(scale), relu=relu, overflow=overflow, sum_relu=True
        )
        (given,) = adder(result=HalfResult(overflow))(acc, 1, (other,))
        np.testing.assert_array_equal(given.view(np.uint16), wanted.view(np.uint16))
        half = HalfResult(overflow, True, True, (fp32_quantizer((0.37,), -3, 8), fp32_quantizer((9.0, 0.1), 0, 16)))
        held, *integers = adder(result=half)(acc, 1, (other.astype(np.float32),))
        np.testing.assert_array_equal(held, wanted.astype(np.float32))
        np.testing.assert_array_equal(integers[0], quantize_fp32(wanted, 0.37, -3))
        np.testing.assert_array_equal(integers[1], np.rint(np.clip(np.nan_to_num(
            wanted.astype(np.float32) * np.float32(9) * np.float32(0.1)), -32768, 32767)))  # fmt: skip


def test_residual_sums_are_joined_where_nobody_else_reads_the_parts() -> None:
    x = GraphInput("x", TensorType(("N", 4, 3, 3), I32))
    one, other = (apply(ascend.Dequant(1, to=F16), x, const(np.full(4, s, np.float32))) for s in (0.5, 0.25))
    total = apply(nn.Add(), one, other)
    last = apply(nn.Relu(), total)
    for outputs, sizes in {
        (last,): [1, 3],
        (last, total): [1, 2, 1],
        (last, one): [1, 3],
        (last, one, other): [1] * 4,
    }.items():
        graph = Graph((x,), outputs, tuple(f"y{i}" for i in range(len(outputs))))
        assert [len(step.ops) for step in plan_for(graph, A2).steps] == sizes
        assert all(len(step.ops) == 1 for step in plan_for(graph, load_profile("ascend310")).steps)
    tiny = apply(nn.Add(), apply(ascend.Dequant(1, to=F16), x, const(np.float32([1e-9]))), other)
    assert [len(s.ops) for s in plan_for(Graph((x,), (tiny,), ("y",)), A2).steps] == [1, 2]  # the other one is joined


@pytest.mark.parametrize(("inputs", "joined"), [(1032, True), (1033, False)])
def test_products_are_joined_while_float32_holds_their_sums(inputs: int, joined: bool) -> None:
    """128 · 127 · 1032 = 2^24 − 1024: one weight more, and a sum may need a 25th bit."""
    x = GraphInput("x", TensorType(("N", inputs, 2, 2), I8))
    weight = const(np.full((3, inputs, 1, 1), 127, np.int8))
    acc = apply(ascend.Conv((1, 1), (0,) * 4, (1, 1), 1, 0), x, weight)
    graph = Graph((x,), (apply(ascend.Requant(1, 3, 1.0), acc, const(np.float32([1e-6, 2e-6, 3e-6]))),), ("y",))
    assert [len(step.ops) for step in plan_for(graph, A2).steps] == ([2] if joined else [1, 1])
    ends = np.stack([np.full((inputs, 2, 2), end, np.int8) for end in (-128, 127, 0)])
    check_executor(graph, A2, "numpy", [{"x": ends}])


def test_parameters_along_another_axis_are_not_joined() -> None:
    x = GraphInput("x", TensorType((2, 4, 4), I8))
    acc = apply(ascend.MatMul(), x, const(np.eye(4, dtype=np.int8)))
    for axis, steps in ((1, [1, 1]), (2, [2])):
        result = apply(ascend.Requant(axis, 0, 1.0), acc, const(np.float32([0.5, 1, 2, 4])))
        assert [len(s.ops) for s in plan_for(Graph((x,), (result,), ("y",)), A2).steps] == steps


@pytest.fixture(scope="module")
def deploy_graphs() -> dict[str, Graph]:
    samples = amctc.open_samples_for(amctc.load(model_path()), calibration_path(), preprocess="unit", limit=16)
    return {
        name: amctc.compress(model_path(), samples, target=name, preset="fast", compare_samples=1).deploy_graph
        for name in ("ascend910b1", "ascend310", "ascend310p3")
    }


def test_the_example(deploy_graphs: dict[str, Graph]) -> None:
    for name, graph in deploy_graphs.items():
        session = amctc.Session(graph)
        assert session.target is not None
        images = amctc.open_samples_for(session, test_path(), preprocess="unit", limit=32)
        for executor in EXECUTORS:
            agreement = check_executor(session.graph, session.target, executor, images)
            assert agreement.tensors > 20, name
            assert agreement.elements > 100_000
            assert "bit for bit" in str(agreement)


def test_most_of_a_fused_graph_is_one_segment(deploy_graphs: dict[str, Graph]) -> None:
    session = amctc.Session(deploy_graphs["ascend910b1"], executor="onnxruntime")
    assert session.plan is not None
    joined = [step for step in session.plan.steps if len(step.ops) > 1]
    layers = [sum(isinstance(op.kind, ascend.Layer) for op in step.ops) for step in joined]
    assert layers == [11, 1]
    assert not any(isinstance(op.kind, ascend.Layer) for s in session.plan.steps if s not in joined for op in s.ops)


def test_batches_do_not_matter(deploy_graphs: dict[str, Graph]) -> None:
    rng = np.random.default_rng(5)
    images = rng.random((6, 1, 8, 8), np.float32)
    for executor in EXECUTORS:
        session = amctc.Session(deploy_graphs["ascend910b1"], executor=executor)
        whole = session.run({"image": images})["logits"]
        parts = [session.run({"image": part})["logits"] for part in (images[:1], images[1:])]
        assert whole.tobytes() == np.concatenate(parts).tobytes()


def test_a_runtime_that_adds_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As kernels without VNNI would: pairs of products saturate in int16. Then ``numpy`` does all of it."""
    assert self_test.runtime_is_exact()
    exact = segment_writer.released
    monkeypatch.setattr(segment_writer, "released", lambda a, t: exact(np.minimum(a, 200).astype(a.dtype), t))
    self_test.runtime_is_exact.cache_clear()
    try:
        assert not self_test.runtime_is_exact()
        graph = self_test.self_test_graph(1)
        kernels = [step.kernel for step in plan_for(graph, A2, "onnxruntime").steps]
        assert not any(isinstance(kernel, segment_writer.Segment) for kernel in kernels)
    finally:
        monkeypatch.undo()
        self_test.runtime_is_exact.cache_clear()


def test_the_self_test_reaches_every_form() -> None:
    """One segment computes all of it, and results spread over int8: a test whose results saturate sees nothing."""
    graph = self_test.self_test_graph(1)
    plan = plan_for(graph, A2, "onnxruntime")
    assert [len(step.ops) for step in plan.steps] == [21]
    data = np.random.default_rng(0).integers(-128, 128, (2, self_test.CHANNELS, 9, 9)).astype(np.int8)
    results = plan.run({"x": data, "rows": data[:, :, 0, 0]})
    assert len(np.unique(results["dense"])) > 200
    others = ("depthwise", "grouped", "blocked", "matmul", "sum", "quantized")
    assert min(len(np.unique(results[n])) for n in others) > 40


def test_a_difference_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    x = GraphInput("x", TensorType((2, 3), F16))
    graph = Graph((x,), (apply(nn.Add(), x, x, name="twice"),), ("y",))
    feeds = {"x": np.ones((2, 3), np.float16)}
    real = plan_for

    def wrong(graph: Graph, profile: Profile, executor: str, keep: tuple[Value, ...] | list[Value] = ()) -> object:
        plan = real(graph, profile, executor, keep=keep)
        if executor == "reference" or not keep:
            return plan
        values = plan.run_values(feeds)
        values[keep[0]] = values[keep[0]].copy()
        values[keep[0]][1, 2] = 3
        monkeypatch.setattr(plan, "run_values", lambda feeds: values)
        return plan

    monkeypatch.setattr(check, "plan_for", wrong)
    with pytest.raises(ExecutorMismatchError, match=r"twice: .*nn\.add .* 1 of 6 elements differ"):
        check_executor(graph, A2, "numpy", [feeds])


def test_an_unknown_executor() -> None:
    with pytest.raises(UsageError, match="no executor 'fast'; choose numpy, reference, onnxruntime"):
        amctc.Session(Graph((), (), ()), executor="fast")


def test_overflows_are_reported_by_every_executor() -> None:
    """K = 140 000 of 127 · 127 leaves int32 (N7); ONNX Runtime would wrap, so it is not asked."""
    depth = 140_000
    x = GraphInput("x", TensorType(("N", depth), I8))
    acc = apply(ascend.MatMul(), x, const(np.full((depth, 1), 127, np.int8)), name="sum")
    graph = Graph((x,), (apply(ascend.Requant(1), acc, const(np.array([2.0**-24], np.float32))),), ("y",))
    assert acc.type.elem == I32
    for executor in EXECUTORS:
        told: dict[str, int] = {}
        plan = plan_for(graph, A2, executor, on_overflow=told.__setitem__)
        result = plan.run({"x": np.full((2, depth), 127, np.int8)})["y"]
        assert (list(told.values()), result.tolist()) == ([2], [[127], [127]])


def test_memory_is_predicted(deploy_graphs: dict[str, Graph]) -> None:
    """What NumPy allocates is what is alive, and scratch: at most the 4 MiB of patches and what they are made of."""
    session = amctc.Session(deploy_graphs["ascend910b1"])
    from amctc.cost import with_batch

    graph = with_batch(session.graph, 64)
    plan = plan_for(graph, A2)
    listing = listed(plan)
    assert listing.peak_bytes is not None
    fed = 64 * 64 * 4  # the caller's
    assert listing.peak_bytes - fed <= measured_peak(plan) <= listing.peak_bytes + (8 << 20)
    assert listing.steps[1].kernel == "product of patches, sums kept in the cache"
    assert listing.steps[0].result_bytes == 64 * 64
    assert listed(plan_for(session.graph, A2)).peak_bytes is None

"""fuse-requant: what the target's graph compiler fuses, rule by rule, and what it leaves (N17 to N19)."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, constant_data
from amctc.numerics.fixed_point import pack_dequant
from amctc.ops import ascend, nn
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile
from amctc.types import F16, F32, I4, I8, I16, I32, ScalarType, TensorType

ACC = GraphInput("acc", TensorType((1, 2, 2, 2), I32))
SCALE = np.float32([0.25, 0.5])


def dequant(scale: np.ndarray = SCALE, to: ScalarType = F32, relu: bool = False) -> Value:
    origins = (Origin("conv", "Conv"),)
    return apply(ascend.Dequant(1, to, relu), ACC, const(scale, name="p"), name="d", origins=origins)


def quant(x: Value, scale: float = 2.0, offset: int = 0, **options: object) -> Value:
    return apply(ascend.Quant(scale, offset, **options), x, name="q")  # type: ignore[arg-type]


def of(*values: Value) -> Graph:
    return Graph((ACC,), values, tuple(f"y{i}" for i in range(len(values))))


def kinds(graph: Graph) -> list[str]:
    return [op.kind.op_name for op in graph.ops if op.operands]


def requant(run, graph: Graph, target: str = "ascend910b1") -> ascend.Requant:
    result = run("fuse-requant", graph, target=target).graph
    assert kinds(result) == ["ascend.requant"]
    assert isinstance(result.ops[-1].kind, ascend.Requant)
    return result.ops[-1].kind


def unfused(run, graph: Graph, target: str = "ascend910b1") -> None:
    assert not any(isinstance(op.kind, ascend.Requant) for op in run("fuse-requant", graph, target=target).graph.ops)


# ---------------------------------------------------------------------------------------------------------- fuses


@pytest.mark.parametrize(
    ("activation", "slope"),
    [(None, 1.0), (nn.Relu(), 0.0), (nn.LeakyRelu(0.25), 0.25), (nn.LeakyRelu(0.0), 0.0), (nn.LeakyRelu(1.0), 1.0)],
)
def test_activations(activation: nn.Activation | None, slope: float, run) -> None:
    x = dequant() if activation is None else apply(activation, dequant())
    assert requant(run, of(quant(x, 2.0, -7))) == ascend.Requant(1, -7, slope)


def test_numbers_by_hand(run, chip) -> None:
    """acc · (scale · quantizer) in one step, rounded half to even, then the offset."""
    graph = of(quant(apply(nn.LeakyRelu(0.5), dequant()), 2.0, 10))
    fused = run("fuse-requant", graph).graph
    np.testing.assert_array_equal(constant_data(fused.ops[-1].operands[1]).read(), [0.5, 1.0])
    acc = np.int32([5, -3, 1000, -1000, 1, 2, -7, 300]).reshape(1, 2, 2, 2)
    expected = [2 + 10, -1 + 10, 127, -128, 1 + 10, 2 + 10, -4 + 10, 127]  # 2.5, -0.75, …; 1, 2, -3.5, …
    assert chip(fused, acc=acc)["y0"].ravel().tolist() == expected


def test_the_product_is_truncated(run) -> None:
    """N18: req_scale = deq_scale · quant_scale, then the low 13 bits of the mantissa are dropped."""
    scale = np.float32([0.1, 0.3])
    fused = run("fuse-requant", of(quant(dequant(scale), 3.7))).graph
    product = (scale * np.float32(3.7)).view(np.uint32) & np.uint32(0xFFFFE000)
    np.testing.assert_array_equal(constant_data(fused.ops[-1].operands[1]).read().view(np.uint32), product)


def test_packed_scales_fuse(run) -> None:
    fused = run("fuse-requant", of(quant(dequant(pack_dequant(SCALE)), 4.0))).graph
    np.testing.assert_array_equal(constant_data(fused.ops[-1].operands[1]).read(), SCALE * 4)


def test_half_precision_in_between(run) -> None:
    assert requant(run, of(quant(apply(nn.Relu(), dequant(to=F16))))).slope == 0.0


def test_relu_in_the_dequantizer(run) -> None:
    assert requant(run, of(quant(dequant(relu=True)))).slope == 0.0
    assert requant(run, of(quant(apply(nn.LeakyRelu(0.5), dequant(relu=True))))).slope == 0.0


def test_equal_quantizers_are_one_reader(run) -> None:
    x = apply(nn.Relu(), dequant())
    result = run("fuse-requant", of(quant(x), quant(x), apply(nn.Flatten(), quant(x)))).graph
    assert kinds(result) == ["ascend.requant", "nn.flatten"]
    assert result.outputs[0] is result.outputs[1]


def test_origins_and_names(run) -> None:
    result = run("fuse-requant", of(quant(apply(nn.Relu(), dequant(), origins=(Origin("act", "Relu"),))))).graph
    op = result.ops[-1]
    assert op.result.name == "q"
    assert op.operands[1].name == "p.requant"
    assert [o.name for o in op.origins] == ["conv", "act"]


# --------------------------------------------------------------------------------------------------------- relu6 (N19)


def step(top: float, offset: int) -> float:
    """The reciprocal step of a quantizer whose largest code stands for ``top``."""
    return float(np.float32((127 - offset) / top))


@pytest.mark.parametrize(
    ("top", "offset", "fuses"),
    [(5.9, -128, True), (5.9, 0, True), (6.0, -128, False), (6.0, 0, False), (6.1, -128, False), (5.999, 50, True)],
)
def test_relu6_is_relu_where_the_quantizer_saturates_below_six(top: float, offset: int, fuses: bool, run) -> None:
    graph = of(quant(apply(nn.Clip(0.0, 6.0), dequant()), step(top, offset), offset))
    if fuses:
        assert requant(run, graph) == ascend.Requant(1, offset, 0.0)
    else:
        unfused(run, graph)


def test_the_test_is_strict_and_in_float32(run) -> None:
    """The first quantizer whose float32 quotient is below 6 fuses, its neighbour does not."""
    scale = np.float32(255.0 / 6.0)
    while not np.float32(255) / scale < np.float32(6):
        scale = np.nextafter(scale, np.float32(100))
    requant(run, of(quant(apply(nn.Clip(0.0, 6.0), dequant()), float(scale), -128)))
    below = float(np.nextafter(scale, np.float32(0)))
    unfused(run, of(quant(apply(nn.Clip(0.0, 6.0), dequant()), below, -128)))


@pytest.mark.parametrize("bounds", [(0.0, 5.0), (-1.0, 6.0), (0.0, np.inf), (-np.inf, 6.0), (0.5, 6.0)])
def test_other_clips_do_not_fuse(bounds: tuple[float, float], run) -> None:
    unfused(run, of(quant(apply(nn.Clip(*bounds), dequant()), step(4.0, -128), -128)))


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_slopes_outside_the_unit_interval(alpha: float, run) -> None:
    unfused(run, of(quant(apply(nn.LeakyRelu(alpha), dequant()))))


def test_other_readers(run) -> None:
    d = dequant()
    r = apply(nn.Relu(), d)
    unfused(run, of(quant(d), d))
    unfused(run, of(quant(d), apply(nn.Sigmoid(), d)))
    unfused(run, of(quant(r), r))
    unfused(run, of(quant(r), apply(nn.Add(), r, r)))


@pytest.mark.parametrize(("scale", "offset"), [(2.5, 0), (2.0, 1)])
def test_readers_with_different_quantizers(scale: float, offset: int, run) -> None:
    r = apply(nn.Relu(), dequant())
    graph = of(quant(r), quant(r, scale, offset))
    unfused(run, graph)
    assert kinds(run("fuse-requant", graph).graph).count("ascend.dequant") == 1


@pytest.mark.parametrize("options", [{"to": I4}, {"to": I16}, {"sqrt_mode": True}])
def test_other_quantizers(options: dict[str, object], run) -> None:
    unfused(run, of(quant(dequant(), **options)))


def test_two_activations(run) -> None:
    unfused(run, of(quant(apply(nn.LeakyRelu(0.5), apply(nn.Clip(-1.0, 1.0), dequant())))))


def test_scales_that_leave_float32(run) -> None:
    unfused(run, of(quant(dequant(np.float32([1e-30])), 1e-30)))
    unfused(run, of(quant(dequant(np.float32([1e30])), 1e30)))


def test_shifted_accumulators(run, chip) -> None:
    """N16: the shift saturates to int16 first; requant has none."""
    words = pack_dequant(np.float32([1.0])) | np.uint64(3 << 32)
    graph = of(quant(dequant(words), 2.0))
    unfused(run, graph)
    acc = np.full((1, 2, 2, 2), 80, np.int32)
    assert (chip(run("fuse-requant", graph).graph, acc=acc)["y0"] == 20).all()


def test_floats_from_elsewhere(run) -> None:
    x = GraphInput("x", TensorType((2,), F32))
    graph = Graph((x,), (quant(apply(nn.Relu(), x)),), ("y",))
    assert run("fuse-requant", graph).graph is graph


# ------------------------------------------------------------------------------------------- pools, concat, bare relu


def test_quantizer_moves_before_a_pool_and_then_fuses(run) -> None:
    pool = nn.MaxPool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2))
    result = run("fuse-requant", of(quant(apply(pool, apply(nn.Relu(), dequant()))))).graph
    assert kinds(result) == ["ascend.requant", "nn.max_pool"]
    assert result.outputs[0].type.elem == I8


def test_pool_with_another_reader_stays(run) -> None:
    pooled = apply(nn.MaxPool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2)), dequant())
    assert kinds(run("fuse-requant", of(quant(pooled), pooled)).graph) == [
        "ascend.dequant", "nn.max_pool", "ascend.quant",
    ]  # fmt: skip


@pytest.mark.parametrize("storage", [I4, I16])
def test_pools_of_other_integers_stay(storage: ScalarType, run) -> None:
    pooled = apply(nn.MaxPool((1, 1), (0, 0, 0, 0), (1, 1), (1, 1)), dequant())
    assert kinds(run("fuse-requant", of(quant(pooled, to=storage))).graph)[-1] == "ascend.quant"


def averaged(scale: float = 0.5, divisor: int = 4, offset: int = -3) -> Graph:
    """int8 data, its sum over windows of two by two, dequantized, quantized again by steps of 0.25."""
    q = GraphInput("q", TensorType((1, 2, 4, 4), I8))
    origins = (Origin("p", "AveragePool"),)
    acc = apply(ascend.SumPool((2, 2), (0,) * 4, (1, 1), (2, 2), offset), q, origins=origins)
    real = apply(ascend.Dequant(1, divisor=divisor), acc, const(np.float32([scale])), origins=origins)
    return Graph((q,), (quant(real, 4.0, 1),), ("y",))


def test_an_average_is_requantized_by_its_divided_scale(run, chip) -> None:
    """0.5 / 4 · 4 = 0.5: codes 5, 6, 7 and -3 less the offset -3 add up to 27; 27 · 0.5 is a tie, to 14, plus 1."""
    result = run("fuse-requant", averaged()).graph
    assert kinds(result) == ["ascend.sum_pool", "ascend.requant"]
    assert constant_data(result.ops[-1].operands[1]).read().tolist() == [0.5]
    data = np.zeros((1, 2, 4, 4), np.int8)
    data[0, 1, :2, :2] = [[5, 6], [7, -3]]
    assert chip(result, q=data)["y"][0, 1, 0, 0] == 15
    assert run("fuse-requant", result).graph is result


def test_a_scale_is_divided_in_float32_before_it_is_truncated(run) -> None:
    """f32(0.1 / 9) · 4, its low 13 bits dropped (N12, N26)."""
    scale = np.float32(np.float32(0.1) / np.float32(9)) * np.float32(4)
    wanted = (scale.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    result = run("fuse-requant", averaged(scale=float(np.float32(0.1)), divisor=9)).graph
    assert constant_data(result.ops[-1].operands[1]).read().tolist() == [wanted]


def test_an_average_leaves_the_integers_where_the_target_averages_in_float16(chip) -> None:
    profile = load_profile("ascend910b1").replace_choice("average_pool_int8", "f16")
    result = Pipeline.parse("fuse-requant").run(averaged(), Context(target=profile)).graph
    assert kinds(result) == ["ascend.anti_quant", "nn.average_pool", "ascend.quant"]
    anti, pool, _ = (op.kind for op in result.ops if op.operands)
    assert anti == ascend.AntiQuant(0.5, 3)
    assert pool == nn.AveragePool((2, 2), (0,) * 4, (1, 1), (2, 2), False, True)
    data = np.random.default_rng(5).integers(-128, 128, (1, 2, 4, 4)).astype(np.int8)
    np.testing.assert_array_equal(chip(result, q=data)["y"], chip(averaged(), q=data)["y"])


def test_a_relu_follows_the_average_in_float16(chip) -> None:
    graph = averaged()
    real = graph.outputs[0].producer.operands[0]
    graph = Graph(graph.inputs, (quant(apply(nn.Relu(), real), 4.0, 1),), ("y",))
    profile = load_profile("ascend910b1").replace_choice("average_pool_int8", "f16")
    result = Pipeline.parse("fuse-requant").run(graph, Context(target=profile)).graph
    assert kinds(result) == ["ascend.anti_quant", "nn.average_pool", "nn.relu", "ascend.quant"]
    data = np.random.default_rng(6).integers(-128, 128, (1, 2, 4, 4)).astype(np.int8)
    np.testing.assert_array_equal(chip(result, q=data)["y"], chip(graph, q=data)["y"])


def test_a_sum_that_is_no_average_stays(run) -> None:
    profile = load_profile("ascend910b1").replace_choice("average_pool_int8", "f16")
    result = Pipeline.parse("fuse-requant").run(averaged(divisor=3), Context(target=profile)).graph
    assert kinds(result) == ["ascend.sum_pool", "ascend.requant"]


def test_relu_keeps_the_divisor(run) -> None:
    graph = averaged()
    real = graph.outputs[0].producer.operands[0]
    result = run("fuse-requant", Graph(graph.inputs, (apply(nn.Relu(), real),), ("y",))).graph
    assert result.ops[-1].kind == ascend.Dequant(1, relu=True, divisor=4)


def test_average_pools_stay(run) -> None:
    pooled = apply(nn.AveragePool((1, 1), (0, 0, 0, 0), (1, 1), (2, 2)), dequant())
    graph = of(quant(pooled))
    assert run("fuse-requant", graph).graph is graph


@pytest.mark.parametrize(("channels", "moves"), [((32, 64), True), ((32, 16), False)])
def test_concat_of_aligned_channels(channels: tuple[int, int], moves: bool, run) -> None:
    """N19: channels align to C0, 32 int8 values on this target."""
    accs = [GraphInput(f"a{i}", TensorType((1, c, 2, 2), I32)) for i, c in enumerate(channels)]
    parts = [apply(nn.Relu(), apply(ascend.Dequant(1), a, const(np.float32([0.5])))) for a in accs]
    graph = Graph(tuple(accs), (quant(apply(nn.Concat(1), *parts)),), ("y",))
    result = run("fuse-requant", graph).graph
    assert (kinds(result) == ["ascend.requant", "ascend.requant", "nn.concat"]) == moves
    if not moves:
        assert kinds(result)[-2:] == ["nn.concat", "ascend.quant"]


def test_quantizers_that_meet_become_one(run) -> None:
    """One reads the value as it is, the others are moved before a concatenation and a pool: nothing needs a float."""
    acc = GraphInput("acc", TensorType((1, 32, 2, 2), I32))
    value = apply(nn.Relu(), apply(ascend.Dequant(1), acc, const(np.float32([0.5]))), name="v")
    pooled = apply(nn.MaxPool((1, 1), (0, 0, 0, 0), (1, 1), (2, 2)), value)
    outputs = (quant(value), quant(apply(nn.Concat(1), value, value)), quant(pooled))
    result = run("fuse-requant", Graph((acc,), outputs, ("a", "b", "c"))).graph
    assert sorted(kinds(result)) == ["ascend.requant", "nn.concat", "nn.max_pool"]
    assert run("fuse-requant", result).graph is result
    other = (quant(value), quant(pooled, 4.0))
    apart = run("fuse-requant", Graph((acc,), other, ("a", "b"))).graph
    assert sorted(kinds(apart)) == ["ascend.dequant", "ascend.quant", "ascend.quant", "nn.max_pool"]


def test_relu_without_a_quantizer_goes_into_the_dequantizer(run) -> None:
    result = run("fuse-requant", of(apply(nn.Relu(), dequant()))).graph
    assert kinds(result) == ["ascend.dequant"]
    assert result.ops[-1].kind == ascend.Dequant(1, F32, True)


def test_running_twice_changes_nothing(run) -> None:
    pool = nn.MaxPool((2, 2), (0, 0, 0, 0), (1, 1), (2, 2))
    d = dequant()
    graph = of(quant(apply(pool, apply(nn.Relu(), d))), apply(nn.Relu(), d))
    once = run("fuse-requant", graph).graph
    assert run("fuse-requant", once).graph is once


def test_the_target_decides(run) -> None:
    graph = of(quant(apply(nn.Relu(), dequant())))
    with pytest.raises(UsageError, match="unknown target"):
        run("fuse-requant{target=nothing}", graph)
    assert kinds(run("fuse-requant{target=ascend910b1}", graph, target="ascend310").graph) == ["ascend.requant"]

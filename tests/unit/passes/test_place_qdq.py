"""place-qdq: where quantizers go, their numbers, and what changes them."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn, quant
from amctc.types import F16, F32, I4, I8, I16, Array, QuantizedType, ScalarType, TensorType
from amctc_passes.ranges.ranges import below_relu6, relu6_is_relu

RNG = np.random.default_rng(12)
IMAGE = GraphInput("x", TensorType(("N", 2, 4, 4), F32))
MIN_MAX = "observe,place-qdq{method=min-max}"


def weights(*shape: int) -> Value:
    return const(RNG.standard_normal(shape).astype(np.float32))


def conv(x: Value, name: str, out: int = 2, activation: nn.Activation | None = None, **kwargs: object) -> Value:
    kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), activation=activation, **kwargs)
    return apply(kind, x, weights(out, x.type.dims[1], 1, 1), name=f"{name}.out", origins=(Origin(name, "Conv"),))


def ramp(low: float, high: float, shape: tuple[int, ...] = (1, 2, 4, 4)) -> list[dict[str, Array]]:
    """One batch whose smallest and largest elements are given."""
    return [{"x": np.linspace(low, high, int(np.prod(shape)), dtype=np.float32).reshape(shape)}]


def quantizers(graph: Graph) -> dict[str, QuantizedType | None]:
    """Layer name to the type its data input was quantized to."""
    found: dict[str, QuantizedType | None] = {}
    for op in graph.ops:
        if isinstance(op.kind, nn.Layer):
            producer = op.operands[0].producer
            quantized = producer is not None and isinstance(producer.kind, quant.Dequantize)
            found[op.origins[0].name] = producer.operands[0].type.elem if quantized else None
    return found


def chain() -> Graph:
    return Graph((IMAGE,), (conv(conv(conv(IMAGE, "block1.conv"), "block2.conv"), "head"),), ("y",))


def one_layer() -> Graph:
    return Graph((IMAGE,), (conv(IMAGE, "c"),), ("y",))


def type_of(run, graph: Graph, text: str, samples: list[dict[str, Array]]) -> QuantizedType:
    (elem,) = quantizers(run(text, graph, samples).graph).values()
    assert elem is not None
    return elem


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("low", "high", "options", "scale", "zero_point", "storage"),
    [
        (-1.0, 1.55, "", 0.01, -28, I8),  # 2.55 / 255; -(-1 / 0.01) - 128
        (0.0, 2.55, "", 0.01, -128, I8),
        (1.0, 2.55, "", 0.01, -128, I8),  # widened to hold zero
        (-2.55, -1.0, "", 0.01, 127, I8),
        (-1.0, 1.27, "symmetric", 0.01, 0, I8),
        (-1.28, 1.0, "symmetric", 0.01, 0, I8),  # the extra negative code is used
        (-0.5, 1.0, "bits=4", 0.1, -3, I4),
        (-1.0, 3.2767, "bits=16 symmetric", 3.2767 / 32767, 0, I16),
        (0.0, 0.0, "", 1.0, -128, I8),
    ],
)
def test_range_to_type(
    low: float, high: float, options: str, scale: float, zero_point: int, storage: ScalarType, run
) -> None:
    elem = type_of(run, one_layer(), f"observe,place-qdq{{method=min-max {options}}}", ramp(low, high))
    assert elem.scales == (float(np.float32(scale)),)
    assert elem.zero_points == (zero_point,)
    assert (elem.storage, elem.axis) == (storage, None)
    assert (elem.low, elem.high) == storage.integer_range


def test_methods_differ_as_they_should(run) -> None:
    values = RNG.standard_normal((16, 2, 4, 4)).astype(np.float32)
    values[0, 0, 0, 0] = 1000.0
    samples = [{"x": values}]
    widths = {
        m: type_of(run, one_layer(), f"observe,place-qdq{{{m}}}", samples).scales[0]
        for m in (
            "method=min-max",
            "method=mse",
            "method=percentile percentile=99.5",
            "method=percentile percentile=60",
        )
    }
    assert widths["method=min-max"] == pytest.approx((1000.0 - values.min()) / 255, rel=1e-6)
    assert widths["method=percentile percentile=60"] < widths["method=percentile percentile=99.5"] < 0.1
    assert widths["method=mse"] <= widths["method=min-max"]


def test_hfmg_clips_outliers(run) -> None:
    values = RNG.standard_normal((16, 2, 64, 64)).astype(np.float32)
    values[0, 0, 0, 0] = 20.0
    image = GraphInput("x", TensorType(("N", 2, 64, 64), F32))
    graph = Graph((image,), (conv(image, "c"),), ("y",))
    elem = type_of(run, graph, "observe,place-qdq{method=hfmg}", [{"x": values}])
    # Empty bins of the upper end go first; what is left holds nearly all of a normal distribution.
    assert 6.0 < elem.scales[0] * 255 < 14.0


def test_moving_average_by_hand(run) -> None:
    batches = [(0.0, 1.0), (-1.0, 3.0), (0.0, 1.0)]
    samples = [{"x": ramp(low, high)[0]["x"]} for low, high in batches]
    found = run("observe{moving-average rate=0.5},place-qdq{method=moving-average}", one_layer(), samples).graph
    elem = quantizers(found)["c"]
    assert elem is not None
    assert elem.scales == (float(np.float32((1.5 + 0.25) / 255)),)  # 1 → 2 → 1.5 and 0 → -0.5 → -0.25
    assert elem.zero_points == (-128 + round(0.25 / (1.75 / 255)),)


def test_moving_average_of_percentiles(run) -> None:
    values = np.linspace(0, 1, 2 * 4 * 4, dtype=np.float32).reshape(1, 2, 4, 4).copy()
    values[0, 0, 0, 0] = -100.0
    text = "observe{moving-average percentile=90 rate=1},place-qdq{method=moving-average}"
    elem = quantizers(run(text, one_layer(), [{"x": values}]).graph)["c"]
    assert elem is not None
    assert 0.8 / 255 < elem.scales[0] < 1.0 / 255


def test_a_moving_average_must_be_observed(run) -> None:
    with pytest.raises(UsageError, match="no moving average was observed") as caught:
        run("observe,place-qdq{method=moving-average}", one_layer(), ramp(-1, 1))
    assert "observe{moving-average}" in (caught.value.remedy or "")


def test_default_is_the_least_squared_error(run) -> None:
    samples = [{"x": RNG.standard_normal((8, 2, 4, 4)).astype(np.float32)}]
    default, mse, widest = (
        type_of(run, one_layer(), f"observe,place-qdq{{bits=4{method}}}", samples)
        for method in ("", " method=mse", " method=min-max")
    )
    assert default == mse
    assert default.scales[0] < widest.scales[0]  # 16 levels over a normal distribution: clipping its tails pays


# -------------------------------------------------------------------------------------------------------------- relu6


def relu6_layer() -> Graph:
    kind = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), activation=nn.Clip(0.0, 6.0))
    inner = apply(kind, IMAGE, const(np.ones((2, 2, 1, 1), np.float32)), origins=(Origin("first", "Conv"),))
    return Graph((IMAGE,), (conv(inner, "second"),), ("y",))


@pytest.mark.parametrize("options", ["", "symmetric"])
def test_a_range_of_six_is_lowered_until_relu6_is_relu(options: str, run) -> None:
    """N19 is a strict test: with a step of 6/255 the largest code stands for 6, and the fusion is lost."""
    samples = [{"x": (RNG.standard_normal((4, 2, 4, 4)) * 100).astype(np.float32)}]
    result = run(f"observe,place-qdq{{method=min-max {options}}}", relu6_layer(), samples).graph
    elem = quantizers(result)["second"]
    assert elem is not None
    exact = np.float32(6.0 / (127 if options else 255))
    step = np.float32(elem.scales[0])
    assert exact * np.float32(1 - 1e-5) < step <= exact
    reciprocal = np.float32(1) / step
    assert np.float32(127 - elem.zero_points[0]) / reciprocal < np.float32(6)
    above = np.float32(1) / np.nextafter(step, np.float32(1))
    assert step == exact or not np.float32(127 - elem.zero_points[0]) / above < np.float32(6), "lowered too far"


@pytest.mark.parametrize("zero_point", [-128, 0, -100])
def test_below_relu6_by_hand(zero_point: int) -> None:
    scale = np.float32(6.0) / np.float32(127 - zero_point)
    lowered = below_relu6(scale, zero_point, 8)
    assert lowered <= scale
    assert relu6_is_relu(float(np.float32(1) / lowered), zero_point)
    assert below_relu6(np.float32(0.01), -128, 8) == np.float32(0.01), "a range below 6 is left alone"
    assert below_relu6(np.float32(0.1), -128, 8) == np.float32(0.1), "a range far above 6 is left alone"


def test_ranges_below_six_are_left_alone(run) -> None:
    samples = [{"x": np.full((1, 2, 4, 4), 0.01, np.float32)}]
    elem = quantizers(run(MIN_MAX, relu6_layer(), samples).graph)["second"]
    assert elem is not None
    assert elem.scales == (float(np.float32(np.float32(0.02) / 255)),)


# -------------------------------------------------------------------------------------------------------------- places


def test_observers_go_and_quantizers_come(run) -> None:
    result = run("observe,place-qdq", chain(), ramp(-1, 1)).graph
    kinds = [op.kind.op_name for op in result.ops]
    assert "quant.observe" not in kinds
    assert kinds.count("quant.quantize") == kinds.count("quant.dequantize") == 3
    assert all(quantizers(result).values())
    assert [o.result.name for o in result.ops if isinstance(o.kind, nn.Layer)] == [
        "block1.conv.out", "block2.conv.out", "head.out",
    ]  # fmt: skip
    assert next(o.result.name for o in result.ops if isinstance(o.kind, quant.Quantize)) == "x.quant"


def test_layers_that_read_one_value_share_a_quantizer(run) -> None:
    a, b = conv(IMAGE, "a"), conv(IMAGE, "b")
    graph = Graph((IMAGE,), (a, b), ("a", "b"))
    shared = run("observe,place-qdq", graph, ramp(-1, 1)).graph
    assert sum(isinstance(o.kind, quant.Quantize) for o in shared.ops) == 1
    apart = run('observe,place-qdq{override=["b{symmetric}"]}', graph, ramp(-1, 1.5)).graph
    names = [o.result.name for o in apart.ops if isinstance(o.kind, quant.Quantize)]
    assert names == ["x.quant", "x.quant.1"]


def test_other_readers_stay_in_float(run) -> None:
    inner = conv(IMAGE, "a")
    graph = Graph((IMAGE,), (conv(inner, "b"), apply(nn.Relu(), inner)), ("y", "z"))
    result = run("observe,place-qdq", graph, ramp(-1, 1)).graph
    relu = result.outputs[1].producer
    assert isinstance(relu.operands[0].producer.kind, nn.Conv)


def test_unnamed_values_get_the_name_of_their_layer(run) -> None:
    inner = apply(nn.Relu(), IMAGE)
    graph = Graph((IMAGE,), (conv(inner, "c"),), ("y",))
    names = [r.name for o in run("observe,place-qdq", graph, ramp(-1, 1)).graph.ops for r in o.results]
    assert "c.input.quant" in names
    assert not any("None" in n for n in names if n)


# ---------------------------------------------------------------------------------------------------- skip and override


@pytest.mark.parametrize(
    ("skip", "skipped"),
    [
        ("head", {"head"}), ("block*", {"block1.conv", "block2.conv"}), ("block?.conv", {"block1.conv", "block2.conv"}),
        ("[head, block1.conv]", {"head", "block1.conv"}), ("*", {"head", "block1.conv", "block2.conv"}),
        ("block[2]*", {"block2.conv"}),
    ],
)  # fmt: skip
def test_skip(skip: str, skipped: set[str], run) -> None:
    text = skip if skip.startswith("[head") else f'["{skip}"]'
    result = run(f"observe,place-qdq{{skip={text}}}", chain(), ramp(-1, 1))
    assert {n for n, e in quantizers(result.graph).items() if e is None} == skipped
    assert {n.layer for n in result.notes if n.text == "left in float: skipped on request"} == skipped


@pytest.mark.parametrize("option", ["skip=[haed]", 'override=["haed{symmetric}"]'])
def test_a_pattern_that_matches_nothing_is_an_error(option: str, run) -> None:
    with pytest.raises(UsageError, match=r"(skip|override) 'haed' matches no layer") as caught:
        run(f"observe,place-qdq{{{option}}}", chain(), ramp(-1, 1))
    assert "head" in (caught.value.remedy or "")


def test_a_name_with_wildcard_characters_matches_itself(run) -> None:
    graph = Graph((IMAGE,), (conv(IMAGE, "a[0]"),), ("y",))
    assert quantizers(run('observe,place-qdq{skip=["a[0]"]}', graph, ramp(-1, 1)).graph) == {"a[0]": None}


def test_override_and_the_later_one_wins(run) -> None:
    text = 'observe,place-qdq{method=min-max override=["block*{bits=16 symmetric}" "block2*{bits=4}"]}'
    found = quantizers(run(text, chain(), ramp(-1, 1)).graph)
    assert [(e.storage, e.zero_points == (0,)) for e in found.values() if e] == [(I16, True), (I4, False), (I8, False)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head", "override 'head' has no options; write it as \"conv\\*{method=min-max}\"$"),
        (
            "head{skip=x}",
            "an override has no option 'skip'; it can change bits, symmetric, method, percentile, two-sided$",
        ),
        ("head{bits=5}", "override 'head{bits=5}': bits=5: activations are stored in 4, 8, 16 bits$"),
        ("haed{bits=4}", "override 'haed' matches no layer; there are, for example, head"),
        ("head{bits=many}", "override option 'bits' wants an integer"),
        ("head{bits", "expected an option"),
    ],
)
def test_malformed_overrides(override: str, message: str, run) -> None:
    with pytest.raises(UsageError, match=message):
        run(f'observe,place-qdq{{override=["{override}"]}}', chain(), ramp(-1, 1))


@pytest.mark.parametrize("option", ["bits=3", "percentile=50", "percentile=100.5", "method=max"])
def test_options_are_checked(option: str, run) -> None:
    with pytest.raises(UsageError):
        run(f"place-qdq{{{option}}}", chain())


# ------------------------------------------------------------------------------------------------------ left in float


def note(run, graph: Graph, samples: list[dict[str, Array]], target: str = "ascend910b1") -> str:
    result = run("observe,place-qdq", graph, samples, target=target)
    assert not any(isinstance(op.kind, quant.Quantize) for op in result.graph.ops)
    (found,) = result.notes
    assert found.source == "place-qdq"
    return found.text


def test_layers_without_integer_form_are_noted(run) -> None:
    rows = GraphInput("x", TensorType(("N", 3), F32))
    samples = [{"x": RNG.standard_normal((2, 3)).astype(np.float32)}]
    origin = (Origin("layer", "Conv"),)

    def of(value: Value, x: GraphInput = rows) -> Graph:
        return Graph((x,), (value,), ("y",))

    transpose = apply(nn.ConvTranspose((1, 1), (0, 0, 0, 0), (2, 2)), IMAGE, weights(2, 2, 2, 2), origins=origin)
    assert note(run, of(transpose, IMAGE), ramp(-1, 1)) == "left in float: a dilated transposed convolution"
    vector = apply(nn.MatMul(), rows, apply(nn.ReduceSum((0,), False), rows))
    assert note(run, of(vector), samples) == "left in float: both sides are computed, one of them a vector"
    weight = apply(nn.Transpose((1, 0)), apply(nn.Relu(), rows))
    assert note(run, of(apply(nn.Gemm(), rows, weight)), samples).endswith("the weight is computed, not constant")
    alpha = apply(nn.Gemm(2.0), rows, weights(3, 4))
    assert "fold-gemm-factors" in note(run, of(alpha), samples)
    transposed = apply(nn.Gemm(trans_a=True), GraphInput("x", TensorType((3, 2), F32)), weights(3, 4))
    assert "transposed first operand" in note(
        run, of(transposed, transposed.producer.operands[0]), [{"x": samples[0]["x"].T}]
    )
    computed = apply(nn.Gemm(), rows, weights(3, 4), apply(nn.Relu(), weights(4)))
    assert note(run, of(computed), samples).endswith("the bias is computed, not constant")
    short = apply(nn.Gemm(), rows, weights(3, 4), weights(1))
    assert "is not one per output" in note(run, of(short), samples)


def test_vector_and_stacked_weights_stay_in_float(run) -> None:
    stack = GraphInput("x", TensorType((2, 4, 3), F32))
    samples = [{"x": RNG.standard_normal((2, 4, 3)).astype(np.float32)}]
    for shape in ((3,), (2, 3, 5)):
        graph = Graph((stack,), (apply(nn.MatMul(), stack, weights(*shape)),), ("y",))
        assert note(run, graph, samples).endswith("the constant side is no matrix")


def test_half_precision_stays(run) -> None:
    x = GraphInput("x", TensorType((2, 3), F16))
    graph = Graph((x,), (apply(nn.MatMul(), x, const(np.ones((3, 2), np.float16))),), ("y",))
    assert note(run, graph, [{"x": np.ones((2, 3), np.float16)}]).endswith("activations are f16")


def test_unobserved_layers_are_noted(run) -> None:
    result = run("place-qdq", one_layer())
    assert result.graph is one_layer() or quantizers(result.graph) == {"c": None}
    assert [n.text for n in result.notes] == ["left in float: its input was not observed"]


def test_values_that_meet_a_depth_dilated_convolution(run) -> None:
    x = GraphInput("x", TensorType((1, 1, 4, 4, 4), F32))
    kinds = {d: nn.Conv((1, 1, 1), (0,) * 6, (d, 1, 1)) for d in (1, 2)}
    samples = [{"x": RNG.standard_normal((1, 1, 4, 4, 4)).astype(np.float32)}]
    flat = Graph((x,), (apply(kinds[1], x, weights(1, 1, 2, 2, 2), origins=(Origin("c", "Conv"),)),), ("y",))
    assert quantizers(run("observe,place-qdq", flat, samples).graph)["c"] is not None
    deep = Graph((x,), (apply(kinds[2], x, weights(1, 1, 2, 2, 2)),), ("y",))
    assert "dilated in depth" in note(run, deep, samples)

"""What ONNX Runtime is given beyond single ops: at the limits of what the proofs allow, and beyond them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from amctc.execution import plan_for
from amctc.execution.check import check_executor
from amctc.execution.saturation import saturates_within
from amctc.ir import Graph, GraphInput, Op, Value, apply, const
from amctc.kernels.ascend_table import ascend_table
from amctc.onnx_bridge import float_convs, segment_writer
from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.targets import Profile, load_profile
from amctc.types import F16, I8, Array, TensorType

VECTOR = load_profile("ascend310")
MODES = [VECTOR, load_profile("ascend910b1"), VECTOR.replace_choice("island_overflow", "saturate")]
HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
NUMBERS = HALVES[~np.isnan(HALVES)]


def clipped_and_quantized(clip: OpKind, quant: ascend.Quant, elem: TensorType) -> tuple[Op, Op]:
    """The two ops, one after the other."""
    value = apply(clip, GraphInput("x", elem))
    result = apply(quant, value)
    assert value.producer is not None
    assert result.producer is not None
    return value.producer, result.producer


@given(
    profile=st.sampled_from(MODES), high=st.sampled_from([6.0, 1.0, 0.1, 70000.0]), relu=st.booleans(),
    offset=st.sampled_from([-128, -127, -129, 0, 127]), factor=st.floats(0.9, 1.1), sqrt_mode=st.booleans(),
)  # fmt: skip
def test_saturation_does_the_work_of_a_clip(
    profile: Profile, high: float, relu: bool, offset: int, factor: float, sqrt_mode: bool
) -> None:  # fmt: skip
    """For every float16 number, infinities and zeros of both signs among them."""
    scale = float(np.float32((128 - offset) / high * factor))
    quant = ascend.Quant(scale ** (0.5 if sqrt_mode else 1), offset, sqrt_mode=sqrt_mode)
    clip, quantizer = clipped_and_quantized(nn.Relu() if relu else nn.Clip(0.0, high), quant, TensorType((9,), F16))
    table = ascend_table(profile)
    own, clipped = table[type(quant)](quantizer, [None]), table[type(clip.kind)](clip, [None])(NUMBERS)
    superfluous = np.array_equal(own(NUMBERS), own(clipped))
    event(f"superfluous: {superfluous}")
    assert saturates_within(quantizer, clip, profile) <= superfluous


@pytest.mark.parametrize(("low", "high", "within"), [(0, 255, True), (0, 254, False), (1, 255, False), (-9, 300, True)])
def test_the_ends_of_a_clip(low: int, high: int, within: bool) -> None:
    quant = ascend.Quant(1.0, -128)
    clip, quantizer = clipped_and_quantized(nn.Clip(low, high), quant, TensorType((9,), F16))
    assert [saturates_within(quantizer, clip, profile) for profile in MODES] == [within] * 3


def quantized_layer(clip: OpKind, *, kept: bool = False, weight: Array | None = None, bias: int = 0) -> Graph:
    """A depthwise layer of 2^24 or less, its clip and its quantizer."""
    channels = 32
    x = GraphInput("x", TensorType(("N", channels, 5, 6), I8))
    weight = np.full((channels, 1, 3, 3), -128, np.int8) if weight is None else weight
    kind = ascend.Conv((1, 2), (0, 2, 1, 1), (1, 1), channels, offset_x=-128)
    acc = apply(kind, x, const(weight), const(np.full(channels, bias, np.int32)))
    scale = const((np.arange(channels) / 5 + 1).astype(np.float32) * np.float32(1e-4))
    value = apply(clip, apply(ascend.Dequant(1, to=F16), acc, scale))
    result = apply(ascend.Quant(42.5, -128), value)
    return Graph((x,), (result, value) if kept else (result,), ("y", "value") if kept else ("y",))


def extremes(graph: Graph) -> dict[str, Array]:
    """A batch of constant, alternating and drawn int8."""
    shape = (1, *(d for d in graph.inputs[0].type.dims[1:] if isinstance(d, int)))
    rng = np.random.default_rng(4)
    batch = [np.full(shape, 127), np.full(shape, -128), rng.choice((-128, 127), shape), rng.integers(-128, 128, shape)]
    return {"x": np.concatenate(batch).astype(np.int8)}


@pytest.mark.parametrize("clip", [nn.Clip(0.0, 6.0), nn.Clip(0.0, 5.0), nn.Relu()], ids=str)
@pytest.mark.parametrize("kept", [False, True])
def test_clips_are_left_out_where_nobody_sees_it(clip: OpKind, kept: bool) -> None:
    graph = quantized_layer(clip, kept=kept)
    check_executor(graph, VECTOR, "onnxruntime", [extremes(graph)])
    segment = plan_for(graph, VECTOR, "onnxruntime").steps[0].kernel
    assert isinstance(segment, segment_writer.Segment)


def test_sums_in_float32_up_to_its_last_integer() -> None:
    """Σ|w| · 255 + |bias| = 2^24 is a segment, one more is not: a sum may need a 25th bit."""
    weight = np.full((32, 1, 3, 3), 127, np.int8)
    room = (1 << 24) - 9 * 127 * 255
    for bias, joined in ((room, True), (room + 1, False), (-room, True)):
        graph = quantized_layer(nn.Clip(0.0, 6.0), weight=weight, bias=bias)
        steps = plan_for(graph, VECTOR, "onnxruntime").steps
        assert isinstance(steps[0].kernel, segment_writer.Segment) == joined
        check_executor(graph, VECTOR, "onnxruntime", [extremes(graph)])


def test_the_blocks_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without blocks the bits are the same; a wrong block is noticed."""
    block = float_convs.channel_block()
    graph = quantized_layer(nn.Relu(), weight=np.arange(288).astype(np.uint8).view(np.int8).reshape(32, 1, 3, 3))
    assert block in (None, *float_convs.BLOCKS)
    feeds = extremes(graph)
    given = plan_for(graph, VECTOR, "onnxruntime").run(feeds)["y"]
    for other in float_convs.BLOCKS:
        assert float_convs._sums_are_right(other) == (other == block)
    monkeypatch.setattr(float_convs, "channel_block", lambda: None)
    assert plan_for(graph, VECTOR, "onnxruntime").run(feeds)["y"].tobytes() == given.tobytes()


def test_powers_of_two_go_into_the_weight() -> None:
    for numbers, folded in (([0.5, 2.0**-17, 64], True), ([0.5, 3], False), ([0.0], False), ([2.0**-100], False)):
        assert float_convs._is_power_of_two(np.array(numbers, np.float32)) == folded


@pytest.mark.parametrize("columns", [1, 300, 3000])
def test_factors_along_rows_of_any_length(columns: int) -> None:
    """Three channels of so many columns: below the longest row that factors are repeated for, and above it."""
    x = GraphInput("x", TensorType(("N", 2, 2, columns), I8))
    weight = np.array([1, 2, -3, 127, -128, 9], np.int8).reshape(3, 2, 1, 1)
    acc = apply(ascend.Conv((1, 1), (0,) * 4, (1, 1), 1, 3), x, const(weight))
    value: Value = apply(ascend.Dequant(1, to=F16), acc, const(np.array([0.01, 0.3, 2], np.float32)))
    graph = Graph((x,), (value,), ("y",))
    check_executor(graph, VECTOR, "onnxruntime", [extremes(graph)])

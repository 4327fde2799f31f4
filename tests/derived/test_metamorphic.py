"""Relations between two runs, where nobody knows what one run must give.

The numbers are those of the list they come from. Proved elsewhere: P1, P2, P4, P5, P6, P8, P10 and P11 of every pass on
drawn graphs (``test_passes``: ``check_pass``, ``check_pipeline``); P12 and P13 of one layer
(``unit/passes/test_quantize_weights``); P15 (``unit/numerics/test_numerics_affine``); P17
(``test_numerics_histogram``, ``test_numerics_per_channel``, ``calibrate/test_checkpoint``); P18
(``models/test_integer_layers``); P19 (``unit/passes/test_mask_weights``); P20 (``test_numerics_low_rank``,
``test_split_low_rank``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.data import ArrayData
from amctc.errors import AmctcError
from amctc.interp import Plan, evaluate
from amctc.ir import Graph, GraphInput, Value, apply, const, constant_data
from amctc.kernels.ascend_table import ascend_table
from amctc.kernels.tables import ORACLE
from amctc.magnitude import MAGNITUDE
from amctc.numerics.affine import affine_parameters, weight_scales
from amctc.numerics.linear import dequantize_linear, quantize_linear, quantize_weight
from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.runtime import CARRIED
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.preset import load_preset
from amctc.session import COMPILE_FUSED
from amctc.targets import DEFAULT_TARGET, load_profile
from amctc.testing import SeededSource, Unfit, random_graph
from amctc.testing.cuts import widened
from amctc.testing.pass_properties import with_names
from amctc.testing.properties import LIMIT
from amctc.text import print_graph
from amctc.types import F16, F32, I8, I32, Array, QuantizedType, TensorType
from tools.random_graphs.forms import odd_names, shuffled

Samples = Sequence[Mapping[str, Array]]
PREPARE = load_preset("balanced").prepare
QUANTIZE = Pipeline.parse(f"{load_preset('fast')},{COMPILE_FUSED}")
"""As fast as the smallest preset: what is related does not depend on how ranges and roundings are searched."""

TARGET = load_profile(DEFAULT_TARGET)
TABLE = {**ascend_table(TARGET), **CARRIED}


def compiled(graph: Graph, samples: Samples) -> Graph:
    return QUANTIZE.run(graph, Context(samples=samples, target=TARGET)).graph


def drawn(seed: int) -> Graph:
    """A random graph; the next seed where one comes to no end."""
    for attempt in range(seed, seed + 100):
        try:
            return random_graph(SeededSource(attempt), max_ops=8)
        except (Unfit, AmctcError):
            continue
    raise AssertionError("no graph")


def test_prepared_twice_is_prepared_once(network: Graph) -> None:
    """P3, of the whole stage."""
    once = PREPARE.run(network).graph
    assert PREPARE.run(once).graph is once


def test_a_file_that_was_read_and_written_is_read_and_written_alike(network: Graph) -> None:
    """P7: after one round the bytes stay the same."""
    first = export_model(import_model(export_model(network)))
    assert export_model(import_model(first)).SerializeToString() == first.SerializeToString()


@given(st.integers(0, 1 << 20))
@settings(max_examples=max(10, settings().max_examples // 2))
def test_a_stage_fires_no_more_rewrites_than_its_bound(seed: int) -> None:
    """P9: constants, and so many per op; float graphs end far below the engine's own limit."""
    graph, context = drawn(seed), Context(target=TARGET)
    PREPARE.run(graph, context)
    fixed, per_op = LIMIT
    assert len(context.log.applications) <= fixed + per_op * len(graph.ops)


@given(st.integers(0, 1 << 20))
@settings(max_examples=max(10, settings().max_examples // 2))
def test_names_and_order_of_a_file_change_nothing_but_names(seed: int) -> None:
    """P10, P11, through the file: tensors and nodes called otherwise, nodes in another topological order."""
    model = export_model(drawn(seed))
    plain = PREPARE.run(import_model(model), Context(target=TARGET)).graph
    source = SeededSource(seed)
    odd_names(source, model.graph)
    shuffled(source, model.graph)
    other = PREPARE.run(import_model(model), Context(target=TARGET)).graph
    assert nameless(other) == nameless(plain)


def nameless(graph: Graph) -> str:
    return print_graph(with_names(graph, lambda index: None, origins=False))


# ---------------------------------------------------------------------------------------------------- whole networks


def test_a_batch_that_is_split_gives_the_same_bits(network: Graph, samples: Samples) -> None:
    """P14, in the integers of the target."""
    plan = Plan(compiled(network, samples), TABLE)
    image = samples[0]["image"]
    whole = plan.run({"image": image})["y"]
    parts = [plan.run({"image": part})["y"] for part in (image[:1], image[1:3], image[3:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


LAYERS = {
    "conv": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), (6, 4, 3, 3), 0),
    "depthwise": (nn.Conv((1, 1), (1, 1, 1, 1), (1, 1), 4), (4, 1, 3, 3), 0),
    "transposed": (nn.ConvTranspose((2, 2), (0, 0, 0, 0), (1, 1)), (4, 6, 2, 2), 1),
}


def normalised(kind: nn.Conv | nn.ConvTranspose, arrays: Sequence[Array]) -> Graph:
    """Layer, batch normalisation, relu: ``arrays`` are weight, bias, and the four parameters."""
    x = GraphInput("x", TensorType((2, 4, 5, 5), F32))
    w, b, *parameters = (const(a.astype(np.float32)) for a in arrays)
    y: Value = apply(nn.BatchNorm(), apply(kind, x, w, b), *parameters)
    return Graph((x,), (apply(nn.Relu(), y),), ("y",))


def constants(shape: Sequence[int], channels: int) -> list[Array]:
    rng = np.random.default_rng(5)
    return [
        rng.standard_normal(shape), rng.standard_normal(channels), rng.choice((-1.5, 0.5, 2.0), channels),
        rng.standard_normal(channels), rng.standard_normal(channels), rng.uniform(0.3, 2.0, channels),
    ]  # fmt: skip


def images(scale: float = 1.0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(6)
    return [{"x": (rng.standard_normal((2, 4, 5, 5)) * scale).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("name", LAYERS)
def test_permuted_output_channels_are_permuted_results(name: str) -> None:
    """P12: of fold and quantization together, to the bit."""
    kind, shape, axis = LAYERS[name]
    arrays = constants(shape, shape[axis])
    order = np.random.default_rng(7).permutation(shape[axis])
    if name == "depthwise":  # its channels are those of the data
        order = np.arange(shape[axis])[::-1]
    turned = [np.take(arrays[0], order, axis), *(a[order] for a in arrays[1:])]
    data, other = images(), images()
    if name == "depthwise":
        other = [{"x": np.ascontiguousarray(batch["x"][:, order])} for batch in data]
    before = evaluate(compiled(normalised(kind, arrays), data), data[0], TABLE)["y"]
    after = evaluate(compiled(normalised(kind, turned), other), other[0], TABLE)["y"]
    np.testing.assert_array_equal(before[:, order], after)


@pytest.mark.parametrize("power", [-5, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_rescaling_by_a_power_of_two_leaves_the_integers(name: str, power: int) -> None:
    """P13, of everything from samples to results: x · 2^k on W · 2^-k."""
    kind, shape, axis = LAYERS[name]
    arrays = constants(shape, shape[axis])
    scaled = [np.ldexp(arrays[0], -power), *arrays[1:]]
    data, other = images(), images(2.0**power)
    first, second = compiled(normalised(kind, arrays), data), compiled(normalised(kind, scaled), other)
    weights = [stored_weights(graph) for graph in (first, second)]
    assert weights[0]
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(evaluate(first, data[0], TABLE)["y"], evaluate(second, other[0], TABLE)["y"])


def stored_weights(graph: Graph) -> list[Array]:
    """The contents of int8 constants."""
    found = [(op.result.type.elem, constant_data(op.result)) for op in graph.ops]
    return [
        data.read() for elem, data in found
        if data is not None and (elem == I8 or (isinstance(elem, QuantizedType) and elem.storage == I8))
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("low", "high", "least"), [(2.0, 3.0, 2.0), (-np.inf, -0.5, 0.5), (1.0, -1.0, 1.0), (-1.0, 6.0, 0)]
)
def test_a_clip_is_as_large_as_its_bound(low: float, high: float, least: float, fused: bool) -> None:
    """The magnitude that tolerances are relative to: of zero, clipped to what lies beyond it."""
    x = GraphInput("x", TensorType((1, 1, 2), F32))
    clip = nn.Clip(low, high)
    w = const(np.ones((1, 1, 1), np.float32))
    y = apply(nn.Conv((1,), (0, 0), (1,), 1, clip), x, w) if fused else apply(clip, x)
    found = Plan(Graph((x,), (y,), ("y",)), MAGNITUDE, float_type=np.float64).run({"x": np.zeros((1, 1, 2))})["y"]
    np.testing.assert_array_equal(found, np.full((1, 1, 2), least))


def test_float16_is_evaluated_in_float64_with_its_casts_and_defaults() -> None:
    """A default that is not fed, and integers cast to float16 that meet a float16 weight."""
    x = GraphInput("x", TensorType((1, 2, 3), I32))
    bias = GraphInput("b", TensorType((1,), F16), ArrayData(np.float16([0.5])))
    w = const(np.ones((1, 2, 1), np.float16))
    y = apply(nn.Conv((1,), (0, 0), (1,)), apply(nn.Cast(F16), x), w, bias)
    wide = Plan(widened(Graph((x, bias), (y,), ("y",))), ORACLE, float_type=np.float64)
    found = wide.run({"x": np.full((1, 2, 3), 70_000, np.int32)})["y"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.full((1, 1, 3), 140_000.5))


@given(st.floats(-100, 0), st.floats(0.01, 100), st.integers(3, 7), st.booleans())
def test_a_bit_more_halves_the_bound_of_the_error(low: float, high: float, bits: int, symmetric: bool) -> None:
    """P16: half a step bounds the error inside the grid, and steps halve: (2^b - 1)/(2^(b+1) - 1) < 1/2.

    A symmetric grid has a step for each of 2^(b-1) - 1 or 2^(b-1) positive numbers.
    """
    x = np.linspace(low, high, 999, dtype=np.float32)
    steps = []
    for b in (bits, bits + 1):
        scale, zero_point = affine_parameters(low, high, bits=b, symmetric=symmetric)
        first, last = -(2 ** (b - 1)), 2 ** (b - 1) - 1
        inside = x[(x >= (first - zero_point) * float(scale)) & (x <= (last - zero_point) * float(scale))]
        back = dequantize_linear(quantize_linear(inside, scale, zero_point, low=first, high=last), scale, zero_point)
        assert np.abs(back - inside).max() <= 0.5 * float(scale) + 2.0**-23 * max(high, -low)
        steps.append(float(scale))
    assert steps[1] <= 0.5 * steps[0] * (1 + 2.0**-20)


@given(st.integers(0, 9999), st.integers(3, 7))
def test_a_bit_more_halves_the_bound_of_weights(seed: int, bits: int) -> None:
    """P16, per output channel; the grid that follows the sign of the largest weight cuts those of the other sign."""
    w = np.random.default_rng(seed).standard_normal((4, 9)).astype(np.float32)
    steps = [weight_scales(w, axis=0, bits=b, sign_aware=False) for b in (bits, bits + 1)]
    assert (steps[1] <= 0.5 * steps[0] * (1 + 2.0**-20)).all()
    for b, step in zip((bits, bits + 1), steps, strict=True):
        back = quantize_weight(w, step, axis=0, bits=b) * step[:, None]
        assert (np.abs(back - w) <= 0.5 * step[:, None] + 2.0**-23 * np.abs(w).max()).all()
